"""What the layers of the five norms share: one step forward, one backward, and what is fused with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import numpy as np

from . import _arguments, ops
from ._arrays import as_array, numpy_of
from ._parameters import Holder
from .description import ACTIVATIONS, GATE_ACTIVATION

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    _D = TypeVar("_D", bound=np.floating[Any])  # an array of floats gives an array of the same
    _F = TypeVar("_F", bound=Callable[..., None])

def positive(layer: object, name: str, value: Any) -> int:
    """``value`` as a positive int, or an error that names the layer and the argument."""
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"{type(layer).__name__}: {name} is {value!r}, expected a positive int") from None
    if number < 1:
        raise ValueError(f"{type(layer).__name__}: {name} is {number}, expected a positive int")
    return number


class Fused(TypedDict, total=False):
    """What a layer computes in the same pass in each call; the arrays for it come with the call."""

    activation: str | None
    negative_slope: float | None
    gate_activation: str | None


class Beside(TypedDict, total=False):
    """What comes with a call of a layer, but for the residual, with which its result is another."""

    add: ArrayLike | None
    gate: ArrayLike | None
    gate_first: bool
    where: ArrayLike | None


def fusible(init: _F) -> _F:
    """Shows in the signature of a constructor what `**fused` stands for."""
    shown: _F = _arguments.by_name(init, Fused.__annotations__)
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
    **dict.fromkeys(Fused.__annotations__),
}


class Layer(Holder):
    """What the layers of the five norms share."""

    _op: ops.Op
    eps: float
    unit_offset = False  # whether the weight is 1 + what is stored

    def __init__(
        self,
        shape: tuple[int, ...],
        eps: float,
        weight: bool,
        bias: bool,
        dtype: DTypeLike,
        fused: Fused,
    ) -> None:
        name, known = type(self).__name__, _arguments.DTYPES
        _arguments.keywords(f"{name}.__init__", fused, Fused.__annotations__)
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
        super().__init__()
        one = int(not self.unit_offset)
        self.weight: NDArray[Any] | None = np.full(shape, one, self.dtype) if weight else None
        self.bias: NDArray[Any] | None = np.zeros(shape, self.dtype) if weight and bias else None
        self.grad_weight: NDArray[Any] | None = None
        self.grad_bias: NDArray[Any] | None = None
        self._saved: dict[str, Any] | None = None

    # -- one step ----

    @overload
    def forward(self, x: NDArray[_D], **beside: Unpack[Beside]) -> NDArray[_D]: ...
    @overload
    def forward(self, x: ArrayLike, **beside: Unpack[Beside]) -> NDArray[Any]: ...
    @overload
    def forward(
        self, x: NDArray[_D], *, residual: ArrayLike, **beside: Unpack[Beside]
    ) -> tuple[NDArray[_D], NDArray[_D]]: ...
    @overload
    def forward(
        self, x: ArrayLike, *, residual: ArrayLike, **beside: Unpack[Beside]
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
        **beside: Unpack[Beside],
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
                self._gain(name, gradient)
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
        results = self._computed(x, options)
        names = self._op.statistics
        return results[: -len(names)], dict(zip(names, results[-len(names) :], strict=True))

    def _computed(self, x: NDArray[Any], options: dict[str, Any]) -> Any:
        return self._op.forward(x, **options)

    def _backward(self, dy: ArrayLike, x: NDArray[Any], **more: Any) -> tuple[Any, ...]:
        """The gradients."""
        return self._op.backward(dy, x, **more)

    def _options(self) -> dict[str, Any]:
        """The keywords that forward and backward function share."""
        raise NotImplementedError

    def _check(self, x: NDArray[Any]) -> None:
        raise NotImplementedError

    # -- parameters ----

    def reset_parameters(self) -> None:
        """Set the weight to 1 (to 0 where 1 is added to it) and the bias to 0, in place."""
        for name, value in self.parameters().items():
            value[...] = 1 if name == "weight" and not self.unit_offset else 0

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
