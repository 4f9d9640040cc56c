"""The five norms as layers: parameters, their gradients and running statistics over :mod:`normlib.ops`.

A layer holds what a function cannot: arrays named as in ``torch.nn`` (so that a checkpoint's arrays load as
they are), the statistics of the last ``forward`` for one ``backward``, and which parameters are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, overload

import numpy as np

from . import _arguments, ops
from ._arrays import as_array, numpy_of
from .description import ACTIVATIONS, GATE_ACTIVATION

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    _D = TypeVar("_D", bound=np.floating[Any])  # an array of floats gives an array of the same
    _F = TypeVar("_F", bound=Callable[..., None])

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


def _positive(layer: object, name: str, value: Any) -> int:
    """``value`` as a positive int, or an error that names the layer and the argument."""
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"{type(layer).__name__}: {name} is {value!r}, expected a positive int") from None
    if number < 1:
        raise ValueError(f"{type(layer).__name__}: {name} is {number}, expected a positive int")
    return number


class _Fused(TypedDict, total=False):
    """What a layer computes in the same pass in each call; the arrays for it come with the call."""

    activation: str | None
    negative_slope: float | None
    gate_activation: str | None


class _Beside(TypedDict, total=False):
    """What comes with a call of a layer, but for the residual, with which its result is another."""

    add: ArrayLike | None
    gate: ArrayLike | None
    gate_first: bool
    where: ArrayLike | None


def _fusible(init: _F) -> _F:
    """Shows in the signature of a constructor what `**fused` stands for."""
    shown: _F = _arguments.by_name(init, _Fused.__annotations__)
    return shown


_cast = _arguments.quietly(np.ndarray.astype)


def _sum_to(terms: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The sum over the axes along which an array of `shape` was broadcast."""
    leading = terms.ndim - len(shape)
    axes = [axis for axis, n in enumerate(terms.shape) if axis < leading or shape[axis - leading] < n]
    summed: NDArray[Any] = terms.sum(axis=tuple(axes), keepdims=True, dtype=np.float64).reshape(shape)
    return summed


# What the repr of a layer says beside sizes and eps: where the layer has it, and where it is not as usual.
_ALWAYS_SHOWN = ("momentum", "affine", "track_running_stats")
_USUAL = {
    **{"elementwise_affine": True, "channel_axis": 1, "unit_offset": False, "num_groups": 1},
    **dict.fromkeys(_Fused.__annotations__),
}


class _Layer:
    """What all layers share: parameters and buffers by name, gradients, freezing, state, modes."""

    _op: ops.Op
    _buffers: tuple[str, ...] = ()
    eps: float
    unit_offset = False  # whether the weight is 1 + what is stored

    def __init__(
        self,
        shape: tuple[int, ...],
        eps: float,
        weight: bool,
        bias: bool,
        dtype: DTypeLike,
        fused: _Fused,
    ) -> None:
        name, known = type(self).__name__, _arguments.DTYPES
        for key in fused:
            if key not in _Fused.__annotations__:
                raise TypeError(f"{name}.__init__() got an unexpected keyword argument {key!r}")
        try:
            self.dtype = np.dtype(dtype)
        except TypeError as error:
            raise TypeError(f"{name}: dtype is {dtype!r}, expected one of {', '.join(known)}") from error
        if self.dtype.name not in known:
            raise TypeError(f"{name}: dtype is {self.dtype}, expected one of {', '.join(known)}")
        self._shape = shape
        self.eps = _arguments.epsilon(name, eps)
        activation, negative_slope = fused.get("activation"), fused.get("negative_slope")
        if activation is not None:
            _arguments.choice(name, "activation", activation, ACTIVATIONS)
        if negative_slope is not None:
            negative_slope = _arguments.slope(name, negative_slope, activation)
        gate_activation = fused.get("gate_activation")
        if gate_activation is not None:
            _arguments.choice(name, "gate_activation", gate_activation, GATE_ACTIVATION.choices)
        self.activation, self.negative_slope, self.gate_activation = activation, negative_slope, gate_activation
        self.training = True
        one = int(not self.unit_offset)
        self.weight: NDArray[Any] | None = np.full(shape, one, self.dtype) if weight else None
        self.bias: NDArray[Any] | None = np.zeros(shape, self.dtype) if weight and bias else None
        self.grad_weight: NDArray[Any] | None = None
        self.grad_bias: NDArray[Any] | None = None
        self._frozen: set[str] = set()
        self._saved: dict[str, Any] | None = None

    # -- one step ----

    @overload
    def forward(self, x: NDArray[_D], **beside: Unpack[_Beside]) -> NDArray[_D]: ...
    @overload
    def forward(self, x: ArrayLike, **beside: Unpack[_Beside]) -> NDArray[Any]: ...
    @overload
    def forward(
        self, x: NDArray[_D], *, residual: ArrayLike, **beside: Unpack[_Beside]
    ) -> tuple[NDArray[_D], NDArray[_D]]: ...
    @overload
    def forward(
        self, x: ArrayLike, *, residual: ArrayLike, **beside: Unpack[_Beside]
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def forward(
        self,
        x: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        add: ArrayLike | None = None,
        gate: ArrayLike | None = None,
        gate_first: bool = False,
        where: ArrayLike | None = None,
    ) -> Any:
        """Normalize `x`: ``activation(norm(x + residual) + add) * gate_activation(gate)``, in one pass.

        The layer keeps references for :meth:`backward`, to `x` (with a residual to the sum instead), to `add` and to
        `gate`: do not change these before.

        Parameters
        ----------
        x : array_like
            What to normalize.
        residual : array_like, optional
            Added to `x` before; of its shape and dtype.
        add : array_like, optional
            Added after the affine step; of the shape and dtype of `x`.
        gate : array_like, optional
            The result times its activation, silu by default; of the shape and dtype of `x`.
        gate_first : bool
            Whether it is `x`, or its sum with the residual, that is gated, before the norm, as in Mamba 2.
        where : array_like, optional
            Which elements take part: booleans that broadcast against `x`. The others come out as 0.

        Returns
        -------
        y : ndarray
            The result.
        sum : ndarray
            Only with `residual`: ``x + residual``, for the next residual.

        Examples
        --------
        >>> import normlib
        >>> norm = normlib.LayerNorm(2, activation="relu")
        >>> norm([[1.0, 3.0]], residual=[[2.0, 4.0]], add=[[2.0, 0.0]])
        (array([[1.00000125, 0.99999875]]), array([[3., 7.]]))
        """
        return self._step(x, {}, residual=residual, add=add, gate=gate, gate_first=gate_first, where=where)

    def modulated(
        self,
        x: ArrayLike,
        scale: ArrayLike,
        shift: ArrayLike | None = None,
        *,
        residual: ArrayLike | None = None,
        **beside: Unpack[_Beside],
    ) -> Any:
        """As :meth:`forward`, with ``norm(x) * (1 + scale) + shift`` in the place of ``norm(x)``, in one pass.

        A network computes `scale` and `shift` from a condition: the time step and class in a diffusion transformer
        (adaLN), the style of an image (AdaIN), the class of a sample (conditional batch norm). :meth:`backward` returns
        their gradients after the others.

        Parameters
        ----------
        x : array_like
            What to normalize.
        scale, shift : array_like
            Of the shape of the weight, or with leading axes that broadcast to the axes of `x` that are not normalized
            over: ``(N, 1, D)`` for an `x` of shape ``(N, T, D)``; ``(N, C)`` for channels. An RMSNorm takes no shift.
        residual, add, gate, gate_first, where : optional
            As in :meth:`forward`.

        Returns
        -------
        y : ndarray
            The result.
        sum : ndarray
            Only with `residual`: ``x + residual``.

        References
        ----------
        Peebles and Xie, "Scalable Diffusion Models with Transformers", 2022, arXiv:2212.09748; Huang and Belongie,
        "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", 2017, arXiv:1703.06868.

        Examples
        --------
        >>> import numpy as np
        >>> import normlib
        >>> norm = normlib.LayerNorm(2, elementwise_affine=False)
        >>> x, scale, shift = np.ones((3, 4, 2)), np.zeros((3, 1, 2)), np.full((3, 1, 2), 5.0)
        >>> y = norm.modulated(x, scale, shift)
        >>> dx, dscale, dshift = norm.backward(np.ones_like(y))
        >>> dshift.shape, dshift[0, 0].tolist()
        ((3, 1, 2), [4.0, 4.0])
        """
        name = f"{type(self).__name__}.modulated"
        given = {"scale": scale} if shift is None else {"scale": scale, "shift": shift}
        modulation = {key: numpy_of(name, key, value) for key, value in given.items()}
        if shift is not None and "bias" not in self._op.parameters:
            raise ValueError(f"{name}: shift is given, expected None: this norm has no bias")
        return self._step(x, modulation, residual=residual, **beside)

    def _step(
        self,
        x: ArrayLike,
        modulation: dict[str, Any],
        *,
        residual: ArrayLike | None,
        add: ArrayLike | None = None,
        gate: ArrayLike | None = None,
        gate_first: bool = False,
        where: ArrayLike | None = None,
    ) -> Any:
        name = type(self).__name__
        array: NDArray[Any] = as_array(name, "x", x)
        self._check(array)
        fused: dict[str, Any] = {}
        if self.activation is not None:
            fused = {"activation": self.activation, "negative_slope": self.negative_slope}
        if add is not None or residual is not None or gate is not None:
            fused |= self._beside(name, array, add=add, residual=residual, gate=gate)
        if gate is not None or gate_first:
            fused |= {"gate_activation": self.gate_activation, "gate_first": gate_first}
        if where is not None:
            fused["where"] = _arguments.mask(name, "where", numpy_of(name, "where", where), array)
        self._saved = None
        parameters = self._parameters(array, modulation)
        results, saved = self._forward(array, **parameters, **fused)
        if residual is not None:
            array = results[1]
            del fused["residual"]
        self._saved = {"x": array, **fused, **saved, "modulation": modulation}
        return results[0] if residual is None else results

    if TYPE_CHECKING:
        __call__ = forward
    else:

        def __call__(self, x, **beside):
            """As :meth:`forward`, also of a subclass."""
            return self.forward(x, **beside)

    # With `add` or `gate` it is a tuple, of which no type can tell: in types it is an array, which unpacks as one.
    @overload
    def backward(self, dy: NDArray[_D], dsum: ArrayLike | None = None) -> NDArray[_D]: ...
    @overload
    def backward(self, dy: ArrayLike, dsum: ArrayLike | None = None) -> NDArray[Any]: ...
    def backward(self, dy: ArrayLike, dsum: ArrayLike | None = None) -> Any:
        """The gradient with respect to the last `x`; adds to the gradients of parameters that are not frozen.

        One backward belongs to one forward: RuntimeError when there was none, or when it has been used.

        Parameters
        ----------
        dy : array_like
            The gradient with respect to `y`.
        dsum : array_like, optional
            The gradient that reaches the sum of `x` and residual from elsewhere, which is added to `dx`.

        Returns
        -------
        dx : ndarray
            The gradient with respect to `x`, and so to its residual, which has the same.
        dadd : ndarray
            Only where forward was given `add`: the gradient with respect to it.
        dgate : ndarray
            Only where forward was given `gate`: the gradient with respect to it.
        dscale, dshift : ndarray
            Only after :meth:`modulated`: the gradients with respect to its arguments, in their shapes and dtypes.

        Examples
        --------
        >>> import numpy as np
        >>> import normlib
        >>> norm = normlib.RMSNorm(2, activation="relu")
        >>> y = norm(np.array([[3.0, 4.0]]), add=np.array([[0.0, -9.0]]))
        >>> dx, dadd = norm.backward(np.ones_like(y))
        >>> dx.round(4), dadd
        (array([[ 0.181 , -0.1358]]), array([[1., 0.]]))
        """
        saved = self._saved
        if saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward: there is no forward to go back through; "
                "call forward(x) first, once for every backward(dy)"
            )
        x, wanted, modulation = saved["x"], self.requires_grad, saved["modulation"]
        rest = {name: value for name, value in saved.items() if name != "modulation"}
        options = {**self._options(), **rest, "weight_grads": any(wanted.values()) or bool(modulation)}
        parameters = self._parameters(x, modulation)
        if dsum is not None:
            options |= self._beside(f"{type(self).__name__}.backward", x, dsum=dsum)
        if (saved.keys() & {"activation", "gate"} or modulation) and parameters.get("bias") is not None:
            options["bias"] = parameters["bias"]
        dx, *more = self._backward(dy, weight=parameters["weight"], **options)
        more, beside = more[: len(self._op.parameters)], more[len(self._op.parameters) :]
        gradients = dict(zip(self._op.parameters, more, strict=True))
        if modulation:
            beside += self._of_modulation(x, modulation, gradients)
        result = (dx, *beside) if beside else dx
        for name, gradient in gradients.items():
            if wanted.get(name):
                if gradient.dtype != self.dtype:  # that of a weight to which 1 was added
                    gradient = _cast(gradient, self.dtype)
                before = getattr(self, f"grad_{name}")
                setattr(self, f"grad_{name}", gradient if before is None else before + gradient)
        self._saved = None
        return result

    def _beside(self, place: str, x: NDArray[Any], **arrays: ArrayLike | None) -> dict[str, Any]:
        """Those of the arrays that are given, of the shape and dtype of `x`."""
        given = {name: numpy_of(place, name, array) for name, array in arrays.items() if array is not None}
        like = _arguments.array(place, x)
        return {name: _arguments.like_x(place, name, array, like) for name, array in given.items()}

    def _weight(self, x: NDArray[Any]) -> NDArray[Any] | None:
        """The weight by which the normalized values are multiplied, the 1 added in at least single precision."""
        if not self.unit_offset or self.weight is None:
            return self.weight
        single = np.promote_types(self.dtype, np.float32)  # float16 and bfloat16 have nothing else in common
        return np.add(self.weight, 1, dtype=np.promote_types(single, x.dtype))

    def _parameters(self, x: NDArray[Any], modulation: dict[str, Any]) -> dict[str, Any]:
        """Weight and bias of the function: (norm * weight + bias) * (1 + scale) + shift is one affine step."""
        parameters = {"weight": self._weight(x), "bias": self.bias}
        if modulation:
            factor, shift = self._factor(x, modulation), modulation.get("shift")
            own = None if self.bias is None else self.bias * factor
            parameters = {
                "weight": factor if parameters["weight"] is None else parameters["weight"] * factor,
                "bias": shift if own is None else own if shift is None else np.add(own, shift, dtype=own.dtype),
            }
        return {name: parameters[name] for name in self._op.parameters}

    def _factor(self, x: NDArray[Any], modulation: dict[str, Any]) -> NDArray[Any]:
        """1 + scale, in at least single precision."""
        single = np.float64 if np.float64 in (self.dtype, x.dtype) else np.float32
        factor: NDArray[Any] = np.add(modulation["scale"], 1, dtype=single)
        return factor

    def _of_modulation(
        self, x: NDArray[Any], modulation: dict[str, Any], gradients: dict[str, Any]
    ) -> list[NDArray[Any]]:
        """The gradients of scale and shift; those of the parameters of the affine step, in their place, become those of
        the layer's own."""
        factor, scale, shift = self._factor(x, modulation), modulation["scale"], modulation.get("shift")
        own: dict[str, Any] = {"weight": self._weight(x), "bias": self.bias}
        dbias: Any = gradients.get("bias")
        dscale: Any = 0
        for name, gradient in gradients.items():
            if own[name] is not None:
                dscale = dscale + _sum_to(gradient * own[name], np.shape(scale))
                gradients[name] = _sum_to(gradient * factor, own[name].shape)
            elif name == "weight":
                dscale = dscale + _sum_to(gradient, np.shape(scale))
        found = [_cast(dscale, np.asarray(scale).dtype)]
        if shift is not None:
            found.append(_cast(_sum_to(dbias, np.shape(shift)), np.asarray(shift).dtype))
        return found

    def _forward(self, x: NDArray[Any], **more: Any) -> tuple[tuple[NDArray[Any], ...], dict[str, Any]]:
        """The results, and what the backward function needs besides `x`."""
        options = {**self._options(), **more, "eps": self.eps, "return_stats": True}
        results = self._op.forward(x, **options)
        names = self._op.statistics
        return results[: -len(names)], dict(zip(names, results[-len(names) :], strict=True))

    def _backward(self, dy: ArrayLike, x: NDArray[Any], **more: Any) -> tuple[Any, ...]:
        """The gradients."""
        return self._op.backward(dy, x, **more)

    def _options(self) -> dict[str, Any]:
        """The keywords that forward and backward function share."""
        raise NotImplementedError

    def _check(self, x: NDArray[Any]) -> None:
        raise NotImplementedError

    # -- parameters and their gradients ----

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The layer's parameters by name: the arrays themselves, for an optimizer to update in place."""
        return self._held("weight", "bias")

    def gradients(self) -> dict[str, NDArray[Any]]:
        """The gradients that :meth:`backward` left, by the name of the parameter; frozen ones are absent."""
        named = {name: getattr(self, f"grad_{name}") for name in self.parameters()}
        return {name: gradient for name, gradient in named.items() if gradient is not None}

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next :meth:`backward` starts new ones."""
        self.grad_weight = self.grad_bias = None

    @property
    def requires_grad(self) -> dict[str, bool]:
        """Which parameters get gradients; change it with :meth:`freeze` and :meth:`unfreeze`."""
        return {name: name not in self._frozen for name in self.parameters()}

    def freeze(self, *names: str) -> Self:
        """Give the named parameters (by default all) no gradients; with all frozen the work is skipped."""
        for name in self._named(names):
            self._frozen.add(name)
            setattr(self, f"grad_{name}", None)
        return self

    def unfreeze(self, *names: str) -> Self:
        """Undo :meth:`freeze` for the named parameters, or for all of them."""
        self._frozen.difference_update(self._named(names))
        return self

    def _named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(self.parameters())
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__}: no parameter {name!r}, there are: {', '.join(known) or 'none'}"
                )
        return names or known

    def reset_parameters(self) -> None:
        """Set the weight to 1 (to 0 where 1 is added to it) and the bias to 0, in place."""
        for name, value in self.parameters().items():
            value[...] = 1 if name == "weight" and not self.unit_offset else 0

    # -- modes and state ----

    def train(self, mode: bool = True) -> Self:
        """Use the statistics of the input and update the running ones, if any; returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Use the running statistics, where the layer has any; returns the layer."""
        return self.train(False)

    def _held(self, *names: str) -> dict[str, NDArray[Any]]:
        """The arrays of these names, but for those that are None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _state(self, prefix: str) -> dict[str, NDArray[Any]]:
        return {prefix + name: value for name, value in self._held("weight", "bias", *self._buffers).items()}

    def state_dict(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """A copy of parameters and running statistics under torch's names, each behind `prefix`."""
        return {name: value.copy() for name, value in self._state(prefix).items()}

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True, prefix: str = ""
    ) -> tuple[list[str], list[str]]:
        """Copy arrays by name into the layer, in the layer's dtype, in place; on an error none of them.

        Parameters
        ----------
        state : mapping of str to array_like
            For example the result of :meth:`state_dict`, or the arrays of a checkpoint.
        strict : bool
            Whether a name that is missing, or that the layer does not know, is an error.
        prefix : str
            Only the names that start with `prefix` are looked at: ``"encoder.layer.0.output.LayerNorm."``
            picks one layer out of a checkpoint.

        Returns
        -------
        missing, unexpected : list of str
            What ``strict=True`` would have called an error.
        """
        own = self._state(prefix)
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name.startswith(prefix) and name not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        place = f"{type(self).__name__}.load_state_dict"
        arrays = {name: as_array(place, name, state[name]) for name in own if name in state}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                problems.append(f"{name} has shape {array.shape}, expected {own[name].shape}")
            elif array.dtype.kind not in "fiub" and array.dtype.name not in _arguments.DTYPES:
                problems.append(f"{name} has dtype {array.dtype}, expected real numbers")
        if problems:
            raise ValueError(f"{place}: {'; '.join(problems)}")
        cast = {name: array.astype(own[name].dtype) for name, array in arrays.items()}  # may raise: all before one
        for name, array in cast.items():
            own[name][...] = array
        return missing, unexpected

    def __repr__(self) -> str:
        own = vars(self)
        size = self._shape if len(self._shape) > 1 else self._shape[0]
        first = own.get("num_groups") if "affine" in own else None
        parts = [str(n) for n in (first, size) if n is not None]
        parts.append(f"eps={self.eps:g}")
        parts += [f"{name}={own[name]}" for name in _ALWAYS_SHOWN if name in own]
        usual = _USUAL if first is None else {**_USUAL, "num_groups": first}
        parts += [f"{name}={own[name]!r}" for name, value in usual.items() if own.get(name, value) != value]
        if self.weight is not None and self.bias is None and "bias" in self._op.parameters:
            parts.append("bias=False")
        if self.dtype != np.float32:
            parts.append(f"dtype={self.dtype.name}")
        text = f"{type(self).__name__}({', '.join(parts)})"
        return f"{text} frozen: {', '.join(sorted(self._frozen))}" if self._frozen else text


class _TrailingNorm(_Layer):
    """Normalizes over the trailing axes that `normalized_shape` names."""

    @_fusible
    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[_Fused],
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, Iterable) else (normalized_shape,)
        self.normalized_shape = tuple(_positive(self, "a size in normalized_shape", size) for size in sizes)
        if not self.normalized_shape:
            raise ValueError(f"{type(self).__name__}: normalized_shape is (), expected at least one size")
        self.elementwise_affine = elementwise_affine
        super().__init__(self.normalized_shape, eps, elementwise_affine, bias, dtype, fused)
        self._axis = tuple(range(-len(self.normalized_shape), 0))

    def _options(self) -> dict[str, Any]:
        return {"axis": self._axis}

    def _check(self, x: NDArray[Any]) -> None:
        if x.shape[-len(self._axis) :] != self.normalized_shape:
            expected = "(..., " + ", ".join(map(str, self.normalized_shape)) + ")"
            raise ValueError(f"{type(self).__name__}: x has shape {x.shape}, expected {expected}")


class LayerNorm(_TrailingNorm):
    """Layer normalization over the trailing axes: ``y = (x - mean) / sqrt(var + eps) * weight + bias``.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The sizes of the trailing axes that are normalized together.
    eps : float
        Added to the variance.
    elementwise_affine, bias : bool
        Whether there is a weight, and a bias with it.
    dtype : dtype
        Of the parameters and their gradients, whatever `x` is in.
    activation : str, optional
        What comes last: "relu", "leaky_relu", "silu", "gelu" (exact), "gelu_tanh" or "sigmoid".
    negative_slope : float, optional
        That of leaky_relu below 0; 0.01 by default.
    gate_activation : str, optional
        That of a gate; silu by default.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> norm = normlib.LayerNorm(3)
    >>> y = norm(np.array([[1, 2, 3]], dtype=np.float32))
    >>> y.round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    >>> dx = norm.backward(np.ones_like(y))
    >>> norm.grad_bias.tolist()
    [1.0, 1.0, 1.0]
    >>> norm
    LayerNorm(3, eps=1e-05)
    """

    _op = ops.OPS["layer_norm"]


class RMSNorm(_TrailingNorm):
    """Root-mean-square normalization over the trailing axes: ``y = x / sqrt(mean(x**2) + eps) * weight``.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The sizes of the trailing axes that are normalized together.
    eps : float
        Added to the mean square. (``torch.nn.RMSNorm`` takes the dtype's machine epsilon unless told.)
    elementwise_affine : bool
        Whether there is a weight.
    unit_offset : bool
        Whether the normalized values are multiplied by 1 + weight, as in Gemma: the weight starts at 0.
    num_groups : int
        In how many groups the last axis falls, each with a mean square of its own, as in Mamba 2; a divisor of it.
    dtype : dtype
        Of the weight and its gradient, whatever `x` is in.
    activation : str, optional
        What comes last: "relu", "leaky_relu", "silu", "gelu" (exact), "gelu_tanh" or "sigmoid".
    negative_slope : float, optional
        That of leaky_relu below 0; 0.01 by default.
    gate_activation : str, optional
        That of a gate; silu by default.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> normlib.RMSNorm(2)(np.array([3, 4], dtype=np.float32)).round(3)
    array([0.849, 1.131], dtype=float32)
    >>> norm = normlib.RMSNorm(2, unit_offset=True)
    >>> norm.weight.tolist(), norm(np.array([3, 4], dtype=np.float32)).round(3)
    ([0.0, 0.0], array([0.849, 1.131], dtype=float32))
    >>> normlib.RMSNorm(4, num_groups=2)(np.array([3, 4, 5, 5], dtype=np.float32)).round(3)
    array([0.849, 1.131, 1.   , 1.   ], dtype=float32)
    """

    _op = ops.OPS["rms_norm"]

    @_fusible
    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        *,
        unit_offset: bool = False,
        num_groups: int = 1,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[_Fused],
    ) -> None:
        self.num_groups = _positive(self, "num_groups", num_groups)
        self.unit_offset = _arguments.flag("RMSNorm", "unit_offset", unit_offset)
        if self.unit_offset and not elementwise_affine:
            raise ValueError("RMSNorm: unit_offset is True, expected elementwise_affine=True beside it")
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False, dtype=dtype, **fused)
        if self.num_groups > 1 and (len(self._shape) > 1 or self._shape[0] % self.num_groups):
            expected = f"expected a divisor of the last axis alone, normalized_shape is {self._shape}"
            raise ValueError(f"RMSNorm: num_groups is {num_groups}, {expected}")

    def _grouped(self, a: NDArray[Any]) -> NDArray[Any]:
        """The last axis as two: groups, and what they consist of."""
        return a if self.num_groups == 1 else a.reshape(*a.shape[:-1], self.num_groups, -1)

    def _forward(self, x: NDArray[Any], **more: Any) -> tuple[tuple[NDArray[Any], ...], dict[str, Any]]:
        if self.num_groups == 1:
            return super()._forward(x, **more)
        results, saved = super()._forward(self._grouped(x), **self._all_grouped(more))
        return tuple(result.reshape(x.shape) for result in results), saved

    def _backward(self, dy: ArrayLike, x: NDArray[Any], **more: Any) -> tuple[Any, ...]:
        if self.num_groups == 1:
            return super()._backward(dy, x, **more)
        more |= self._beside("RMSNorm.backward", x, dy=dy)
        dx, dweight, *rest = super()._backward(x=self._grouped(x), **self._all_grouped(more))
        dweight = None if dweight is None else dweight.reshape(*dweight.shape[:-2], -1)
        return dx.reshape(x.shape), dweight, *(gradient.reshape(x.shape) for gradient in rest)

    def _all_grouped(self, named: dict[str, Any]) -> dict[str, Any]:
        """The arguments, with those grouped that have the last axis of x."""
        like_x = ("dy", "residual", "dsum", "add", "gate", "where", "weight")
        grouped = {name: self._grouped(named[name]) for name in like_x if named.get(name) is not None}
        return named | grouped


class _ChannelNorm(_Layer):
    """Parameters of one value a channel, the channels along `channel_axis`."""

    def __init__(
        self, channels: int, eps: float, affine: bool, bias: bool, channel_axis: int, dtype: DTypeLike, fused: _Fused
    ) -> None:
        self.affine = affine
        self.channel_axis = _arguments.integer(type(self).__name__, "channel_axis", channel_axis)
        super().__init__((channels,), eps, affine, bias, dtype, fused)

    def _options(self) -> dict[str, Any]:
        return {"channel_axis": self.channel_axis}

    def _check(self, x: NDArray[Any]) -> None:
        (channels,), axis = self._shape, self.channel_axis
        if not -x.ndim <= axis < x.ndim or x.shape[axis] != channels:
            expected = f"{channels} channels along axis {axis}"
            raise ValueError(f"{type(self).__name__}: x has shape {x.shape}, expected {expected}")


class _RunningNorm(_ChannelNorm):
    """Running statistics, updated by ``running = (1 - momentum) * running + momentum * batch``."""

    _buffers = ("running_mean", "running_var", "num_batches_tracked")

    @_fusible
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[_Fused],
    ) -> None:
        self.num_features = _positive(self, "num_features", num_features)
        if momentum is not None:
            momentum = _arguments.fraction(type(self).__name__, momentum)
        super().__init__(self.num_features, eps, affine, bias, channel_axis, dtype, fused)
        self.momentum = momentum
        self.track_running_stats = tracked = track_running_stats
        # 16 bits would swallow the small steps of a running average.
        kind = self.dtype if self.dtype.itemsize > 2 else np.float32
        self.running_mean: NDArray[Any] | None = np.zeros(self._shape, kind) if tracked else None
        self.running_var: NDArray[Any] | None = np.ones(self._shape, kind) if tracked else None
        self.num_batches_tracked: NDArray[Any] | None = np.zeros((), np.int64) if tracked else None

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0, in place."""
        for name in self._buffers if self.track_running_stats else ():
            getattr(self, name)[...] = 1 if name == "running_var" else 0

    def _forward(self, x: NDArray[Any], **more: Any) -> tuple[tuple[NDArray[Any], ...], dict[str, Any]]:
        tracked = self.track_running_stats
        mode = {str(self._op.mode): self.training or not tracked}
        count = self.num_batches_tracked if self.training else None
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0 if count is None else 1 / (int(count) + 1)
        running = {"running_mean": self.running_mean, "running_var": self.running_var}
        changed = [getattr(self, name) for name in self._buffers] if count is not None else []
        before = [array.copy() for array in changed]
        try:
            results, saved = super()._forward(x, momentum=momentum, **mode, **running, **more)
            if count is not None and x.size:
                count[...] += 1
        except BaseException:  # an interrupt may come between the two
            for array, values in zip(changed, before, strict=True):
                array[...] = values
            raise
        return results, {**saved, **mode}


class BatchNorm(_RunningNorm):
    """Batch normalization: each channel over the batch and all positions, in 2-D to 5-D and beyond.

    In training the statistics are the batch's, and the running ones follow them (the variance unbiased); in
    evaluation the running ones are used, as a constant.

    Parameters
    ----------
    num_features : int
        The number of channels.
    eps : float
        Added to the variance.
    momentum : float or None
        The weight of a batch in the running statistics; None is the plain average of all batches so far.
    affine, bias : bool
        Whether there is a weight, and a bias with it.
    track_running_stats : bool
        False: there are none, and evaluation too uses the batch's.
    channel_axis : int
        The axis of the channels; -1 for channels-last.
    dtype : dtype
        Of the parameters and their gradients, whatever `x` is in.
    activation : str, optional
        What comes last: "relu", "leaky_relu", "silu", "gelu" (exact), "gelu_tanh" or "sigmoid".
    negative_slope : float, optional
        That of leaky_relu below 0; 0.01 by default.
    gate_activation : str, optional
        That of a gate; silu by default.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> norm = normlib.BatchNorm(1, momentum=None)
    >>> norm(np.array([[1], [3]], dtype=np.float32)).round(3)
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> norm.running_mean.tolist(), norm.running_var.tolist()
    ([2.0], [2.0])
    >>> norm.eval()(np.array([[2]], dtype=np.float32)).tolist()
    [[0.0]]
    """

    _op = ops.OPS["batch_norm"]


class InstanceNorm(_RunningNorm):
    """Instance normalization: each channel of each sample over its positions.

    Parameters
    ----------
    num_features : int
        The number of channels.
    eps : float
        Added to the variance.
    momentum : float or None
        The weight of a batch in the running statistics; None is the plain average of all batches so far.
    affine, bias : bool
        Whether there is a weight, and a bias with it; off unless asked for, as in ``torch.nn``.
    track_running_stats : bool
        Whether running statistics are kept in training and used in evaluation.
    channel_axis : int
        The axis of the channels; -1 for channels-last.
    dtype : dtype
        Of the parameters and their gradients, whatever `x` is in.
    activation : str, optional
        What comes last: "relu", "leaky_relu", "silu", "gelu" (exact), "gelu_tanh" or "sigmoid".
    negative_slope : float, optional
        That of leaky_relu below 0; 0.01 by default.
    gate_activation : str, optional
        That of a gate; silu by default.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> normlib.InstanceNorm(1)(np.array([[[1, 3]], [[10, 30]]], dtype=np.float32)).round(3)
    array([[[-1.,  1.]],
           [[-1.,  1.]]], dtype=float32)
    """

    _op = ops.OPS["instance_norm"]

    @_fusible
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[_Fused],
    ) -> None:
        rest: dict[str, Any] = {"bias": bias, "channel_axis": channel_axis, "dtype": dtype, **fused}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **rest)


class GroupNorm(_ChannelNorm):
    """Group normalization: each group of neighbouring channels of each sample, over channels and positions.

    Parameters
    ----------
    num_groups : int
        How many groups the channels are divided into.
    num_channels : int
        The number of channels, a multiple of `num_groups`.
    eps : float
        Added to the variance.
    affine, bias : bool
        Whether there is a weight, and a bias with it (one value a channel).
    channel_axis : int
        The axis of the channels; -1 for channels-last.
    dtype : dtype
        Of the parameters and their gradients, whatever `x` is in.
    activation : str, optional
        What comes last: "relu", "leaky_relu", "silu", "gelu" (exact), "gelu_tanh" or "sigmoid".
    negative_slope : float, optional
        That of leaky_relu below 0; 0.01 by default.
    gate_activation : str, optional
        That of a gate; silu by default.

    References
    ----------
    Wu and He, "Group Normalization", 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> normlib.GroupNorm(2, 4)(np.array([[1, 3, 10, 30]], dtype=np.float32)).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _op = ops.OPS["group_norm"]

    @_fusible
    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[_Fused],
    ) -> None:
        self.num_groups = _positive(self, "num_groups", num_groups)
        self.num_channels = _positive(self, "num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_channels is {num_channels}, expected a multiple of num_groups={num_groups}"
            )
        super().__init__(self.num_channels, eps, affine, bias, channel_axis, dtype, fused)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "num_groups": self.num_groups}
