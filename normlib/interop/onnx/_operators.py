"""The norms of ONNX as operators of its evaluator, in every version that an opset may mean."""

import numpy as np
import onnx
from onnx.reference.op_run import OpRun

from ... import ops


def schema_of(op_type, opset):
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:  # some optimizers write operators into models of an older opset
        return onnx.defs.get_schema(op_type)


class NormOperator(OpRun):
    """An operator whose errors name it and its node."""

    scale_at = 1  # which of the inputs the scale is

    def run(self, *args, **options):
        try:
            return super().run(*args, **options)
        except (TypeError, ValueError) as error:
            node = self.onnx_node
            words = f"operator {node.op_type!r}, node {node.name!r} of {node.output[0]!r}"
            raise type(error)(f"{words}: {error.__cause__ or error}") from error


class Operator(NormOperator):
    """An operator in the version that the model's opset means, with the attributes and defaults of that version."""

    def __init__(self, onnx_node, run_params):
        schema = schema_of(onnx_node.op_type, run_params["opsets"][onnx_node.domain])
        self.version = schema.since_version
        super().__init__(onnx_node, run_params, schema)


def parameter(value, x):
    """`value` in a dtype that the parameter of a normlib function may have beside `x`."""
    if value is None or value.dtype == x.dtype or (x.dtype.itemsize == 2 and value.dtype == np.float32):
        return value
    return value.astype(x.dtype if x.dtype.itemsize > 2 else np.float32)


def broadcastable(name, value, shape):
    """`value`, whose shape must broadcast to that of x."""
    sizes = (1,) * (value.ndim - len(shape)) + shape[max(len(shape) - value.ndim, 0) :]
    if value.ndim > len(shape) or any(n not in (1, m) for n, m in zip(value.shape, sizes, strict=True)):
        raise ValueError(f"{name} has shape {value.shape}, which does not broadcast to that of x, {shape}")
    return value


def over(x, axes, **parameters):
    """Whether each parameter, which ONNX lets broadcast, has no axis outside of `axes`; and those in full shape."""
    shape = tuple(x.shape[a] for a in axes)
    full = []
    for name, value in parameters.items():
        if value is not None and value.shape != shape:
            value = broadcastable(name, value, x.shape)
            extra = max(value.ndim - len(shape), 0)
            if any(n != 1 for n in value.shape[:extra]):
                return False, tuple(parameters.values())
            value = np.broadcast_to(value.reshape(value.shape[extra:]), shape)
        full.append(parameter(value, x))
    return True, full


class LayerNormalization(Operator):
    def _run(self, x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
        axes = tuple(range(axis % x.ndim, x.ndim))
        fits, (weight, shift) = over(x, axes, scale=scale, bias=bias)
        if not fits:
            weight = shift = None
        y, *statistics = ops.layer_norm(x, weight, shift, axis=axes, eps=float(epsilon), return_stats=True)
        if not fits:
            y = (y * scale + (0 if bias is None else bias)).astype(x.dtype, copy=False)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(stash_type)
        return y, *(np.expand_dims(s.astype(dtype), axes) for s in statistics[: len(self.output) - 1])


def rms_normalized(x, scale, axis, epsilon):
    """The result, in the dtype of the scale, and the reciprocal of the root."""
    if scale.dtype.itemsize > x.dtype.itemsize:
        x = x.astype(scale.dtype)
    axes = tuple(range(axis % x.ndim, x.ndim))
    fits, (weight,) = over(x, axes, scale=scale)
    y, rstd = ops.rms_norm(x, weight if fits else None, axis=axes, eps=float(epsilon), return_stats=True)
    return (y if fits else y * scale).astype(scale.dtype, copy=False), np.expand_dims(rstd, axes)


class RMSNormalization(Operator):
    def _run(self, x, scale, axis=-1, epsilon=1e-5, stash_type=1):
        return rms_normalized(x, scale, axis, epsilon)[:1]


class BatchNormalization(Operator):
    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0, **older):
        if self.version < 7:
            training_mode = not older["is_test"]
        elif self.version < 14:
            training_mode = len(self.output) > 1
        shape = x.shape
        if not older.get("spatial", 1):  # a channel for each place in a sample
            x = x.reshape(len(x), -1)
        weight, bias, old_mean, old_var = (p.reshape(-1) for p in (scale, bias, mean, var))
        parameters = {"weight": parameter(weight, x), "bias": parameter(bias, x), "eps": float(epsilon)}
        if not training_mode:
            y = ops.batch_norm(x, **parameters, running_mean=_statistic(old_mean), running_var=_statistic(old_var))
            return (y.reshape(shape),)
        y, new_mean, new_var = _batch_norm(x, parameters)
        batch = [s.reshape(mean.shape) for s in (new_mean, new_var)]
        moved = [old * momentum + new * (1 - momentum) for old, new in zip((mean, var), batch, strict=True)]
        results = [s.astype(mean.dtype) for s in (*moved, *batch)]
        return y.reshape(shape), *results[: len(self.output) - 1]


def _batch_norm(x, parameters):
    """The result in training, and mean and biased variance of the batch, which ONNX averages."""
    n = x.size // x.shape[1] if x.size else 0
    if n == 1:  # batch_norm refuses to estimate a variance from one value, ONNX has it as 0
        mean, var = x.reshape(-1).astype(np.float64), np.zeros(x.shape[1])
        return ops.batch_norm(x, **parameters, running_mean=mean, running_var=var), mean, var
    mean, var = np.zeros((2, x.shape[1]))
    y = ops.batch_norm(x, **parameters, running_mean=mean, running_var=var, training=True, momentum=1)
    return y, mean, var * (max(n - 1, 0) / max(n, 1))


def _statistic(value):
    return value.astype(np.float32) if value.dtype.itemsize == 2 else value


class GroupNormalization(Operator):
    def _run(self, x, scale, bias, num_groups=None, epsilon=1e-5, stash_type=1):
        if self.version < 21:  # one value a group, a channel since
            scale, bias = (np.repeat(p, x.shape[1] // num_groups) for p in (scale, bias))
        return (ops.group_norm(x, num_groups, parameter(scale, x), parameter(bias, x), eps=float(epsilon)),)


class InstanceNormalization(Operator):
    def _run(self, x, scale, bias, epsilon=1e-5, consumed_inputs=None):
        weight, bias = parameter(scale, x), parameter(bias, x)
        if x.size == x.shape[0] * x.shape[1]:  # one value a channel: of variance 0, which instance_norm refuses
            return (ops.group_norm(x, x.shape[1], weight, bias, eps=float(epsilon)),)
        return (ops.instance_norm(x, weight=weight, bias=bias, eps=float(epsilon)),)


class MeanVarianceNormalization(Operator):
    """ONNX says in words that this divides by the standard deviation; its formula adds 1e-9 to that. Here 1e-18 is
    added to the variance: the same for constant values, and the same float32 where the deviation is above 0.03."""

    def _run(self, x, axes=(0, 2, 3)):
        kept = set(range(x.ndim)) - {a % x.ndim for a in axes}
        if len(kept) == 1 and x.size > x.shape[min(kept)]:  # batch_norm has the faster loops for scattered axes
            return (ops.batch_norm(x, training=True, channel_axis=min(kept), eps=1e-18),)
        return (ops.layer_norm(x, axis=tuple(axes), eps=1e-18),)


FUNCTIONS = {
    LayerNormalization: "layer_norm",
    RMSNormalization: "rms_norm",
    BatchNormalization: "batch_norm",
    GroupNormalization: "group_norm",
    InstanceNormalization: "instance_norm",
    MeanVarianceNormalization: "layer_norm",
}
