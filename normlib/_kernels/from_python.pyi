from typing import Any

CANONICAL: object

def layer_norm(x: Any, weight: Any, bias: Any, axis: Any, eps: Any, out: Any, return_stats: Any) -> Any: ...
def layer_norm_backward(
    dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, axis: Any, weight_grads: Any, out: Any
) -> Any: ...
def rms_norm(x: Any, weight: Any, axis: Any, eps: Any, out: Any, return_stats: Any) -> Any: ...
def rms_norm_backward(dy: Any, x: Any, weight: Any, rstd: Any, axis: Any, weight_grads: Any, out: Any) -> Any: ...
def batch_norm(*arguments: Any) -> Any: ...
def batch_norm_backward(
    dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, training: Any, channel_axis: Any, weight_grads: Any, out: Any
) -> Any: ...
def instance_norm(*arguments: Any) -> Any: ...
def instance_norm_backward(
    dy: Any,
    x: Any,
    weight: Any,
    mean: Any,
    rstd: Any,
    use_input_stats: Any,
    channel_axis: Any,
    weight_grads: Any,
    out: Any,
) -> Any: ...
def group_norm(
    x: Any, num_groups: Any, weight: Any, bias: Any, eps: Any, channel_axis: Any, out: Any, return_stats: Any
) -> Any: ...
def group_norm_backward(
    dy: Any, x: Any, num_groups: Any, weight: Any, mean: Any, rstd: Any, channel_axis: Any, weight_grads: Any, out: Any
) -> Any: ...
def moving_statistics(
    batch: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    channel_axis: Any,
    eps: Any,
    out: Any,
) -> Any: ...
def takes(kinds: Any, groups: Any, x: Any) -> bool: ...
def copy(dst: Any, a: Any, b: Any, streaming: Any, threads: Any) -> None: ...
