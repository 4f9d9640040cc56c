"""The C interface, through ctypes: the same bits as the Python functions, and a status for every wrong argument."""

import ctypes
import doctest
import re
from ctypes import byref
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from support import effort, python

import normlib
from normlib._kernels import backend as kernels
from normlib.description import LATER, ROLES
from normlib.ops import OPS
from normlib.testing import AFFINE, LAYOUTS, Case, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible, constant, dtype_named

if kernels is None:
    pytest.skip("needs the compiled kernels", allow_module_level=True)

from normlib import capi
from normlib.capi import FUNCTIONS, Array, address, function

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "embed"
HEADER = Path(normlib.get_include(), "normlib.h").read_text(encoding="utf-8")
DTYPES = [dtype.name for dtype in dtypes()]
F64, F32, F16, BF16 = range(4)
NAMES = re.findall(r"^    NORMLIB_(\w+),?(?: |/|$)", HEADER.partition("/* status")[2].partition("}")[0], re.MULTILINE)
STATUS = {name: number for number, name in enumerate(NAMES)}
C = {name: function(name) for name in FUNCTIONS}
MODES = [op.mode for op in OPS.values() if op.mode]


def call(name, *arguments, strides=True):
    """A function of the interface on NumPy arrays, None and numbers; its status. Without strides: NULL for those of a
    contiguous array."""
    found = [Array(a) if isinstance(a, np.ndarray) else a for a in arguments]
    for a in found:
        if not strides and isinstance(a, Array) and a.array.flags.c_contiguous:
            a.strides = None
    return C[name](*(byref(a) if isinstance(a, Array) else a for a in found))


def kind(status):
    return NAMES[status % 256]


def text(status):
    return C["error_text"](status).decode()


def ensure(status):
    assert status == 0, text(status)


def arranged(case, x):
    """The axes in an order that the C function takes, and what `axis` then is: normalized axes last; those of channel
    norms as they are."""
    op, axis = OPS[case.op], case.options[OPS[case.op].axis_name]
    if op.kind == "channel":
        return tuple(range(x.ndim)), axis
    axes = sorted({a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))})
    return (*(i for i in range(x.ndim) if i not in axes), *axes), x.ndim - len(axes)


def in_c(case, x, weight, bias, dy, running, threads=1, strides=True):
    """y, statistics, dx and parameter gradients by the C functions, laid out as by the Python ones; or the status that
    refused them."""
    op = OPS[case.op]
    order, axis = arranged(case, x)
    y, dx = (np.full_like(x, np.nan) for _ in range(2))
    statistics = [np.full(case.geometry.statistics_shape, np.nan) for _ in op.statistics]
    like = x if weight is None else weight
    shapes = case.parameter_shapes if weight is not None else [case.geometry.parameter_shape] * 2
    grads = [np.full(shape, np.nan, like.dtype) for shape in shapes[: len(op.parameters)]]
    groups = [case.options["num_groups"]] if op.has_groups else []
    parameters = {"weight": weight, "bias": bias}
    given = [parameters[name] for name in op.parameters]
    mode = [case.options[op.mode]] if op.mode else []
    moved = [running.get("running_mean"), running.get("running_var"), *mode, 0.25] if op.mode else []
    turned, ty, tdx, tdy = (a.transpose(order) for a in (x, y, dx, dy))
    status = call(case.op, turned, *groups, *given, *moved, *([axis] if op.kind == "feature" else []), case.eps,
                  *([axis] if op.kind == "channel" else []), ty, *statistics, threads, strides=strides)  # fmt: skip
    if status == 0:
        given = [weight, *statistics, *mode, axis]
        status = call(f"{case.op}_backward", tdy, turned, *groups, *given, tdx, *grads, threads, strides=strides)
    if status:
        return status
    return [y, *statistics, dx, *grads]


def in_python(case, x, weight, bias, dy, running):
    op = OPS[case.op]
    more = {**running, "momentum": 0.25} if running else {}
    results = checks.call_forward(case, x, weight, bias, **more, return_stats=True)
    named = dict(zip(op.statistics, results[1:], strict=True))
    return [*results, *checks.call_backward(case, dy, x, weight, **named, weight_grads=True)]


def assert_same(case, threads=1):
    """The same bits from both; a status only where Python copies the arrays first. Whether the bits were compared."""
    x, weight, bias, dy = case.inputs()
    weight, bias = (None if a is None else np.array(a, a.dtype.newbyteorder("="), order="C") for a in (weight, bias))
    if not x.dtype.isnative:
        with pytest.raises(TypeError, match="native byte order"):
            Array(x)
        return False
    running = checks.running(case)
    learned = {name: a.copy() for name, a in running.items()}
    found = in_c(case, x, weight, bias, dy, learned, threads)
    if isinstance(found, int):
        axis = case.options[OPS[case.op].axis_name]
        refused = "BAD_ALIGN" if not x.flags.aligned else "BAD_LAYOUT"
        assert kind(found) == refused, (case, text(found))
        assert not x.flags.aligned or kernels.copies(case.op, x, axis), case
        return False
    with normlib.backends.use("cython"):
        expected = in_python(case, x, weight, bias, dy, running)
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert checks.same_bits(a, b), (case, number)
    assert all(checks.same_bits(learned[name], running[name]) for name in running), case
    return True


# ---- results ----


def with_modes(op, dtype):
    found = [Case(op, shape, options, dtype) for shape, options in problems(op, "typical")]
    return found + [constant(case) for case in found if OPS[op].mode is not None]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_in_every_layout(op, dtype):
    compared = [assert_same(replace(case, layout=layout)) for case, layout in product(with_modes(op, dtype), LAYOUTS)
                if _possible(replace(case, layout=layout))]  # fmt: skip
    assert sum(compared) > len(compared) / 3


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_with_every_choice_of_parameters(op, dtype):
    for case, affine, parameters in product(with_modes(op, dtype), AFFINE, (None, "float32")):
        case = replace(case, affine=affine, parameter_dtype=parameters if DTYPES.index(dtype) > 1 else None)
        assert not _possible(case) or assert_same(case)


@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_every_shape_with_strides_and_without(op):
    for shape, options in problems(op):
        case = Case(op, shape, options)
        x, weight, bias, dy = case.inputs()
        assert_same(case)
        found = [in_c(case, x, weight, bias, dy, {}, strides=strides) for strides in (True, False)]
        assert found[0] == found[1] if isinstance(found[0], int) else all(map(checks.same_bits, *found)), case


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("threads", [0, 3])
def test_same_bits_with_threads(op, threads):
    for shape, options in problems(op, "large"):
        assert assert_same(Case(op, shape, options), threads)


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.mode is not None])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", DTYPES)
def test_running_statistics_learn_the_same(op, dtype, kept):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options, dtype)
        x, weight, bias, dy = case.inputs()
        size = case.geometry.parameter_shape
        before = {"running_mean": np.full(size, 0.5), "running_var": np.full(size, 2)}
        before = {name: a.astype(dtype_named(kept)) for name, a in before.items()}
        ours, theirs = ({name: a.copy() for name, a in before.items()} for _ in range(2))
        found = in_c(case, x, weight, bias, dy, ours)
        with normlib.backends.use("cython"):
            expected = in_python(case, x, weight, bias, dy, theirs)
        assert all(checks.same_bits(a, b) for a, b in zip(found, expected, strict=True))
        assert all(checks.same_bits(ours[name], theirs[name]) for name in ours)
        assert not any(checks.same_bits(ours[name], before[name]) for name in ours)


@pytest.mark.parametrize("op", OPS)
def test_in_place(op):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options)
        x, weight, bias, dy = case.inputs()
        with normlib.backends.use("cython"):
            y, *rest = in_python(case, x, weight, bias, dy, {})
        dx, statistics = rest[len(OPS[op].statistics)], rest[: len(OPS[op].statistics)]
        order, axis = arranged(case, x)
        turned = [a.transpose(order) for a in (x.copy(), x.copy(), dy.copy())]
        groups = [options["num_groups"]] if OPS[op].has_groups else []
        mode, moved = ([1], [None, None, 1, 0.1]) if OPS[op].mode else ([], [])
        first, last = ([axis], []) if OPS[op].kind == "feature" else ([], [axis])
        given = [weight, bias][: len(OPS[op].parameters)]
        stats = [s.transpose([sorted(order[: s.ndim]).index(i) for i in order[: s.ndim]]).copy() for s in statistics]
        none = [None] * len(statistics)
        ensure(call(op, turned[0], *groups, *given, *moved, *first, case.eps, *last, turned[0], *none, 1))
        assert checks.same_bits(turned[0], y.transpose(order))
        none = [None] * len(OPS[op].parameters)
        options = [*groups, weight, *stats, *mode, axis]
        ensure(call(f"{op}_backward", dy.transpose(order), turned[1], *options, turned[1], *none, 1))
        assert checks.same_bits(turned[1], dx.transpose(order))
        turned[1][...] = x.transpose(order)
        ensure(call(f"{op}_backward", turned[2], turned[1], *options, turned[2], *none, 1))
        assert checks.same_bits(turned[2], dx.transpose(order))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 768), (5, 33), (3, 1), (2, 4096), (700, 1025)])
def test_rows(dtype, shape):
    """The short form is the long one on contiguous rows, with parameters of the working type."""
    x, weight, bias, _ = Case("layer_norm", shape, {"axis": -1}, dtype).inputs()
    weight, bias = (a.astype(np.float64 if dtype == "float64" else np.float32) for a in (weight, bias))
    number = DTYPES.index(dtype) if DTYPES.index(dtype) > 1 else 1 - DTYPES.index(dtype)
    for w, b in product((weight, None), (bias, None)):
        expected, short, y = (np.full_like(x, np.nan) for _ in range(3))
        pointers = [None if a is None else a.ctypes.data for a in (w, b)]
        ensure(C["layer_norm_rows"](number, *shape, x.ctypes.data, *pointers, 1e-5, short.ctypes.data, 2))
        ensure(call("layer_norm", x, w, b, -1, 1e-5, expected, None, None, 2))
        assert checks.same_bits(short, expected)
        y[...] = x
        ensure(C["rms_norm_rows"](number, *shape, y.ctypes.data, pointers[0], 1e-5, y.ctypes.data, 2))
        ensure(call("rms_norm", x, w, -1, 1e-5, expected, None, 0))
        assert checks.same_bits(y, expected)


def test_float32_statistics_and_gradients_of_any_dtype():
    x, weight, _, dy = Case("layer_norm", (6, 40), {"axis": -1}, "float16").inputs()
    mean, rstd = (s.astype(np.float32) for s in normlib.layer_norm(x, return_stats=True)[1:])
    dx = np.empty_like(x)
    wide = [np.empty(40), np.empty(40)]
    ensure(call("layer_norm_backward", dy, x, weight, mean, rstd, -1, dx, *wide, 1))
    expected = normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)
    assert checks.same_bits(dx, expected[0])
    for dtype in dtypes():
        dweight, dbias = np.empty(40, dtype), np.empty(40, dtype)
        ensure(call("layer_norm_backward", dy, x, weight, mean, rstd, -1, dx, dweight, dbias, 1))
        between = wide if dtype.itemsize > 2 else [a.astype(np.float32) for a in wide]
        assert all(checks.same_bits(a, b.astype(dtype)) for a, b in zip((dweight, dbias), between, strict=True))
        alone = np.empty(40, dtype)
        ensure(call("layer_norm_backward", dy, x, weight, mean, rstd, -1, dx, None, alone, 1))
        assert checks.same_bits(alone, dbias)


@pytest.mark.parametrize("op", OPS)
def test_nothing(op):
    """No elements: no output, statistics of NaN, gradients of zero; as in Python."""
    for shape, options in problems(op, "typical"):
        for empty in ((0, *shape[1:]), (*shape[:-1], 0)):
            case = Case(op, empty, options)
            if OPS[op].has_groups and 0 in case.geometry.parameter_shape:
                continue
            for one in (case, constant(case)) if OPS[op].mode else (case,):
                x, weight, bias, dy = one.inputs()
                found = in_c(one, x, weight, bias, dy, checks.running(one))
                expected = in_python(one, x, weight, bias, dy, checks.running(one))
                assert all(checks.same_bits(a, b) for a, b in zip(found, expected, strict=True)), one


# ---- what is wrong ----


def sound(op):
    """Sound arguments by name, for the forward and the backward function: in the order of the header."""
    shape, channels = (2, 6, 5), OPS[op].kind == "channel"
    x, dy = (np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in range(2))
    size = shape[1] if channels else shape[2]
    kept = {"batch_norm": (6,), "group_norm": (2, 3), "instance_norm": (2, 6)}.get(op, (2, 6))
    parameters = {name: np.ones(size, np.float32) for name in OPS[op].parameters}
    statistics = {name: np.ones(kept) for name in OPS[op].statistics}
    groups = {"num_groups": 3} if OPS[op].has_groups else {}
    moved = {"running_mean": np.zeros(6), "running_var": np.ones(6)} if OPS[op].mode else {}
    mode = {OPS[op].mode: 1} if OPS[op].mode else {}
    axis = {"channel_axis": 1} if channels else {"axis": -1}
    momentum = {"momentum": 0.1} if mode else {}
    ends = ({"eps": 1e-5} | axis) if channels else (axis | {"eps": 1e-5})
    forward = {"x": x} | groups | parameters | moved | mode | momentum | ends | {"y": np.zeros_like(x)} | statistics
    grads = {f"d{name}": np.zeros(size, np.float32) for name in parameters}
    backward = {"dy": dy, "x": x} | groups | {"weight": parameters["weight"]} | statistics | mode | axis
    backward |= {"dx": np.zeros_like(x)} | grads
    return {op: forward | {"threads": 1}, f"{op}_backward": backward | {"threads": 1}}


SOUND = {name: arguments for op in OPS for name, arguments in sound(op).items()}
OPTIONAL = {"weight", "bias", "running_mean", "running_var", "dweight", "dbias"}


def described(a, **changes):
    """A description of the array, with some of its members changed."""
    array = Array(a)
    for name, value in changes.items():
        setattr(array, name, value)
    return array


def axes(*values):
    return (ctypes.c_ssize_t * len(values))(*values)


def faults():
    """(function, argument, what is put there, kind of status)"""
    for name, arguments in SOUND.items():
        forward = not name.endswith("_backward")
        for argument, a in arguments.items():
            if not isinstance(a, np.ndarray):
                continue
            large, output = a.ndim == 3 and a.shape == (2, 6, 5), argument in ("y", "dx", "dweight", "dbias") or (
                forward and argument in ("mean", "rstd"))  # fmt: skip
            if argument not in OPTIONAL and not (forward and argument in ("mean", "rstd")):
                yield name, argument, None, "NULL"
            yield name, argument, described(a, data=None), "NULL"
            for dtype in (-1, 6, F64 if a.dtype == np.float32 else F16):
                if dtype in (F64, F16) and argument in ("x", "y", "dweight", "dbias", "running_mean", "running_var"):
                    continue  # another argument is then the wrong one; any dtype is right
                yield name, argument, described(a, dtype=dtype), "BAD_DTYPE"
            yield name, argument, described(a, data=a.ctypes.data + 1), "BAD_ALIGN"
            if argument != "x":
                yield name, argument, described(a, ndim=a.ndim + 1, shape=axes(*a.shape, 1)), "BAD_SHAPE"
                yield name, argument, described(a, shape=axes(*a.shape[:-1], a.shape[-1] + 1)), "BAD_SHAPE"
            if large:
                yield name, argument, described(a, strides=axes(120, 20, 3)), "BAD_ALIGN"
            elif a.ndim:
                yield name, argument, described(a, strides=axes(*a.strides[:-1], 2 * a.itemsize)), "BAD_LAYOUT"
            if output:
                yield name, argument, described(a, data=arguments["x"].ctypes.data + 16), "OVERLAP"
            if argument in ("y", "dx"):
                for strides in ((0, 20, 4), (20, 20, 4), (120, 16, 4), (-120, 8, 4), (4, 20, 4)):
                    yield name, argument, described(a, strides=axes(*strides)), "OVERLAP"
        x = arguments["x"]
        yield name, "x", described(x, ndim=0), "BAD_SHAPE"
        yield name, "x", described(x, ndim=65), "BAD_SHAPE"
        yield name, "x", described(x, shape=axes(2, -6, 5)), "BAD_SHAPE"
        yield name, "x", described(x, shape=axes(2**32, 2**31, 1)), "BAD_SHAPE"
        yield name, "x", described(x, shape=axes(2**32, 2**32, 2)), "BAD_SHAPE"
        yield name, "x", described(x, shape=axes(2**61, 0, 2)), "BAD_SHAPE"
        yield name, "x", described(x, shape=None), "NULL"
        numbers = {"eps": (-1.0, np.nan, np.inf), "momentum": (-0.1, 1.1, np.nan), "threads": (-1,),
                   "axis": (3, -4), "channel_axis": (3, -4), "num_groups": (0, -1, 4, 7)}  # fmt: skip
        for argument, values in numbers.items():
            for value in values if argument in arguments else ():
                yield name, argument, value, "BAD_VALUE"
        if "running_mean" in arguments:
            yield name, "running_mean", None, "NULL"
            yield name, "running_var", None, "NULL"


def outputs(name):
    found = {key: a for key, a in SOUND[name].items() if isinstance(a, np.ndarray)}
    return {key: a.copy() for key, a in found.items()}


@pytest.mark.parametrize("name", SOUND)
def test_sound_arguments_are_taken(name):
    ensure(call(name, *(a.copy() if isinstance(a, np.ndarray) else a for a in SOUND[name].values())))


@pytest.mark.parametrize("name", SOUND)
def test_every_wrong_argument_is_a_status(name):
    found = [fault for fault in faults() if fault[0] == name]
    before = outputs(name)
    for _, argument, value, expected in found:
        status = call(name, *({**SOUND[name], argument: byref(value) if isinstance(value, Array) else value}).values())
        assert kind(status) == expected, (argument, text(status), expected)
        assert text(status).startswith(f"{argument}: "), (argument, text(status))
        assert all(np.array_equal(before[key], SOUND[name][key]) for key in before), argument
    assert len(found) > 30


@pytest.mark.parametrize("layout", ["reversed", "every other", "broadcast", "fortran"])
@pytest.mark.parametrize("axis", [1, 2])
def test_strides_of_all_kinds_are_taken(layout, axis):
    """The same bits as from copies without gaps."""
    values = np.random.default_rng(0).normal(size=(3, 70, 74)).astype(np.float32)
    x = {
        "reversed": values[..., ::-1],
        "every other": values[..., ::2],
        "broadcast": np.broadcast_to(values[..., :1], values.shape),
        "fortran": values,
    }[layout]
    y = np.empty(x.shape, np.float32, order="C" if layout == "broadcast" else "F")
    weight = np.ones(x.shape[axis:], np.float32)
    status = call("layer_norm", x, weight, weight, axis, 1e-5, y, None, None, 1)
    assert status == 0, text(status)
    np.testing.assert_array_equal(y, normlib.layer_norm(np.array(x), weight, weight, axis=tuple(range(axis, 3))))


def test_axes_that_no_loop_walks():
    x = np.zeros((2, 3, 4, 5), np.float32)
    y = np.empty_like(x)
    turned = x.transpose(1, 0, 3, 2)  # the normalized axes in another order than in memory
    status = call("layer_norm", turned, None, None, 2, 1e-5, y.transpose(1, 0, 3, 2), None, None, 1)
    assert text(status) == "x: these strides are not taken: make a copy without gaps"
    assert kind(status) == "BAD_LAYOUT"


def empty(a):
    """As an empty std::vector describes it: no elements, and no address."""
    return described(a, data=None)


@pytest.mark.parametrize("name", [op for op in SOUND if op.endswith("_backward")])
@pytest.mark.parametrize("mode", [0, 1])
def test_gradients_of_nothing_leave_the_statistics_alone(name, mode):
    arguments = dict(SOUND[name])
    statistics = {key: np.full_like(arguments[key], 7) for key in ("mean", "rstd") if key in arguments}
    x = np.empty((2, 6, 0), np.float32)
    for key in list(arguments):
        if key in ("x", "dy", "dx"):
            arguments[key] = empty(x)
        elif key in MODES:
            arguments[key] = mode
    if name in ("layer_norm_backward", "rms_norm_backward"):  # parameters over the last axis: none
        arguments |= {key: None for key in ("weight", "dweight", "dbias") if key in arguments}
    status = call(name, *(byref(a) if isinstance(a, Array) else a for a in (arguments | statistics).values()))
    ensure(status)
    assert all((a == 7).all() for a in statistics.values())


def anywhere(random, shape, memory):
    """A view of this shape on a part of `memory`, with any strides: gaps, backwards, over itself, broadcast."""
    strides = [random.choice([4, 4, 8, 12, 20, 40, 48, 80, 120, 240, 0, -4, -20, -120]) for _ in shape]
    if random.random() < 0.5:
        strides = [4 * int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape))]
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True) if n > 1]
    start = -sum(step for step in reach if step < 0)
    assert start + sum(step for step in reach if step > 0) + 4 <= memory.nbytes
    return np.lib.stride_tricks.as_strided(memory[start // 4 :], shape, strides)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"])
def test_arrays_anywhere_in_memory(name, record_property):
    """What is taken gives the bits that Python gives; what is refused names an argument and writes nothing."""
    tries, taken, op = effort(300, 30_000), 0, OPS[name]
    memory = np.random.default_rng(0).standard_normal(2000, np.float32)
    for seed in range(tries):
        random = Random(seed)
        shape = tuple(random.choices([0, 1, 2, 3, 4, 5], k=random.randint(2, 4)))
        axis = random.randrange(len(shape)) if op.kind == "feature" else random.choice([1, len(shape) - 1])
        over, target = (axis if op.kind == "channel" else tuple(range(axis, len(shape)))), np.zeros(2000, np.float32)
        x, y = anywhere(random, shape, memory), anywhere(random, shape, target)
        given = [described(a, data=None) if a.size == 0 else Array(a) for a in (x, y)]
        groups, mode = [1] * op.has_groups, [None, None, 1, 0.1] if op.mode else []
        between = [None] * len(op.parameters) + mode + ([axis] if op.kind == "feature" else []) + [1e-5]
        between += [axis] if op.kind == "channel" else []
        status = call(name, byref(given[0]), *groups, *between, byref(given[1]), *[None] * len(op.statistics), 1)
        if status:
            assert text(status).partition(":")[0] in ("x", "y"), (seed, text(status))
            assert not target.any(), seed
            continue
        options = {op.axis_name: over} | ({op.mode: True} if op.mode else {})
        with normlib.backends.use("cython"):
            assert checks.same_bits(y, op.forward(x, *groups, **options, eps=1e-5)), seed
        taken += 1
    assert tries // 10 < taken < tries
    record_property("tried", tries)


def test_no_channels_in_any_number_of_groups():
    x = np.empty((2, 0, 5), np.float32)
    for groups, expected in ((3, "no error"), (2**62, "num_groups: outside its range"), (2**63 - 1, None)):
        status = call("group_norm", x, groups, None, None, 1e-5, 1, x.copy(), None, None, 1)
        assert text(status) == (expected or "num_groups: outside its range")


def test_a_refused_layout_leaves_statistics_alone():
    x = np.zeros((2, 3, 4, 5), np.float32).transpose(0, 1, 3, 2)
    given, mean, rstd = (np.full(3, 0.5) for _ in range(3))
    y = np.empty_like(x)
    status = call("batch_norm", x, None, None, given, given, 0, 0.1, 1e-5, 1, y, mean, rstd, 1)
    assert kind(status) == "BAD_LAYOUT"
    assert (mean == 0.5).all()
    assert (rstd == 0.5).all()


def test_channel_norms_need_channels():
    x = np.zeros(6, np.float32)
    for name in ("batch_norm", "group_norm", "instance_norm"):
        status = call(name, *({**SOUND[name], "x": x}).values())
        assert text(status) == "x: the number of axes or a size does not fit"


@pytest.mark.parametrize(("name", "shape"), [("batch_norm", (1, 6)), ("instance_norm", (2, 6, 1))])
def test_one_value_a_channel(name, shape):
    x = np.zeros(shape, np.float32)
    before = SOUND[name]["running_mean"].copy()
    status = call(name, *({**SOUND[name], "x": x, "y": x.copy()}).values())
    assert kind(status) == "ONE_VALUE"
    assert text(status) == "x: one value a channel has no variance to learn from: more are needed"
    assert np.array_equal(SOUND[name]["running_mean"], before)


def test_instance_norm_needs_statistics():
    arguments = {**SOUND["instance_norm"], "running_mean": None, "running_var": None, OPS["instance_norm"].mode: 0}
    assert text(call("instance_norm", *arguments.values())) == "running_mean: NULL, but it is needed here"


ROWS = {"dtype": F32, "rows": 3, "cols": 8, "x": np.ones((3, 8), np.float32), "weight": np.ones(8, np.float32),
        "bias": np.ones(8, np.float32), "eps": 1e-5, "y": np.zeros((3, 8), np.float32), "threads": 1}  # fmt: skip


@pytest.mark.parametrize("name", ["layer_norm_rows", "rms_norm_rows"])
@pytest.mark.parametrize(("argument", "value", "expected"), [
    ("dtype", -1, "x: not a dtype that is taken here"),
    ("dtype", 4, "x: not a dtype that is taken here"),
    ("rows", -1, "x: the number of axes or a size does not fit"),
    ("cols", -1, "x: the number of axes or a size does not fit"),
    ("rows", 2**62, "x: the number of axes or a size does not fit"),
    ("x", None, "x: NULL, but it is needed here"),
    ("y", None, "y: NULL, but it is needed here"),
    ("x", ("x", 2), "x: an address or stride is no multiple of the size of an element"),
    ("y", ("y", 1), "y: an address or stride is no multiple of the size of an element"),
    ("weight", ("weight", 2), "weight: an address or stride is no multiple of the size of an element"),
    ("bias", ("bias", 2), "bias: an address or stride is no multiple of the size of an element"),
    ("y", ("x", 32), "y: an output shares memory with another argument or with itself"),
    ("y", ("weight", 0), "y: an output shares memory with another argument or with itself"),
    ("y", ("bias", -92), "y: an output shares memory with another argument or with itself"),
    ("eps", -1.0, "eps: outside its range"),
    ("eps", np.nan, "eps: outside its range"),
    ("threads", -1, "threads: outside its range"),
])  # fmt: skip
def test_wrong_rows(name, argument, value, expected):
    """A pair is so many bytes beyond the address of another argument."""
    if name == "rms_norm_rows" and (argument == "bias" or value == ("bias", -92)):
        return
    if isinstance(value, tuple):
        value = ROWS[value[0]].ctypes.data + value[1]
    arguments = {key: a.ctypes.data if isinstance(a, np.ndarray) else a for key, a in {**ROWS, argument: value}.items()}
    if name == "rms_norm_rows":
        del arguments["bias"]
    assert text(C[name](*arguments.values())) == expected
    assert not ROWS["y"].any()


def test_no_rows():
    for rows, cols in ((0, 8), (3, 0)):
        assert C["layer_norm_rows"](F32, rows, cols, None, None, None, 1e-5, None, 1) == 0


def test_texts():
    assert text(0) == "no error"
    for name, number in STATUS.items():
        assert kind(number) == name
        assert text(number)
    for nonsense in (-1, len(NAMES), 256 * 99, 2**31 - 1):
        assert text(nonsense) == "not a status of normlib"


# ---- the header, the table, the module ----


def words(argument):
    """The type of an argument as Cython names it."""
    found = re.sub(r"\w+$", "", argument.strip()).replace("*", " *").split()
    return " ".join([*found[1:2], "const", *found[2:]] if found[0] == "const" else found)


def test_the_header_declares_what_is_compiled():
    """Each member of the table, and each function by name, has the type that the compiled function has."""
    declared = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    members = re.findall(r"(const char \*|int )\(\*(\w+)\)\(([^)]*)\)", declared)
    inline = re.findall(r"static inline (int )normlib_(\w+)\(((?:int dtype|const normlib_array)[^)]*)\)", declared)
    assert [name for _, name, _ in members] == ["error_text", "call", "get_num_threads", "set_num_threads"]
    assert [name for _, name, _ in inline] == [*SOUND, "layer_norm_rows", "rms_norm_rows"]
    assert {name for _, name, _ in members + inline} == set(FUNCTIONS)
    for result, name, arguments in members + inline:
        kinds = ["void"] if arguments == "void" else [words(argument) for argument in arguments.split(",")]
        compiled = capi._signature(capi._capsule(name)).decode()
        assert compiled == f"{'int ' if result == 'int ' else 'char const *'}({', '.join(kinds)})", name


def test_the_header_has_the_version_of_the_package():
    major, minor, patch = re.findall(r"#define NORMLIB_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", HEADER)
    assert f'#define NORMLIB_VERSION "{normlib.__version__}"' in HEADER
    assert normlib.__version__.split(".")[:3] == [major, minor, patch]


# ---- the call as a struct ----

OPTIONS = (("op", ctypes.c_int), ("threads", ctypes.c_int), ("axis", ctypes.c_int), ("mode", ctypes.c_int),
           ("axes", ctypes.c_uint64), ("num_groups", ctypes.c_ssize_t), ("momentum", ctypes.c_double),
           ("eps", ctypes.c_double))  # fmt: skip


class Struct(ctypes.Structure):
    """A normlib_call, and what a later version might have behind it."""

    _fields_ = (("size", ctypes.c_size_t), *OPTIONS,
                *((name, ctypes.POINTER(Array) if name in ROLES else ctypes.c_ssize_t)
                  for name in (*(role for role in ROLES if role not in LATER), *LATER)),
                ("later", ctypes.c_void_p), ("latest", ctypes.c_double))  # fmt: skip


LENGTH = Struct.later.offset


def struct(op, size=LENGTH, **members):
    arrays = {name: ctypes.pointer(Array(a)) for name, a in members.items() if isinstance(a, np.ndarray)}
    return Struct(size=size, op=list(SOUND).index(op), **{**members, **arrays})


def in_struct(*arguments, **members):
    """The status of a call by its struct."""
    return C["call"](byref(struct(*arguments, **members)))


@pytest.mark.parametrize("name", SOUND)
def test_a_struct_is_the_function_by_name(name):
    named = {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in SOUND[name].items()}
    ensure(call(name, *named.values()))
    members = {key: np.empty_like(a) if key in ("y", "dx", "dweight", "dbias") else a for key, a in SOUND[name].items()}
    members = {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in members.items()}
    shared = {"channel_axis": "axis", **dict.fromkeys(MODES, "mode")}
    ensure(in_struct(name, **{shared.get(key, key): a for key, a in members.items()}))
    assert all(checks.same_bits(a, members[key]) for key, a in named.items() if isinstance(a, np.ndarray))


ONE = {"x": np.ones((2, 3, 4), np.float32), "y": np.zeros((2, 3, 4), np.float32), "axis": -1, "eps": 1e-5}


@pytest.mark.parametrize(("size", "later", "expected"), [
    (LENGTH, None, "no error"),
    (LENGTH + 16, None, "no error"),  # a later version, none of whose new members is used
    (LENGTH + 16, 1, "call: not an argument of this function in this version"),
    (Struct.dx.offset, None, "no error"),  # an earlier version, which has fewer arrays
    (Struct.mean.offset, None, "y: NULL, but it is needed here"),
    (4, None, "call: outside its range"),
])  # fmt: skip
def test_a_struct_of_another_version(size, later, expected):
    assert text(in_struct("layer_norm", size, later=later, **ONE)) == expected


@pytest.mark.parametrize(("op", "role"), [("rms_norm", "bias"), ("layer_norm", "running_mean"), ("layer_norm", "dx"),
                                          ("rms_norm", "mean"), ("layer_norm", "dy")])  # fmt: skip
def test_an_array_that_an_op_does_not_take(op, role):
    assert text(in_struct(op, **ONE, **{role: ONE["x"]})) == f"{role}: not an argument of this function in this version"


def test_no_struct_and_no_op():
    assert text(C["call"](None)) == "call: NULL, but it is needed here"
    for op in (-1, 10):
        one = struct("layer_norm", **ONE)
        one.op = op
        assert text(C["call"](byref(one))) == "op: outside its range"


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 2), (0, 1, 2)])
def test_normalizing_over_any_axes(axes):
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    y, mean = np.empty_like(x), np.empty([n for i, n in enumerate(x.shape) if i not in axes])
    status = in_struct("layer_norm", x=x, y=y, mean=mean, eps=1e-5, axes=sum(1 << i for i in axes))
    with normlib.backends.use("cython"):
        expected = normlib.layer_norm(x, axis=axes, return_stats=True)
    if axes == (0, 2):
        assert text(status) == "x: these strides are not taken: make a copy without gaps"
    else:
        ensure(status)
        assert checks.same_bits(y, expected[0])
        assert checks.same_bits(mean, expected[1])
    assert text(in_struct("layer_norm", x=x, y=y, eps=1e-5, axes=1 << 3)) == "axis: outside its range"


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "negative"])
def test_what_follows_a_norm_in_the_same_pass(name, dtype, layout):
    for shape, options in problems(name, "typical"):
        case = Case(name, shape, options, dtype, layout=layout, fused={"add": True, "activation": "relu"})
        x, weight, bias, dy = case.inputs()
        add, op, axis = case.companions()["add"], OPS[name], case.options[OPS[name].axis_name]
        weight, bias = (np.ascontiguousarray(a) for a in (weight, bias))
        with normlib.backends.use("cython"):
            expected = in_python(case, x, weight, bias, dy, {})
        y, dx, dadd = (np.full_like(x, np.nan) for _ in range(3))
        stats = [np.empty(case.geometry.statistics_shape) for _ in op.statistics]
        groups = case.options.get("num_groups")
        given = {"weight": weight, "bias": bias, "add": add, "activation": 1, "num_groups": groups}
        given = {key: value for key, value in given.items() if value is not None}
        if op.kind == "feature":
            given["axes"] = sum(1 << a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
        else:
            given["axis"] = axis
        given.update(zip(op.statistics, stats, strict=True))
        status = in_struct(name, x=x, y=y, eps=case.eps, **given)
        if status:
            assert kind(status) == "BAD_LAYOUT", case
            assert kernels.copies(name, x, axis), case
            continue
        grads = {f"d{parameter}": np.empty_like(weight) for parameter in op.parameters}
        ensure(in_struct(f"{name}_backward", dy=dy, x=x, dx=dx, dadd=dadd, **grads, **given))
        for found, truth in zip([y, *stats, dx, *grads.values(), dadd], expected, strict=True):
            assert checks.same_bits(found, truth), case


def test_what_is_wrong_with_what_follows():
    x = ONE["x"]
    assert text(in_struct("layer_norm", **ONE, activation=7)) == "activation: outside its range"
    assert text(in_struct("layer_norm", **ONE, add=x[:1])) == "add: the number of axes or a size does not fit"
    assert text(in_struct("layer_norm", **ONE, add=x.astype(float))) == "add: not a dtype that is taken here"
    assert text(in_struct("layer_norm", **ONE, dadd=x)) == "dadd: not an argument of this function in this version"
    back = {"x": x.copy(), "dy": x, "mean": np.zeros((2, 3)), "rstd": np.ones((2, 3)), "axis": -1}
    shared = "shares memory with another argument or with itself"
    for role in ("dx", "dadd"):  # x is read after the first of them is written
        status = in_struct("layer_norm_backward", **{"dx": x.copy(), **back, role: back["x"]}, activation=1)
        assert text(status) == f"{role}: an output {shared}"
    status = in_struct("layer_norm_backward", **back, dx=(dx := x.copy()), dadd=dx, activation=1)
    assert text(status).endswith(shared)
    ensure(in_struct("layer_norm_backward", **{**back, "dx": back["dy"].copy()}, activation=1))


def without_strides(a):
    found = Array(a)
    found.strides = None
    return ctypes.pointer(found)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_the_sum_may_be_the_residual_by_the_same_array(op):
    """One normlib_array for both, of a form that fits or does not."""
    x, y, residual = np.ones((2, 8), np.float32), np.zeros((2, 8), np.float32), np.arange(16, dtype=np.float32)
    expected = getattr(normlib, op)(x + residual.reshape(2, 8), eps=1e-5)
    given = {"x": without_strides(x), "y": without_strides(y), "axis": -1, "eps": 1e-5}
    both = without_strides(residual.reshape(2, 8))
    ensure(in_struct(op, **given, residual=both, sum=both))
    assert checks.same_bits(y, expected)
    assert checks.same_bits(residual, np.arange(1, 17, dtype=np.float32))
    for wrong in (residual[:8].reshape(1, 8), residual.reshape(2, 8).astype(np.float64)):
        both, before = without_strides(wrong), wrong.copy()
        assert text(in_struct(op, **given, residual=both, sum=both)).startswith("residual: ")
        assert checks.same_bits(wrong, before)


def test_a_gate_before_the_norm():
    x = np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32)
    gate, rstd, y = x[::-1].copy(), np.empty(3), np.empty_like(x)
    ensure(in_struct("rms_norm", x=x, gate=gate, y=y, rstd=rstd, eps=1e-6, axis=-1, gate_activation=3, gate_first=1))
    with normlib.backends.use("cython"):
        assert checks.same_bits(y, normlib.rms_norm(x, gate=gate, gate_first=True))
        expected = normlib.rms_norm_backward(y, x, rstd=rstd, gate=gate, gate_first=True)
    given = {"x": x, "gate": gate, "gate_activation": 3, "gate_first": 1, "axis": -1}
    back = {**given, "dy": y, "rstd": rstd, "dx": np.empty_like(x), "dgate": np.empty_like(x)}
    ensure(in_struct("rms_norm_backward", **back))
    assert checks.same_bits(back["dx"], expected[0])
    assert checks.same_bits(back["dgate"], expected[2])
    one = {**given, "y": y, "eps": 1e-6}
    assert text(in_struct("rms_norm", **{**one, "gate_first": 2})) == "gate_first: outside its range"
    assert text(in_struct("rms_norm", **{**one, "gate": None})) == "gate: NULL, but it is needed here"
    assert text(in_struct("rms_norm_backward", **{**back, "dgate": None})) == "dgate: NULL, but it is needed here"
    shared = "an output shares memory with another argument or with itself"
    assert text(in_struct("rms_norm", **one, add=y)) == f"y: {shared}"  # which has the product
    for role in ("x", "dy", "gate"):  # so has dgate
        taken = back[role].copy()
        assert text(in_struct("rms_norm_backward", **{**back, role: taken, "dgate": taken})) == f"dgate: {shared}"
        ensure(in_struct("rms_norm_backward", **{**back, role: taken, "dx": taken}))
        assert checks.same_bits(taken, expected[0])
    taken = gate.copy()  # read after dx has the gradient that reaches the norm
    assert text(in_struct("rms_norm_backward", **{**back, "gate": taken, "dx": taken}, activation=1)) == f"dx: {shared}"


def test_the_gradient_of_a_gate_is_not_written_over_what_is_read_later():
    x = np.ones((2, 8), np.float32)
    back = {"dy": x, "rstd": np.ones(2), "dx": x.copy(), "gate": x.copy(), "axis": -1}
    status = in_struct("rms_norm_backward", **back, x=(taken := x.copy()), dgate=taken, gate_activation=3)
    assert text(status) == "dgate: an output shares memory with another argument or with itself"


def test_the_number_of_threads():
    before = normlib.get_num_threads()
    try:
        assert C["set_num_threads"](3) == 0
        assert C["get_num_threads"]() == 3 == normlib.get_num_threads()
        for nonsense in (0, -1, 4097):
            assert text(C["set_num_threads"](nonsense)) == "threads: outside its range"
        assert C["get_num_threads"]() == 3
    finally:
        normlib.set_num_threads(before)


def test_addresses_and_names():
    assert len({address(name) for name in FUNCTIONS}) == len(FUNCTIONS)
    with pytest.raises(ValueError, match=r"there is no function 'softmax', only .*layer_norm"):
        function("softmax")
    with pytest.raises(TypeError, match="a is a list, expected a NumPy array"):
        Array([1.0])
    with pytest.raises(TypeError, match="a has dtype int64, expected float64, "):
        Array(np.zeros(3, int))


@pytest.mark.thread_unsafe(reason="doctest takes the standard output of the process")
def test_the_example_of_the_module():
    failed, tried = doctest.testmod(capi)
    assert tried > 3
    assert failed == 0


def test_without_kernels():
    code = """
import normlib, normlib._kernels as k
k.backend, k._reason = None, "they were not compiled"
try:
    import normlib.capi
except ImportError as error:
    print(error)
"""
    assert python("-c", code).strip() == "normlib.capi: there are no compiled kernels to call: they were not compiled"


def test_a_mask_in_the_struct():
    x, y = np.random.default_rng(0).normal(size=(4, 3, 5)), np.empty((4, 3, 5))
    inside = np.arange(5) < np.array([[5], [2], [0], [3]])
    with normlib.backends.use("cython"):
        expected = normlib.instance_norm(x, where=inside[:, None])
    broadcast = np.broadcast_to(inside[:, None], x.shape)
    for where in (np.ascontiguousarray(broadcast), broadcast):
        ensure(in_struct("instance_norm", x=x, y=y, where=where, axis=1, mode=1, eps=1e-5))
        assert checks.same_bits(y, expected)
    for where, words in ((np.ones_like(x), "not a dtype that is taken here"),
                         (inside, "the number of axes or a size does not fit")):  # fmt: skip
        assert text(in_struct("instance_norm", x=x, y=y, where=where, axis=1, mode=1, eps=1e-5)) == f"where: {words}"
    masked = broadcast.astype(bool)
    assert text(in_struct("layer_norm", x=masked, y=y, axis=-1)) == "x: not a dtype that is taken here"
