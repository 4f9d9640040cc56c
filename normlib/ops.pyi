# Written by .ci/generate.py from normlib/description.py.

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import description

_D = TypeVar("_D", bound=np.floating[Any])  # an array of floats gives an array of the same
_Array: TypeAlias = NDArray[Any]
_Statistics: TypeAlias = NDArray[np.float64]
_Axis: TypeAlias = int | tuple[int, ...] | list[int]
_Gradient: TypeAlias = _Array | None

__all__ = [
    "OPS",
    "Op",
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

@overload
def layer_norm(
    x: NDArray[_D], weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: Literal[False] = False,
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    round_first: bool | None = None,
) -> NDArray[_D]: ...
@overload
def layer_norm(
    x: NDArray[_D], weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: Literal[True], residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    round_first: bool | None = None,
) -> tuple[NDArray[_D], _Statistics, _Statistics]: ...
@overload
def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: Literal[False] = False,
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> _Array: ...
@overload
def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: Literal[True], residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> tuple[_Array, _Statistics, _Statistics]: ...
@overload
def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: bool, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> _Array | tuple[_Array, _Statistics, _Statistics]: ...
@overload
def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, axis: _Axis = -1,
    eps: float = 1e-5, out: _Array | None = None, return_stats: bool = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: Literal["int8"],
    scale: ArrayLike | None = None, round_first: bool | None = None,
) -> tuple[_Array, ...]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike, x: NDArray[_D], weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    axis: _Axis = -1, weight_grads: bool | None = None, out: _Array | None = None, dsum: ArrayLike | None = None,
    bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, round_first: bool | None = None,
) -> tuple[NDArray[_D], _Gradient, _Gradient]: ...
@overload
def layer_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    axis: _Axis = -1, weight_grads: bool | None = None, out: _Array | None = None, dsum: ArrayLike | None = None,
    bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, round_first: bool | None = None,
) -> tuple[_Array, _Gradient, _Gradient]: ...
@overload
def rms_norm(
    x: NDArray[_D], weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    round_first: bool | None = None,
) -> NDArray[_D]: ...
@overload
def rms_norm(
    x: NDArray[_D], weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: Literal[True], residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    round_first: bool | None = None,
) -> tuple[NDArray[_D], _Statistics]: ...
@overload
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> _Array: ...
@overload
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: Literal[True], residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> tuple[_Array, _Statistics]: ...
@overload
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: bool, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: None = None,
    out_dtype: DTypeLike | None = None, round_first: bool | None = None,
) -> _Array | tuple[_Array, _Statistics]: ...
@overload
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, axis: _Axis = -1, eps: float = 1e-6,
    out: _Array | None = None, return_stats: bool = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, quantize: Literal["int8"],
    scale: ArrayLike | None = None, round_first: bool | None = None,
) -> tuple[_Array, ...]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike, x: NDArray[_D], weight: ArrayLike | None = None, *, rstd: ArrayLike, axis: _Axis = -1,
    weight_grads: bool | None = None, out: _Array | None = None, dsum: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, round_first: bool | None = None,
) -> tuple[NDArray[_D], _Gradient]: ...
@overload
def rms_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike | None = None, *, rstd: ArrayLike, axis: _Axis = -1,
    weight_grads: bool | None = None, out: _Array | None = None, dsum: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, round_first: bool | None = None,
) -> tuple[_Array, _Gradient]: ...
@overload
def batch_norm(
    x: NDArray[_D], *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> NDArray[_D]: ...
@overload
def batch_norm(
    x: NDArray[_D], *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[True], residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Statistics, _Statistics]: ...
@overload
def batch_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array: ...
@overload
def batch_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[True], residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> tuple[_Array, _Statistics, _Statistics]: ...
@overload
def batch_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: bool, residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array | tuple[_Array, _Statistics, _Statistics]: ...
@overload
def batch_norm_backward(
    dy: ArrayLike, x: NDArray[_D], weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    training: bool = True, channel_axis: int = 1, weight_grads: bool | None = None, out: _Array | None = None,
    dsum: ArrayLike | None = None, bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Gradient, _Gradient]: ...
@overload
def batch_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    training: bool = True, channel_axis: int = 1, weight_grads: bool | None = None, out: _Array | None = None,
    dsum: ArrayLike | None = None, bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[_Array, _Gradient, _Gradient]: ...
@overload
def group_norm(
    x: NDArray[_D], num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *,
    eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None, return_stats: Literal[False] = False,
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> NDArray[_D]: ...
@overload
def group_norm(
    x: NDArray[_D], num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *,
    eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None, return_stats: Literal[True],
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Statistics, _Statistics]: ...
@overload
def group_norm(
    x: ArrayLike, num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *,
    eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None, return_stats: Literal[False] = False,
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array: ...
@overload
def group_norm(
    x: ArrayLike, num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *,
    eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None, return_stats: Literal[True],
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> tuple[_Array, _Statistics, _Statistics]: ...
@overload
def group_norm(
    x: ArrayLike, num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *,
    eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None, return_stats: bool,
    residual: ArrayLike | None = None, residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array | tuple[_Array, _Statistics, _Statistics]: ...
@overload
def group_norm_backward(
    dy: ArrayLike, x: NDArray[_D], num_groups: int, weight: ArrayLike | None = None, *, mean: ArrayLike,
    rstd: ArrayLike, channel_axis: int = 1, weight_grads: bool | None = None, out: _Array | None = None,
    dsum: ArrayLike | None = None, bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Gradient, _Gradient]: ...
@overload
def group_norm_backward(
    dy: ArrayLike, x: ArrayLike, num_groups: int, weight: ArrayLike | None = None, *, mean: ArrayLike,
    rstd: ArrayLike, channel_axis: int = 1, weight_grads: bool | None = None, out: _Array | None = None,
    dsum: ArrayLike | None = None, bias: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[_Array, _Gradient, _Gradient]: ...
@overload
def instance_norm(
    x: NDArray[_D], *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> NDArray[_D]: ...
@overload
def instance_norm(
    x: NDArray[_D], *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[True], residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Statistics, _Statistics]: ...
@overload
def instance_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[False] = False, residual: ArrayLike | None = None,
    residual_out: ArrayLike | None = None, add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array: ...
@overload
def instance_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: Literal[True], residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> tuple[_Array, _Statistics, _Statistics]: ...
@overload
def instance_norm(
    x: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None,
    running_mean: ArrayLike | None = None, running_var: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, channel_axis: int = 1, out: _Array | None = None,
    return_stats: bool, residual: ArrayLike | None = None, residual_out: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None, out_dtype: DTypeLike | None = None,
) -> _Array | tuple[_Array, _Statistics, _Statistics]: ...
@overload
def instance_norm_backward(
    dy: ArrayLike, x: NDArray[_D], weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    use_input_stats: bool = True, channel_axis: int = 1, weight_grads: bool | None = None,
    out: _Array | None = None, dsum: ArrayLike | None = None, bias: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[NDArray[_D], _Gradient, _Gradient]: ...
@overload
def instance_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike | None = None, *, mean: ArrayLike, rstd: ArrayLike,
    use_input_stats: bool = True, channel_axis: int = 1, weight_grads: bool | None = None,
    out: _Array | None = None, dsum: ArrayLike | None = None, bias: ArrayLike | None = None,
    add: ArrayLike | None = None,
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    negative_slope: float | None = None, gate: ArrayLike | None = None,
    gate_activation: Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None = None,
    where: ArrayLike | None = None, gate_first: bool | None = None,
) -> tuple[_Array, _Gradient, _Gradient]: ...

@dataclass(frozen=True)
class Op(description.Op):
    forward: Callable[..., Any] = field(kw_only=True)
    backward: Callable[..., Any] = field(kw_only=True)

OPS: dict[str, Op]
