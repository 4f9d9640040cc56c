"""Batch norms that share their statistics among the processes of torch.distributed."""

import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from ... import sync
from ..._groups import OfTorch
from ._tensors import array, tensor


class _Shared(torch.autograd.Function):
    """Batch norm over all ranks in the graph of autograd."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps, ranks):
        given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        arrays = {name: array("batch_norm", name, t) for name, t in given.items()}
        options = {"momentum": momentum, "eps": eps, "return_stats": True, "group": ranks}
        y, ctx.mean, ctx.rstd = sync.batch_norm(array("batch_norm", "x", x), **arrays, **options)
        ctx.save_for_backward(x, weight)
        ctx.ranks = ranks
        return tensor(y, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        """The gradients; for weight and bias each rank has an equal part, whose sum or mean over the ranks, as taken by
        DistributedDataParallel for all parameters, is that of the gradients of the shares."""
        x, weight = ctx.saved_tensors
        arrays = [array("batch_norm", name, t) for name, t in (("dy", dy.to(x.dtype)), ("x", x), ("weight", weight))]
        dx, *found = sync.batch_norm_backward(*arrays, mean=ctx.mean, rstd=ctx.rstd, group=ctx.ranks)
        parts = 1 if ctx.ranks is None else ctx.ranks.size
        wanted = zip(found, ctx.needs_input_grad[1:3], strict=True)
        gradients = [tensor(a, weight.dtype) / parts if needed else None for a, needed in wanted]
        return tensor(dx, x.dtype), *gradients, *[None] * 5


@torch.compiler.disable
def batch_norm(module, input):
    """What a batch norm makes of its share of the batch in training."""
    group = getattr(module, "process_group", None)
    ranks = OfTorch(group) if distributed.is_available() and distributed.is_initialized() else None
    tracked = module.track_running_stats
    count = module.num_batches_tracked if tracked else None
    momentum = module.momentum
    if momentum is None:
        momentum = 0.0 if count is None else 1 / (int(count) + 1)
    running = (module.running_mean, module.running_var) if tracked else (None, None)
    y = _Shared.apply(input, module.weight, module.bias, *running, momentum, module.eps, ranks)
    if count is not None:
        count.add_(1)
    return y
