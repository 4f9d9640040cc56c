"""What is measured: the one list of names and parameters, and the arrays that go with them.

A commit that lacks a function skips its benchmarks: asv reads a NotImplementedError in `setup` so. The names are
written out, and not asked of the installed package, because results of different commits only compare while the
list stays the same; a new norm is appended.
"""

import functools
import math
import time

import numpy as np

import normlib

NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
OPS = tuple(name for norm in NORMS for name in (norm, norm + "_backward"))
DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("channels_first", "channels_last")
SIZES = {"cache": (4, 256, 16, 16), "memory": (64, 256, 32, 32)}  # 1 MB and 67 MB in float32
ROW = {"feature": (1, 768), "channel": (1, 12, 64)}
GROUPS = 4
THREADS = (1, 2, 4)
# What is fused with a norm, and the shape in and out of cache.
FUSED = {
    "batch_norm + add + relu": ((1, 64, 56, 56), (64, 64, 56, 56)),
    "batch_norm + silu": ((1, 96, 56, 56), (64, 96, 56, 56)),
    "group_norm + silu": ((1, 320, 32, 32), (8, 320, 64, 64)),
    "instance_norm + leaky_relu": ((1, 32, 16, 32, 32), (2, 64, 64, 64, 64)),
    "layer_norm + gelu": ((512, 512), (32768, 512)),
    "rms_norm + residual": ((64, 4096), (4096, 4096)),
}

FEATURE = ("layer_norm", "rms_norm")  # these reduce over the channels, the others over all else


def dtype_of(name):
    """Return the dtype; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def normal(shape, dtype, seed=0):
    """Return normal values with mean 1; large arrays repeat a block of prime length."""
    block = np.random.default_rng(seed).standard_normal(min(math.prod(shape), 1_000_003), dtype=np.float32)
    return np.resize((1 + block).astype(dtype), shape)


def prepare(op, shape, dtype="float32", layout="channels_first", out=True, fused=()):
    """Return the public call of an op on an array of this shape (channels-first) as a function without arguments.

    ``fused`` names arrays to add, and an activation.
    """
    norm = op.removesuffix("_backward")
    forward, function = getattr(normlib, norm, None), getattr(normlib, op, None)
    if forward is None or function is None:
        raise NotImplementedError(f"this commit has no {op}")
    dtype = dtype_of(dtype)
    axis = 1
    if layout == "channels_last":
        shape, axis = (shape[0], *shape[2:], shape[1]), -1
    x = normal(shape, dtype)
    weight, bias = normal((shape[axis],), dtype, 1), normal((shape[axis],), dtype, 2)
    companions = {}
    if activations := set(fused) - {"add", "residual"}:
        companions["activation"] = activations.pop()
    if "add" in fused:
        companions["add"] = normal(shape, dtype, 4)
    if "residual" in fused:
        companions["residual" if op == norm else "dsum"] = normal(shape, dtype, 4)
        companions |= {"residual_out": np.zeros_like(x)} if op == norm else {}
    options = {"axis" if norm in FEATURE else "channel_axis": axis}
    groups = (GROUPS,) if norm == "group_norm" else ()
    parameters = {"weight": weight} if norm == "rms_norm" else {"weight": weight, "bias": bias}
    training = {"training": True} if norm == "batch_norm" else {}
    given = {"out": np.zeros_like(x)} if out else {}
    if op == norm:
        call = functools.partial(function, x, *groups, **parameters, **options, **training, **given, **companions)
    else:
        _, *statistics = forward(x, *groups, **parameters, **options, **training, return_stats=True)
        names = ("rstd",) if norm == "rms_norm" else ("mean", "rstd")
        options.update(zip(names, statistics, strict=True))
        if "activation" in companions:
            companions["bias"] = bias
        dy = normal(shape, dtype, 3)
        call = functools.partial(function, dy, x, *groups, weight, **options, **training, **given, **companions)
    call()  # what the first call alone costs is not measured
    return call


def one_thread():
    """Keep normlib to one thread, where the commit knows how."""
    if hasattr(normlib, "set_num_threads"):
        normlib.set_num_threads(1)


def seconds(*functions, rounds=9):
    """Return the median time of each function; they take turns, so that the machine's drift hits all alike."""
    samples = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, times in zip(functions, samples, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [sorted(times)[rounds // 2] for times in samples]
