"""normlib in PyTorch: functions with gradients, modules, and models whose norms change places.

>>> import torch
>>> import normlib.interop.torch as nt
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
>>> model = nt.accelerate(model)                            # the same model, its norms computed by normlib
>>> model(torch.randn(2, 8)).sum().backward()
>>> y = nt.rms_norm(torch.randn(2, 8, requires_grad=True))  # the functions, in the words of normlib

Tensors and arrays share their memory both ways. The operators are ``torch.ops.normlib``, so that ``torch.compile`` and
``torch.export`` take them as they are.
"""

from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .install import install, uninstall
from .models import accelerate, report, restore
from .modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "accelerate",
    "batch_norm",
    "group_norm",
    "install",
    "instance_norm",
    "layer_norm",
    "report",
    "restore",
    "rms_norm",
    "uninstall",
]
