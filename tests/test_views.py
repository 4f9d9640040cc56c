"""normlib/views.pxd: the functions on typed memoryviews have the bits of the Python functions."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from runpy import run_path

import pytest
from support import python

import normlib
from normlib._kernels import backend as kernels
from normlib.description import FUNCTIONS

if kernels is None:
    pytest.skip("needs the compiled kernels", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
generator = run_path(str(ROOT / ".ci" / "generate_c.py"))
viewed, fused_members = generator["viewed"], generator["fused_members"]
gcc = shutil.which("gcc")

HEAD = """# cython: language_level=3
from cython cimport floating
from libc.stdint cimport uint8_t, uint16_t
from normlib.capi cimport error_text
from normlib cimport views
"""
FUNCTION = """
def {name}({declared}):
    cdef int status
    with nogil:
        status = views.{name}{types}({given})
    return error_text(status).decode()
"""
FUSED = """
def {name}_fused({declared}, {beside}, activation=0, slope=0.0, gate_activation=0, gate_first=0):
    cdef int status
    cdef views.Fused fused = views.nothing()
    fused.activation, fused.negative_slope = activation, slope
    fused.gate_activation, fused.gate_first = gate_activation, gate_first
{put}
    with nogil:
        status = views.{name}{types}({given}, 2, &fused)
    return error_text(status).decode()
"""
DRIVER = """
import ctypes, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import normlib, wrapped
from normlib.description import ACTIVATIONS, FUNCTIONS
from normlib.ops import OPS

assert ctypes.CDLL(None).__asan_init, "AddressSanitizer is not there"
bfloat16 = __import__("ml_dtypes").bfloat16
DTYPES = {"float32": (), "float64": (), "float16": (2,), "bfloat16": (3,)}
normlib.backends.use("cython").__enter__()

def bits(a):
    return a.view(np.uint16) if a.itemsize == 2 else a

def lay(shape, layout, rng, dtype):
    "Random numbers: without gaps, between others, or with the channels last."
    a = rng.normal(size=[2 * n for n in shape]).astype(dtype)
    if layout == "gaps":
        return a[tuple([slice(0, n) for n in shape])]
    a = a.ravel()[: np.prod(shape)]
    if layout == "last":
        return a.reshape(shape[0], *shape[:0:-1]).transpose(0, *range(len(shape) - 1, 0, -1))
    return a.reshape(shape)

def like(a):
    return np.full_like(a, 0)

def same(a, b):
    return a is None if b is None else a.tobytes() == b.tobytes()

def compare(op, dtype, layout, bare, prange):
    dtype = bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    half, rng, norm = np.dtype(dtype).itemsize == 2, np.random.default_rng(0), OPS[op]
    shape = (6, 35) if norm.kind == "feature" else (3, 6, 7)
    x, dy = (lay(shape, layout, rng, dtype) for _ in range(2))
    size = shape[1]
    working = np.float32 if half else dtype
    parameters = [None if bare else rng.normal(size=size).astype(working) for _ in norm.parameters]
    groups = [3] if norm.has_groups else []
    axis = {norm.axis_name: 1}
    running = [np.zeros(size, working), np.ones(size, working)]
    learned = [a.copy() for a in running]
    y, dx = like(x), like(x)
    mode = [1] if norm.mode else []
    moved = [*learned, 1, 0.25] if norm.mode else []
    named = dict(zip(norm.parameters, parameters))
    more = {"running_mean": running[0], "running_var": running[1], "momentum": 0.25, norm.mode: True}
    more = more if norm.mode else {}
    expected = norm.forward(x, *groups, **named, **more, **axis, eps=1e-5, return_stats=True)
    name = op + "16" * half
    kinds = [{"float16": 2, "bfloat16": 3}[np.dtype(dtype).name]] if half else []
    function = getattr(wrapped, name + "_prange" * prange)
    stats = [] if prange else [np.zeros(s.shape) for s in expected[1:]]
    said = function(*kinds, bits(x), *groups, *parameters, *moved, 1e-5, bits(y), *stats, *([3] if prange else []))
    assert said == "no error", said
    assert same(y, expected[0]), "y"
    assert all(map(same, stats, expected[1:])), "statistics"
    assert all(map(same, learned, running)) or not norm.mode, "running statistics"
    if prange:
        return
    back = {k: v for k, v in zip(norm.statistics, expected[1:])}
    wanted = norm.backward(dy, x, *groups, named["weight"], **back, **({norm.mode: True} if norm.mode else {}), **axis,
                           weight_grads=True)
    grads = [np.zeros(size, working) for _ in norm.parameters]
    said = getattr(wrapped, op + "_backward" + "16" * half)(*kinds, bits(dy), bits(x), *groups, parameters[0],
        *[np.ascontiguousarray(s) for s in expected[1:]], *mode, bits(dx), *grads, 2)
    assert said == "no error", said
    assert same(dx, wanted[0]), "dx"
    if not (half and bare):     # there the Python function has no weight whose dtype the gradients could have
        assert all(map(same, grads, wanted[1:])), "gradients"

def compare_fused(op, dtype, layout, affine, activation, gated, first=False):
    "Forward and backward, with the arrays that are there: all of them, or without the gate and the shortcut."
    dtype = bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    half, rng, norm = np.dtype(dtype).itemsize == 2, np.random.default_rng(0), OPS[op]
    shape = (6, 35) if norm.kind == "feature" else (3, 6, 7)
    x, dy, residual, add, gate, dsum = (lay(shape, layout, rng, dtype) for _ in range(6))
    size, working = shape[1], np.float32 if half else dtype
    parameters = [rng.normal(size=size).astype(working) if affine else None for _ in norm.parameters]
    named = dict(zip(norm.parameters, parameters))
    groups, axis = [3] if norm.has_groups else [], {norm.axis_name: 1}
    mode = {norm.mode: True} if norm.mode else {}
    behind = {"activation": activation} if activation else {}
    behind |= {"add": add, "gate": gate, "gate_activation": "sigmoid"} if gated else {}
    behind |= {"gate_first": True} if first else {}
    where = rng.random(shape) < 0.8
    behind |= {} if affine or layout == "last" else {"where": where}
    expected, total, *statistics = norm.forward(
        x, *groups, **named, **mode, **axis, eps=1e-5, return_stats=True, residual=residual, **behind)
    kinds = [{"float16": 2, "bfloat16": 3}[np.dtype(dtype).name]] if half else []
    numbers = {"activation": ACTIVATIONS.index(activation) + 1, "slope": 0.01} if activation else {}
    numbers |= {"gate_activation": ACTIVATIONS.index("sigmoid") + 1} if gated else {}
    numbers |= {"gate_first": 1} if first else {}
    beside = {"add": add, "gate": gate} if gated else {}
    beside = {name: bits(a) for name, a in beside.items()}
    beside |= {"where": where.view(np.uint8)} if "where" in behind else {}
    y, found = like(x), like(x)
    moved = [None, None, 1, 0.25] if norm.mode else []
    stats = [np.zeros(s.shape) for s in statistics]
    said = getattr(wrapped, op + "16" * half + "_fused")(*kinds, bits(x), *groups, *parameters, *moved, 1e-5, bits(y),
        *stats, **beside, residual=bits(residual), sum=bits(found), **numbers)
    assert said == "no error", said
    assert same(y, expected) and same(found, total), "y or the sum"
    assert all(map(same, stats, statistics)), "statistics"
    more = {"bias": named["bias"]} if named.get("bias") is not None and behind else {}
    back = dict(zip(norm.statistics, statistics))
    dx, *wanted = norm.backward(dy, total, *groups, named["weight"], **back, **mode, **axis, weight_grads=True,
                                dsum=dsum, **more, **behind)
    grads = [np.zeros(size, working) for _ in norm.parameters]
    beside |= {"dadd": bits(like(x)), "dgate": bits(like(x))} if gated else {}
    ours = like(x)
    said = getattr(wrapped, op + "_backward" + "16" * half + "_fused")(
        *kinds, bits(dy), bits(total), *groups, parameters[0], *stats, *[1] * len(mode), bits(ours), *grads,
        **beside, **more, dsum=bits(dsum), **numbers)
    assert said == "no error", said
    assert same(ours, dx), "dx"
    if affine or not half:
        assert all(map(same, grads, wanted)), "gradients"
    for a, b in zip((beside["dadd"], beside["dgate"]) if gated else (), wanted[len(grads):]):
        assert same(a, bits(b)), "the gradients of add and gate"

WAYS = (True, None, False), (True, "leaky_relu", True), (False, "silu", True), (True, "relu", True, True)
tried = 0
for op in OPS:
    for dtype in DTYPES:
        for layout in ("dense", "gaps", *(["last"] if OPS[op].kind == "channel" else [])):
            for more in WAYS:
                try:
                    compare_fused(op, dtype, layout, *more)
                except AssertionError as error:
                    print(op, dtype, layout, *more, error)
                tried += 1
for op in OPS:
    for dtype in DTYPES:
        for layout in ("dense", "gaps", *(["last"] if OPS[op].kind == "channel" else [])):
            for bare in (False, True):
                for prange in (False, True)[: 1 + (OPS[op].kind == "feature")]:
                    try:
                        compare(op, dtype, layout, bare, prange)
                    except AssertionError as error:
                        print(op, dtype, layout, "bare" * bare, "prange" * prange, error)
                    tried += 1

x, w = np.ones((4, 5), np.float32), np.ones(5, np.float32)
none = np.empty((0, 5), np.float32)
for said, expected in [
    (wrapped.rms_norm(x, w[1:], 1e-5, x), "weight: the number of axes or a size does not fit"),
    (wrapped.rms_norm(x, None, 1e-5, none), "y: the number of axes or a size does not fit"),
    (wrapped.rms_norm_prange(x, None, 1e-5, none, 2), "y: the number of axes or a size does not fit"),
    (wrapped.rms_norm_prange(x, w[1:], 1e-5, x.copy(), 2), "weight: the number of axes or a size does not fit"),
    (wrapped.rms_norm_prange(x, w, 1e-5, x.copy(), -1), "threads: outside its range"),
    (wrapped.rms_norm_prange(x, w, 1e-5, x.copy(), 0), "no error"),
    (wrapped.rms_norm(none, None, 1e-5, none), "no error"),
    (wrapped.rms_norm_fused(x, w, 1e-5, x.copy(), residual=x), "sum: NULL, but it is needed here"),
    (wrapped.rms_norm_fused(x, w, 1e-5, x.copy(), add=x[1:]), "add: the number of axes or a size does not fit"),
    (wrapped.rms_norm_fused(x, w, 1e-5, x.copy(), dsum=x), "dsum: not an argument of this function in this version"),
    (wrapped.rms_norm_fused(x, w, 1e-5, x.copy(), activation=99), "activation: outside its range"),
    (wrapped.rms_norm_prange(none, None, 1e-5, none, 2), "no error"),
    (wrapped.rms_norm(x[1:], w, 1e-5, x[:-1]), "y: an output shares memory with another argument or with itself"),
]:
    if said != expected:
        print(said, "but expected", expected)
print(tried, "compared")
"""


def fused_source(function, half, declared, given):
    """The function with what goes in the same pass: each array that some function takes, and the options."""
    element, parameter = ("uint16_t", "float") if half else ("floating", "floating")
    axes = 3 if function.op.of_channels else 2
    roles = {role: (element, ", ".join(":" * axes), axes) for role in fused_members()[0]}
    roles |= {"bias": (parameter, "::1", 1), "where": ("const uint8_t", ", ".join(":" * axes), axes)}
    if "bias" in given:  # before the struct, in the place that it has in a forward function
        del roles["bias"]
    return FUSED.format(
        name=function.name + "16" * half,
        types="" if half else "[floating]",
        declared=", ".join(declared),
        beside=", ".join(f"{kind}[{shape}] {role}=None" for role, (kind, shape, _) in roles.items()),
        put="\n".join(f"    views.put{n}(&fused.{role}, {role})" for role, (*_, n) in roles.items()),
        given=", ".join(given),
    )


def source():
    """A module of Python functions around those on views."""
    parts = [HEAD]
    for function in FUNCTIONS.values():
        for half in (False, True):
            found = [(f"{view} {name}", name, default) for view, name, default, _ in viewed(function, half)]
            typed = ("" if half else "[floating]", ["int dtype"] * half, ["dtype"] * half)
            name = function.name + "16" * half
            ways = [(name, found, ("int threads=1", "threads"))]
            if function.op.of_features and not function.backward:
                ways.append((f"{name}_prange", [a for a in found if not a[2]], ("int num_threads", "num_threads")))
            for way, arguments, last in ways:
                declared = [*typed[1], *(declared + default for declared, _, default in arguments), last[0]]
                given = [*typed[2], *(name for _, name, _ in arguments), last[1]]
                texts = {"declared": ", ".join(declared), "given": ", ".join(given)}
                parts.append(FUNCTION.format(name=way, types=typed[0], **texts))
            declared = [*typed[1], *(declared + default for declared, _, default in found)]
            parts.append(fused_source(function, half, declared, [*typed[2], *(name for _, name, _ in found)]))
    return "\n".join(parts)


@pytest.mark.skipif(not gcc or not sys.platform.startswith("linux"), reason="needs gcc with AddressSanitizer")
def test_the_bits_of_the_python_functions(tmp_path, monkeypatch):
    """In every dtype, with gaps and without, with parameters and without; under AddressSanitizer."""
    pytest.importorskip("ml_dtypes")
    (tmp_path / "wrapped.pyx").write_text(source(), encoding="utf-8")
    packages = str(Path(normlib.__file__).parent.parent)
    subprocess.run([sys.executable, "-m", "cython", "-3", f"-I{packages}", "wrapped.pyx"], cwd=tmp_path, check=True)
    flags = ["-shared", "-fPIC", "-O0", "-g1", "-fopenmp", "-fsanitize=address", "-Wno-cpp"]
    includes = [f"-I{normlib.get_include()}", f"-I{sysconfig.get_path('include')}"]
    target = f"wrapped{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([gcc, *flags, *includes, "wrapped.c", "-o", target], cwd=tmp_path, check=True)
    library = subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("LD_PRELOAD", library.strip())
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # the interpreter's own
    assert python("-c", DRIVER, str(tmp_path), timeout=300) == "344 compared\n"
