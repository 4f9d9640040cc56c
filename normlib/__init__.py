"""Normalization of arrays on the CPU: LayerNorm, RMSNorm, BatchNorm, GroupNorm and InstanceNorm,
forward and backward, on plain NumPy arrays."""

from . import backends
from .ops import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)

__version__ = "0.1.0"

__all__ = [
    "backends",
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
