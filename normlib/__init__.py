"""Normalization of arrays on the CPU: LayerNorm, RMSNorm, BatchNorm, GroupNorm and InstanceNorm,
forward and backward, on plain NumPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import backends, sync
from ._config import get_include, show_config
from ._quantized import dequantize
from ._version import __version__ as __version__
from .blocks import PostNorm, PreNorm, Sandwich, Stack
from .layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from .moments import Moments
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
from .prepared import Plan, prepare
from .recurrent import LayerNormGRU, LayerNormLSTM
from .sync import SyncBatchNorm
from .threads import get_num_threads, num_threads, set_num_threads

if TYPE_CHECKING:
    from .diagnosis import diagnose
    from .which import which_norm

backends.warn_if_missing()

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerNormGRU",
    "LayerNormLSTM",
    "Moments",
    "Plan",
    "PostNorm",
    "PreNorm",
    "RMSNorm",
    "Sandwich",
    "Stack",
    "SyncBatchNorm",
    "backends",
    "batch_norm",
    "batch_norm_backward",
    "dequantize",
    "diagnose",
    "get_include",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "num_threads",
    "prepare",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "show_config",
    "sync",
    "which_norm",
]

_LATER = {"diagnose": "diagnosis", "which_norm": "which"}  # name: its module, imported when it is asked for


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value
