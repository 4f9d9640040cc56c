"""Arguments of every wrong kind, drawn at random: an error of a kind that a caller expects or a result, never a crash;
inputs and the state of the process stay what they were."""

import ctypes
import ctypes.util
import faulthandler
import math
import sys
from random import Random

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import effort

import normlib
from normlib import description
from normlib.ops import OPS

ALLOWED = (ValueError, TypeError, OverflowError, MemoryError)
FUNCTIONS = {f.__name__: (op, f) for op in OPS.values() for f in (op.forward, op.backward)}
TRIES = effort(700, 10_000)  # on each backend
DTYPES = ["f4", "f4", "f4", "f8", "f2", ml_dtypes.bfloat16, ">f4", ">f8", "i4", "?", "c8", "O", "U3", "M8[s]", "V4",
          "g", ml_dtypes.float8_e4m3, [("a", "f4"), ("b", "i2")]]  # fmt: skip
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 5e-324, 3.4e38, 1.7e308, 65504.0]

libm = ctypes.CDLL(ctypes.util.find_library("m")) if sys.platform.startswith("linux") else None


def floating_point():
    """Rounding, traps, flush-to-zero: what a call must not leave changed. The flags of past exceptions do not count."""
    if libm is None:
        return None
    environment = (ctypes.c_uint32 * 16)()
    libm.fegetenv(environment)
    return libm.fegetround(), environment[0] & 0xFFFF, environment[7] & 0xFFC0  # x86: x87 control word, MXCSR


def state():
    errors = tuple(sorted(np.geterr().items()))
    return floating_point(), normlib.get_num_threads(), normlib.backends.active(), errors, sys.getrecursionlimit()


class Hostile:
    """Raises where it is looked at."""

    def __init__(self, error):
        self.error = error

    def __array__(self, *_, **__):
        raise self.error

    __index__ = __float__ = __bool__ = __len__ = __array__


class Subclass(np.ndarray):
    pass


def any_array(random, shape=None, dtype=None):
    """An array of any dtype, shape and strides: gaps, backward axes, broadcast, unaligned, read-only, a subclass."""
    dtype = np.dtype(random.choice(DTYPES) if dtype is None or random.random() < 0.05 else dtype)
    if shape is None or random.random() < 0.05:
        shape = tuple(random.choices(range(7), k=random.randrange(6)))
        if random.random() < 0.05:
            shape += (1,) * random.randint(27, 59)
    steps = [random.choice([1, 1, 1, 2, -1, -3]) if n > 1 else 1 for n in shape]
    room = [abs(s) * n for s, n in zip(steps, shape, strict=True)]
    size = math.prod(room)
    values = np.resize(np.linspace(-3.0, 7.0, 11), size)
    values[: random.randrange(3)] = random.choice(SPECIAL)
    try:
        values = values.astype(dtype)
    except (TypeError, ValueError):
        values = np.zeros(size, dtype)
    if not dtype.hasobject and random.random() < 0.1:  # unaligned
        raw = np.zeros(values.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(values.tobytes(), np.uint8)
        values = raw[1:].view(dtype)
    a = values.reshape(room)[(*(slice(None, None, s) for s in steps), ...)]
    kind = random.randrange(20)
    if kind == 0 and a.size:
        return as_strided(a, a.shape, [0] * a.ndim)
    if kind == 1:
        return a.T
    if kind == 2:
        return a.view(Subclass)
    if kind == 4 and a.ndim:
        return np.moveaxis(a, 0, -1)
    a.flags.writeable = kind != 3
    return a


ODDITIES = [
    None, True, False, 0, 1, -1, 2, 5, -7, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, 0.5, -1.0, 1e300, 1e-320,
    math.inf, math.nan, 1j, "", "x", b"y", [], (), {}, (0, 1), (1, 1), (0, -1), [0, 1], (None,), (2**70,), (0.0,),
    [[1.0], [2.0, 3.0]], [[[1e400, -1e400]] * 3] * 2, [[1, 2], [3, 4]], object(), print, range(3), {1, 2}, ...,
    NotImplemented, bytearray(8), np.float64("nan"), np.float32(0.1), np.int8(-1), np.uint64(2**64 - 1),
    np.bool(True), np.str_("x"), np.array(7), np.array(None), np.ma.masked_array([1.0, 2.0], [0, 1]), np.dtype("f4"),
    Hostile(ValueError("hostile")), Hostile(TypeError("hostile")), Hostile(MemoryError("hostile")),
]  # fmt: skip


def any_call(random, name):
    """Arguments that would be right, some of them replaced."""
    op, function = FUNCTIONS[name]
    backward = name != op.name
    dtype = random.choice(["f4", "f4", "f8", "f2", ml_dtypes.bfloat16])
    shape = tuple(random.choices(range(8), k=random.randint(1 if op.kind == "feature" else 2, 4)))
    axis = random.randrange(-len(shape), len(shape))
    arguments = {"x": any_array(random, shape, dtype), op.axis_name: axis}
    if op.has_groups:
        divisors = [n for n in range(1, 8) if shape[axis] % n == 0]
        arguments["num_groups"] = random.choice([*divisors, *divisors, 2, 3])
    groups = [arguments["num_groups"]] if op.has_groups else []
    parameter, statistic = op.parameter_shape(shape, axis), op.statistics_shape(shape, axis, *groups)
    kept = op.kept_shape(shape, axis)
    for n in ("weight",) if backward else op.parameters:
        if random.random() < 0.5:
            leading = tuple(random.choice([1, size]) for size in kept[random.randint(0, len(kept)) :])
            own = random.choice([(), leading]) + parameter
            arguments[n] = any_array(random, own, random.choice([dtype, dtype, "f4"]))
    if backward:
        arguments["dy"] = any_array(random, shape, dtype)
        arguments |= {n: any_array(random, statistic, random.choice(["f8", "f4"])) for n in op.statistics}
        arguments["weight_grads"] = random.choice([None, True, False])
    else:
        arguments |= {"return_stats": random.random() < 0.5, "eps": random.choice([0, 0.0, 1e-5, 1.0])}
        if op.mode and random.random() < 0.5:
            pair = ("running_mean", "running_var")
            arguments |= {n: any_array(random, parameter, random.choice(["f8", "f4"])) for n in pair}
            arguments["momentum"] = random.choice([0, 0.1, 1.0])
    if op.mode:
        arguments[op.mode] = random.random() < 0.5
    if random.random() < 0.4:
        arguments |= any_fused(random, name, shape, parameter, dtype)
    x, where = arguments["x"], random.randrange(6)
    if where == 0:
        arguments["out"] = any_array(random, shape, dtype)
    elif where == 1:  # in place, or over any other argument
        arguments["out"] = arguments[random.choice(sorted(arguments))]
    elif where == 2 and x.ndim:  # a part of x, shifted, reversed or turned
        arguments["out"], arguments["x"] = random.choice([(x[1:], x[:-1]), (x[::-1], x), (x.T, x), (x[:1], x)])
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        n = random.choice([*arguments, "out"])
        arguments[n] = random.choice(ODDITIES) if random.random() < 0.7 else any_array(random)
    return function, arguments


OF_GATES = "gate_activation", "gate_first"


def any_fused(random, name, shape, parameter, dtype):
    """What is computed in the same pass: some of it, mostly what goes together."""
    arguments = {}
    for argument in description.FUNCTIONS[name].fused.values():
        if random.random() < 0.5:
            continue
        if isinstance(argument, description.Role):
            arguments[argument.name] = any_array(random, parameter if argument.kind == "parameter" else shape, dtype)
        else:
            arguments[argument.name] = random.choice(argument.choices or [0.5, -1, 0, True])
    if random.random() < 0.9:
        needs = {"residual_out": "residual", "negative_slope": "activation", **dict.fromkeys(OF_GATES, "gate")}
        for by, needed in needs.items():
            if needed not in arguments or (by == "negative_slope" and arguments[needed] != "leaky_relu"):
                arguments.pop(by, None)
    if "residual" in arguments and random.random() < 0.2:
        arguments["residual_out"] = arguments["residual"]
    return arguments


def content(value):
    return value.tobytes() if isinstance(value, np.ndarray) and not value.dtype.hasobject else None


def same_memory(a, b):
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)


@pytest.fixture(autouse=True)
def no_hang():
    faulthandler.dump_traceback_later(effort(600, 1800), exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def no_more_memory_than_there_is():
    """As Linux promises: 2**31 groups of no channels ask for statistics that would end the process as they are set."""
    if libm is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_crash(name, backend, record_property):
    counts = {"result": 0, "error": 0}
    with normlib.backends.use(backend):  # what the compiled one declines goes the general way, as a user has it
        for seed in range(TRIES):
            outcome = attempt(*any_call(Random(f"{name} {seed}"), name), f"seed {seed}")
            counts[outcome] += 1
    record_property("tried", TRIES)
    assert min(counts.values()) > TRIES // 20, counts  # the draw is neither too wild nor too tame


def attempt(function, arguments, seed):
    written = [arguments.get(n) for n in ("out", "residual_out", "running_mean", "running_var")]
    inputs = {n: content(a) for n, a in arguments.items() if not any(same_memory(a, w) for w in written)}
    before, outcome = state(), "result"
    try:
        function(**arguments)
    except ALLOWED as error:
        outcome = "error" if str(error) else "an error that says nothing"
    except Exception as error:
        raise AssertionError(f"{seed}: {function.__name__}(**{arguments!r})") from error
    assert outcome in ("result", "error"), seed
    assert state() == before, seed
    for n, value in inputs.items():
        assert content(arguments[n]) == value, f"{seed}: {n} was written to"
    return outcome


@pytest.mark.skipif(libm is None, reason="reads the floating-point environment of glibc on x86")
def test_the_state_shows_flush_to_zero():
    before = (ctypes.c_uint32 * 16)()
    libm.fegetenv(before)
    changed = (ctypes.c_uint32 * 16)(*before)
    changed[7] |= 0x8000
    seen = floating_point()
    libm.fesetenv(changed)
    try:
        assert floating_point() != seen
    finally:
        libm.fesetenv(before)
    assert floating_point() == seen
