"""The five norms as layers: parameters, their gradients and running statistics over :mod:`normlib.ops`.

A layer holds what a function cannot: arrays named as in ``torch.nn`` (so that a checkpoint's arrays load as
they are), the statistics of the last ``forward`` for one ``backward``, and which parameters are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _arguments, ops
from ._layer import Fused, Layer, fusible, positive

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _TrailingNorm(Layer):
    """Normalizes over the trailing axes that `normalized_shape` names."""

    @fusible
    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[Fused],
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, Iterable) else (normalized_shape,)
        self.normalized_shape = tuple(positive(self, "a size in normalized_shape", size) for size in sizes)
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

    @fusible
    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        *,
        unit_offset: bool = False,
        num_groups: int = 1,
        dtype: DTypeLike = np.float32,
        **fused: Unpack[Fused],
    ) -> None:
        self.num_groups = positive(self, "num_groups", num_groups)
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


class _ChannelNorm(Layer):
    """Parameters of one value a channel, the channels along `channel_axis`."""

    def __init__(
        self, channels: int, eps: float, affine: bool, bias: bool, channel_axis: int, dtype: DTypeLike, fused: Fused
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

    @fusible
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
        **fused: Unpack[Fused],
    ) -> None:
        self.num_features = positive(self, "num_features", num_features)
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
            if count is not None and self._counts(x):
                count[...] += 1
        except BaseException:  # an interrupt may come between the two
            for array, values in zip(changed, before, strict=True):
                array[...] = values
            raise
        return results, {**saved, **mode}

    def _counts(self, x: NDArray[Any]) -> bool:
        """Whether this is a batch: one of nothing is none."""
        return x.size > 0


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

    @fusible
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
        **fused: Unpack[Fused],
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

    @fusible
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
        **fused: Unpack[Fused],
    ) -> None:
        self.num_groups = positive(self, "num_groups", num_groups)
        self.num_channels = positive(self, "num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_channels is {num_channels}, expected a multiple of num_groups={num_groups}"
            )
        super().__init__(self.num_channels, eps, affine, bias, channel_axis, dtype, fused)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "num_groups": self.num_groups}
