"""LSTM and GRU with layer norm: whole sequences, forward and backward through time, or a step at a time.

The matrix products are NumPy's. What stands between two of them is one pass: compiled, or where nothing is compiled
that of :mod:`normlib._cells`, which has the formulas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from . import _arguments, _kernels, backends
from ._arrays import numpy_of
from ._cells import Cell, Steps
from ._layer import positive
from ._parameters import Holder

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[Any]

__all__ = ["LayerNormGRU", "LayerNormLSTM"]


class Options(TypedDict, total=False):
    """What both layers take by name."""

    bidirectional: bool
    batch_first: bool
    batch_invariant: bool
    eps: float
    dtype: DTypeLike
    rng: int | np.random.Generator | None


_DEFAULTS: Options = {
    "bidirectional": False,
    "batch_first": False,
    "batch_invariant": False,
    "eps": 1e-5,
    "dtype": np.float32,
    "rng": None,
}


def _steps() -> Any:
    """The class that computes the steps: compiled, unless a backend was chosen that does without."""
    compiled = any(name == "cython" for name, _ in backends.active().candidates["layer_norm"])
    return _kernels.steps() if compiled else Steps


def _room(cell: Cell, dtype: Any, steps: int, rows: int, kept: int) -> dict[str, Array]:
    """The arrays of a run but for h, of which some are `kept` for each step, or serve all steps."""
    n, width, statistics = cell.hidden, cell.gates * cell.hidden, rows * sum(norm.groups for norm in cell.norms)
    shapes = {"from_x": (steps, rows, width), "from_h": (kept, rows, width), "gates": (kept, rows, width)}
    if cell.lstm:
        shapes |= {"c": (steps + 1, rows, n), "squashed": (kept, rows, n)}
    if not cell.lstm or cell.carried:  # else it is the cell itself
        shapes["inner"] = (kept, rows, n)
    room = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
    return room | {name: np.empty((kept, statistics)) for name in ("mean", "rstd")}


class _Direction:
    """One direction of one layer: its parameters, by the suffix of their names, and a run over a sequence."""

    def __init__(self, cell: Cell, suffix: str, inputs: int, reverse: bool) -> None:
        self.suffix, self.reverse = suffix, reverse
        self.shapes = cell.shapes(inputs)
        self._room: dict[str, Array] = {}
        self._saved: Any = None

    def parameters(self, owner: _Recurrent) -> dict[str, Array]:
        """Those of now: they may have been replaced by others."""
        found = {}
        for name, shape in self.shapes.items():
            value = getattr(owner, name + self.suffix)
            if np.shape(value) != shape:
                expected = f"expected {shape}"
                raise ValueError(f"{type(owner).__name__}: {name}{self.suffix} has shape {np.shape(value)}, {expected}")
            found[name] = np.ascontiguousarray(value, owner.dtype)
        return found

    def room(self, owner: _Recurrent, steps: int, rows: int) -> dict[str, Array]:
        """The arrays of a run: those of the last one, if they fit."""
        kept = steps if owner.training else 1
        if not self._room or self._room["from_x"].shape[:2] != (steps, rows) or len(self._room["gates"]) != kept:
            self._room = _room(owner._cell, owner.dtype, steps, rows, kept)
        return self._room

    def around(self, name: str, states: Array) -> dict[str, Array]:
        """The states before and after each step."""
        both = (states[1:], states[:-1]) if self.reverse else (states[:-1], states[1:])
        return {f"{name}_before": both[0], f"{name}_after": both[1]}

    def times(self, steps: int) -> range:
        return range(steps - 1, -1, -1) if self.reverse else range(steps)

    def forward(
        self, owner: _Recurrent, x: Array, state: tuple[Array, ...], lengths: Array | None
    ) -> tuple[Array, tuple[Array, ...]]:
        """The outputs, and the state after all steps, of a sequence (steps, rows, inputs)."""
        (steps, rows, _), cell = x.shape, owner._cell
        arrays = dict(self.room(owner, steps, rows))
        h = np.empty((steps + 1, rows, cell.hidden), x.dtype)
        arrays |= self.around("h", h)
        if cell.lstm:
            arrays |= self.around("c", arrays.pop("c"))
            arrays.setdefault("inner", arrays["c_after"])
        if lengths is not None:
            arrays["y"] = np.empty((steps, rows, cell.hidden), x.dtype)
        weights = self.parameters(owner)
        owner._product(x, weights["weight_ih"].T, arrays["from_x"])
        first, last = (steps, 0) if self.reverse else (0, steps)
        states = [h] if len(state) == 1 else [h, self._room["c"]]
        for array, value in zip(states, state, strict=True):
            array[first] = value
        run = _steps()(cell, arrays | weights, lengths)
        before, from_h, recurrent = arrays["h_before"], arrays["from_h"], weights["weight_hh"].T
        for t in self.times(steps):
            owner._product(before[t], recurrent, from_h[t % len(from_h)])
            run.forward(t)
        self._saved = (x, arrays, lengths) if owner.training else None
        return arrays.get("y", arrays["h_after"]), tuple(array[last] for array in states)

    def backward(
        self, owner: _Recurrent, dy: Array, dstate: tuple[Array, ...]
    ) -> tuple[Array, tuple[Array, ...]]:
        """The gradients with respect to the sequence and the first state."""
        cell, (x, arrays, lengths) = owner._cell, self._saved
        self._saved = None
        weights, product = self.parameters(owner), np.zeros((1, *dstate[0].shape), dy.dtype)
        arrays = arrays | {"dy": dy, "product": product}
        arrays |= {name: value[None].copy() for name, value in zip(("dh", "dc"), dstate, strict=False)}
        run = _steps()(cell, arrays | weights, lengths)
        from_h, recurrent = arrays["from_h"], weights["weight_hh"]
        for t in reversed(self.times(len(x))):
            run.backward(t)
            owner._product(from_h[t], recurrent, product[0])
        of_x = arrays["from_h" if cell.lstm and cell.per_gate else "from_x"]
        flat = {name: a.reshape(-1, a.shape[-1]) for name, a in (("x", x), ("h", arrays["h_before"]))}
        products = {"weight_ih": (of_x, flat["x"]), "weight_hh": (from_h, flat["h"])}
        gradients = run.gradients()
        for name in self.shapes:
            if name + self.suffix not in owner._frozen:
                if name in products:
                    of, by = products[name]
                    with np.errstate(invalid="ignore"):  # of what is not finite, which not every BLAS tells
                        gradient = of.reshape(-1, of.shape[-1]).T @ by
                else:
                    gradient = gradients[name].astype(dy.dtype)
                owner._gain(name + self.suffix, gradient)
        dx = np.empty_like(x)
        owner._product(of_x, weights["weight_ih"], dx)
        arrays["dh"] += product
        return dx, tuple(arrays[name][0] for name in ("dh", "dc")[: len(dstate)])


class _Recurrent(Holder):
    """Layers, directions, states and sequences of both kinds of cells."""

    _lstm: bool
    _variants: tuple[str, ...]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        variant: str,
        cell_norm: bool,
        options: Options,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _arguments.keywords(f"{name}.__init__", options, _DEFAULTS)
        given: Any = {**_DEFAULTS, **options}
        self.input_size = positive(self, "input_size", input_size)
        self.hidden_size = positive(self, "hidden_size", hidden_size)
        self.num_layers = positive(self, "num_layers", num_layers)
        self.variant = _arguments.choice(name, "variant", variant, self._variants, "")
        self.bidirectional, self.batch_first, self.batch_invariant = (
            _arguments.flag(name, key, given[key]) for key in ("bidirectional", "batch_first", "batch_invariant")
        )
        self.eps = _arguments.epsilon(name, given["eps"])
        try:
            self.dtype = np.dtype(given["dtype"])
        except TypeError:
            self.dtype = np.dtype(object)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name}: dtype is {given['dtype']!r}, expected float32 or float64")
        cell_norm = _arguments.flag(name, "cell_norm", cell_norm)
        per_gate = variant == "per_gate"
        self._cell = Cell(self._lstm, per_gate, cell_norm, cell_norm and variant != "paper", self.hidden_size, self.eps)
        wide = self.hidden_size * (2 if self.bidirectional else 1)
        self._directions = [
            _Direction(self._cell, f"_l{layer}{suffix}", wide if layer else self.input_size, reverse=bool(suffix))
            for layer in range(self.num_layers)
            for suffix in (("", "_reverse") if self.bidirectional else ("",))
        ]
        self._names = tuple(name + run.suffix for run in self._directions for name in run.shapes)
        for run in self._directions:
            for key, shape in run.shapes.items():
                setattr(self, key + run.suffix, np.empty(shape, self.dtype))
        self.reset_parameters(given["rng"])
        self.zero_grad()
        self._rows: tuple[Any, ...] | None = None  # of the last forward: how its arrays came
        self._stream: _Stream | None = None

    def reset_parameters(self, rng: int | np.random.Generator | None = None) -> None:
        """Draw the matrices from -1 / sqrt(hidden_size) to 1 / sqrt(hidden_size); norms become 1, biases 0; in
        place."""
        generator, bound = np.random.default_rng(rng), self.hidden_size**-0.5
        for name, value in self.parameters().items():
            matrix = name.startswith("weight")
            value[...] = generator.uniform(-bound, bound, value.shape) if matrix else int("bias" not in name)

    def forward(self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None) -> tuple[Array, Any]:
        """Run over sequences; in training the layer keeps what :meth:`backward` needs, `x` and the output among it.

        Parameters
        ----------
        x : array_like
            Of shape (steps, batch, input_size), with `batch_first` (batch, steps, input_size); one sequence alone may
            be (steps, input_size). It is computed with in the dtype of the layer.
        state : ndarray or tuple of ndarray, optional
            The first state, zeros by default: for an LSTM the pair (h, c), each of shape (num_layers * directions,
            batch, hidden_size), layer by layer, forward before reverse.
        lengths : array_like of int, optional
            How many steps of each sequence count, from 0 on. Beyond, the output is 0 and the state stays, whatever `x`
            has there; the reverse direction begins at the last step that counts.

        Returns
        -------
        output : ndarray
            Of the last layer, (steps, batch, directions * hidden_size), or as `x` has its axes.
        state : ndarray or tuple of ndarray
            After the last step, as `state`.
        """
        sequence, unbatched = self._sequence(x)
        states = self._states("forward", "state", state, sequence.shape[1], unbatched)
        inside = self._lengths(lengths, *sequence.shape[:2])
        if inside is not None:
            sequence = np.where((np.arange(len(sequence))[:, None] < inside)[..., None], sequence, 0)
        self._rows = None
        last, each = [], len(self._directions) // self.num_layers
        for layer in range(self.num_layers):
            outputs = []
            for at in range(layer * each, (layer + 1) * each):
                output, final = self._directions[at].forward(self, sequence, tuple(s[at] for s in states), inside)
                outputs.append(output)
                last.append(final)
            sequence = outputs[0] if each == 1 else np.concatenate(outputs, axis=2)
        if self.training:
            self._rows = (*sequence.shape[:2], unbatched)
        return self._back_to_given(sequence, unbatched), self._joined(last, unbatched)

    def __call__(self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None) -> tuple[Array, Any]:
        """As :meth:`forward`."""
        return self.forward(x, state, lengths=lengths)

    def backward(self, doutput: ArrayLike, dstate: Any = None) -> tuple[Array, Any]:
        """Go back through time; adds to the gradients of parameters that are not frozen.

        One backward belongs to one forward in training: RuntimeError when there was none, or when it has been used.

        Parameters
        ----------
        doutput : array_like
            The gradient with respect to the output.
        dstate : ndarray or tuple of ndarray, optional
            The gradient that reaches the last state from elsewhere: from the next piece of a longer sequence. Without
            it, pieces of a sequence whose state is carried are truncated backpropagation through time.

        Returns
        -------
        dx : ndarray
            The gradient with respect to `x`.
        dstate : ndarray or tuple of ndarray
            The gradient with respect to the first state.
        """
        name = f"{type(self).__name__}.backward"
        if self._rows is None:
            raise RuntimeError(f"{name}: there is no forward to go back through; call forward(x) first, in training")
        steps, rows, unbatched = self._rows
        each, n = len(self._directions) // self.num_layers, self.hidden_size
        axes = (steps,) if unbatched else (rows, steps) if self.batch_first else (steps, rows)
        shape = (*axes, each * n)
        dy = self._array("backward", "doutput", doutput)
        if dy.shape != shape:
            raise ValueError(f"{name}: doutput has shape {dy.shape}, expected {shape}, that of the output")
        dy = dy[:, None] if unbatched else dy.swapaxes(0, 1) if self.batch_first else dy
        dstates = self._states("backward", "dstate", dstate, rows, unbatched)
        self._rows, first = None, []
        for layer in reversed(range(self.num_layers)):
            total: Any = 0
            for k in reversed(range(each)):
                at = layer * each + k
                part = np.ascontiguousarray(dy[..., k * n : (k + 1) * n], self.dtype)
                dx, final = self._directions[at].backward(self, part, tuple(s[at] for s in dstates))
                first.append(final)
                total = dx if k == each - 1 else total + dx
            dy = total
        return self._back_to_given(dy, unbatched), self._joined(first[::-1], unbatched)

    def step(self, x: ArrayLike, state: Any = None) -> tuple[Array, Any]:
        """One step of time, for streams; nothing is kept for :meth:`backward`.

        The arrays that come back are the layer's own, and the next step writes to them. After the first step nothing is
        allocated, but for an `x` or `state` of another dtype.

        Parameters
        ----------
        x : array_like
            Of shape (batch, input_size), or (input_size,).
        state : ndarray or tuple of ndarray, optional
            That before the step, as in :meth:`forward`; zeros by default, which begins a new sequence.

        Returns
        -------
        output : ndarray
            Of the last layer, (batch, hidden_size) or (hidden_size,).
        state : ndarray or tuple of ndarray
            After the step.
        """
        name = f"{type(self).__name__}.step"
        if self.bidirectional:
            raise ValueError(f"{name}: the layer is bidirectional, expected one that needs nothing of what comes later")
        row = self._array("step", "x", x, 1)
        if row.ndim > 2 or row.shape[-1] != self.input_size:
            raise ValueError(f"{name}: x has shape {row.shape}, expected (batch, {self.input_size})")
        unbatched = row.ndim == 1
        rows = row[None] if unbatched else row
        if self._stream is None or not self._stream.fits(self, len(rows)):
            self._stream = _Stream(self, len(rows))
        stream = self._stream
        if state is not None and state is stream.handed:  # the everyday way
            states = stream.after
        else:
            states = self._states("step", "state", state, len(rows), unbatched, stream.zeros)
        output = stream.step(self, rows, states)
        if stream.handed is None or unbatched != stream.unbatched:
            last = tuple(s[:, 0] for s in stream.after) if unbatched else stream.after
            stream.handed, stream.unbatched = last if self._lstm else last[0], unbatched
        return output[0] if unbatched else output, stream.handed

    # -- arguments and results ----

    def _array(self, method: str, name: str, value: Any, ndim: int = 2) -> Array:
        if type(value) is np.ndarray and value.dtype == self.dtype and value.flags.aligned and value.ndim >= ndim:
            return value
        place = f"{type(self).__name__}.{method}"
        found: Array = _arguments.array(place, numpy_of(place, name, value), name, ndim)
        return found.astype(self.dtype, copy=False)

    def _sequence(self, x: ArrayLike) -> tuple[Array, bool]:
        """`x` as (steps, rows, inputs), and whether it came without the axis of rows."""
        array = self._array("forward", "x", x)
        if array.ndim > 3 or array.shape[-1] != self.input_size:
            axes = "batch, steps" if self.batch_first else "steps, batch"
            expected = f"({axes}, {self.input_size}) or (steps, {self.input_size})"
            raise ValueError(f"{type(self).__name__}.forward: x has shape {array.shape}, expected {expected}")
        unbatched = array.ndim == 2
        array = array[:, None] if unbatched else array.swapaxes(0, 1) if self.batch_first else array
        return np.ascontiguousarray(array), unbatched

    def _states(
        self, method: str, name: str, state: Any, rows: int, unbatched: bool, zeros: tuple[Array, ...] | None = None
    ) -> tuple[Array, ...]:
        """A state, or its gradient, as arrays (layers * directions, rows, hidden_size); `zeros`: what None stands
        for."""
        place, count, n = f"{type(self).__name__}.{method}", len(self._directions), self.hidden_size
        if state is None:
            return zeros or (np.zeros((count, rows, n), self.dtype),) * (2 if self._lstm else 1)
        if self._lstm and not (isinstance(state, (tuple, list)) and len(state) == 2):
            raise TypeError(f"{place}: {name} is a {type(state).__name__}, expected a pair of arrays (h, c)")
        shape = (count, n) if unbatched else (count, rows, n)
        parts = dict(zip(("h of ", "c of "), state, strict=True)) if self._lstm else {"": state}
        arrays = {of: self._array(method, of + name, part) for of, part in parts.items()}
        for of, array in arrays.items():
            if array.shape != shape:
                raise ValueError(f"{place}: {of}{name} has shape {array.shape}, expected {shape}")
        return tuple(array[:, None] if unbatched else array for array in arrays.values())

    def _lengths(self, lengths: ArrayLike | None, steps: int, rows: int) -> Array | None:
        if lengths is None:
            return None
        place = f"{type(self).__name__}.forward"
        array: Array = _arguments.convert(place, "lengths", numpy_of(place, "lengths", lengths))
        if array.dtype.kind not in "iu":
            raise TypeError(f"{place}: lengths has dtype {array.dtype}, expected integers")
        if array.shape != (rows,):
            raise ValueError(f"{place}: lengths has shape {array.shape}, expected ({rows},), one for each sequence")
        if ((array < 0) | (array > steps)).any():
            raise ValueError(f"{place}: lengths go from {array.min()} to {array.max()}, expected 0 to {steps}")
        return np.ascontiguousarray(array, np.int64)

    def _back_to_given(self, array: Array, unbatched: bool) -> Array:
        return array[:, 0] if unbatched else array.swapaxes(0, 1) if self.batch_first else array

    def _joined(self, states: list[tuple[Array, ...]], unbatched: bool) -> Any:
        """The states of all layers and directions."""
        arrays = tuple(np.stack(parts) for parts in zip(*states, strict=True))
        arrays = tuple(array[:, 0] for array in arrays) if unbatched else arrays
        return arrays if self._lstm else arrays[0]

    def _product(self, a: Array, b: Array, out: Array) -> None:
        """out = a @ b; batch invariant: a row alone at a time, so that its result depends on nothing else."""
        if a.ndim > 2:
            a, out = a.reshape(-1, a.shape[-1]), out.reshape(-1, out.shape[-1])
        if self.batch_invariant:
            a, out = a[:, None], out[:, None]
        np.matmul(a, b, out=out)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the stream, which holds addresses."""
        return vars(self) | {"_stream": None}

    def __repr__(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        parts += [f"variant={self.variant!r}"]
        parts += ["cell_norm=False"] if self._lstm and not self._cell.cell_norm else []
        parts += [f"{name}=True" for name in ("bidirectional", "batch_first", "batch_invariant") if getattr(self, name)]
        parts += [f"eps={self.eps:g}"] + ([] if self.dtype == np.float32 else [f"dtype={self.dtype.name}"])
        text = f"{type(self).__name__}({', '.join(parts)})"
        return f"{text} frozen: {', '.join(sorted(self._frozen))}" if self._frozen else text


class _Stream:
    """The arrays of single steps of so many rows."""

    def __init__(self, owner: _Recurrent, rows: int) -> None:
        cell, count = owner._cell, owner.num_layers
        self.rows = rows
        self.states = [np.zeros((2, count, rows, cell.hidden), owner.dtype) for _ in range(2 if cell.lstm else 1)]
        self.zeros = tuple(np.zeros_like(states[0]) for states in self.states)
        self.after = tuple(states[1] for states in self.states)
        self.handed: Any = None  # `after` as it went to the user: without the axis of rows where `unbatched`
        self.unbatched = False
        self.layers: list[tuple[Any, ...]] = []
        self.held: list[Array] = []  # where a parameter had to be converted, it is not the layer's
        for layer, direction in enumerate(owner._directions):
            weights, arrays = direction.parameters(owner), _room(cell, owner.dtype, 1, rows, 1)
            self.held += weights.values()
            arrays.pop("c", None)
            for name, states in zip(("h", "c"), self.states, strict=False):
                arrays |= {f"{name}_before": states[:1, layer], f"{name}_after": states[1:, layer]}
            if cell.lstm:
                arrays.setdefault("inner", arrays["c_after"])
            run = _steps()(cell, arrays | weights)
            products = weights["weight_ih"].T, arrays["from_x"][0], weights["weight_hh"].T, arrays["from_h"][0]
            self.layers.append((run, *products, arrays["h_before"][0], arrays["h_after"][0]))

    def fits(self, owner: _Recurrent, rows: int) -> bool:
        """Whether these are the arrays for so many rows and the parameters of now."""
        parameters = owner.parameters().values()
        same = all(a is b for a, b in zip(self.held, parameters, strict=True))
        return rows == self.rows and same and type(self.layers[0][0]) is _steps()

    def step(self, owner: _Recurrent, x: Array, states: tuple[Array, ...]) -> Array:
        """The output; the states are those of `after`."""
        for array, value in zip(self.states, states, strict=True):
            np.copyto(array[0], value)
        for run, inputs, from_x, recurrent, from_h, before, after in self.layers:
            owner._product(x, inputs, from_x)
            owner._product(before, recurrent, from_h)
            run.forward(0)
            x = after
        return x


class LayerNormLSTM(_Recurrent):
    """LSTM with layer norm, over whole sequences or a step at a time.

    With ``LN(v) = (v - mean) / sqrt(var + eps)``, gates in the order i, f, g, o and ``s`` the logistic function, a step
    is

    - `variant` "paper" and "carried": ``u = LN(W_ih x) * norm_ih + LN(W_hh h) * norm_hh + bias``, each norm over the
      four gates together; "per_gate": ``u = LN(W_ih x + W_hh h) * norm + bias``, a norm for each gate;
    - ``c' = s(f) * c + s(i) * tanh(g)``; with `cell_norm` ``v = LN(c') * norm_cell_weight + norm_cell_bias``, else v =
      c';
    - ``h = s(o) * tanh(v)``; the cell that goes on to the next step is c' in "paper", v in the others.

    The paper has a bias in each norm and one beside: they only occur as their sum, which is `bias`.

    Parameters
    ----------
    input_size, hidden_size : int
        The sizes of an input and of a state.
    num_layers : int
        How many layers stand on each other.
    variant : str
        "paper" (Ba et al.), "carried" (TensorFlow Addons, custom_lstms of torch) or "per_gate" (LayerNormBasicLSTMCell;
        with ``cell_norm=False`` that of TensorFlow Lite).
    cell_norm : bool
        Whether the cell is normalized.
    bidirectional : bool
        Whether each layer runs in both directions; outputs stand beside each other.
    batch_first : bool
        Whether sequences are (batch, steps, size), not (steps, batch, size).
    batch_invariant : bool
        Whether matrix products take each row alone: then a sequence has the same bits in every batch, with other
        lengths, and step by step. NumPy's product of several rows rounds otherwise than that of one.
    eps : float
        Added to variances.
    dtype : dtype
        float32 or float64: of parameters, computation and results.
    rng : int or numpy.random.Generator, optional
        What the matrices are drawn with.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450, equations 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> lstm = normlib.LayerNormLSTM(3, 4, rng=0)
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> output, (h, c) = lstm(x)
    >>> output.shape, h.shape, bool((output[-1] == h[0]).all())
    ((5, 2, 4), (1, 2, 4), True)
    >>> dx, (dh, dc) = lstm.backward(np.ones_like(output))
    >>> dx.shape, lstm.gradients()["weight_hh_l0"].shape
    ((5, 2, 3), (16, 4))
    >>> step, state = lstm.step(x[0])
    >>> np.allclose(step, output[0])
    True
    """

    _lstm = True
    _variants = ("paper", "carried", "per_gate")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        variant: str = "paper",
        cell_norm: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, variant, cell_norm, options)


class LayerNormGRU(_Recurrent):
    """GRU with layer norm, over whole sequences or a step at a time.

    With ``LN(v) = (v - mean) / sqrt(var + eps)``, gates in the order r, z, n and ``s`` the logistic function, a step is

    - `variant` "paper": ``x' = LN(W_ih x) * norm_ih + bias`` and ``h' = LN(W_hh h) * norm_hh``, where r and z share a
      norm and n has its own; ``r, z = s(x' + h')``; ``n = tanh(x' + r * (h' + bias_hn))``;
    - "per_gate": ``r, z = s(LN(W_ih x + W_hh h) * norm + bias)``, ``n = tanh(LN(W_ih x + r * (W_hh h)) * norm +
      bias)``, a norm for each gate, on the sum;
    - ``h = (1 - z) * n + z * h``, as in torch; in the paper z and 1 - z change places.

    Parameters
    ----------
    input_size, hidden_size : int
        The sizes of an input and of a state.
    num_layers : int
        How many layers stand on each other.
    variant : str
        "paper" (Ba et al., supplementary) or "per_gate".
    bidirectional, batch_first, batch_invariant, eps, dtype, rng : optional
        As in :class:`LayerNormLSTM`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450, supplementary material.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> gru = normlib.LayerNormGRU(3, 4, bidirectional=True, rng=0)
    >>> output, h = gru(np.ones((5, 2, 3), np.float32), lengths=[5, 2])
    >>> output.shape, h.shape, output[2:, 1].any()
    ((5, 2, 8), (2, 2, 4), np.False_)
    """

    _lstm = False
    _variants = ("paper", "per_gate")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        variant: str = "paper",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, variant, not self._lstm, options)
