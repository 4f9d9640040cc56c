"""The machine's caches: how they are found, what follows from them, and that no bit of a result does."""

import os
import re
import subprocess
import sys

import digests
import numpy as np
import pytest
from support import effort

import normlib
from normlib import _kernels, _machine
from normlib._machine import Caches, caches, wanted
from normlib.bench import main, runner, tune
from normlib.ops import OPS
from normlib.testing import LAYOUTS, Case, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible, constant

K, M = 1 << 10, 1 << 20
DTYPES = [dtype.name for dtype in dtypes()]
compiled = pytest.mark.skipif(_kernels.backend is None, reason="the kernels go by them")


# ---- what the system says ----


def sysfs(root, *levels, core=0):
    """A tree like that of Linux: (level, type, size, the cores that share it) for each cache of a core."""
    for index, (level, kind, size, shared) in enumerate(levels):
        folder = root / f"cpu{core}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        facts = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared, "coherency_line_size": 64}
        for name, value in facts.items():
            (folder / name).write_text(f"{value}\n")
    return str(root)


@pytest.fixture
def first_core(monkeypatch):
    monkeypatch.setattr(_machine, "_allowed", lambda: {0, 1})
    monkeypatch.delenv("NORMLIB_CACHES", raising=False)


L1D, L1I = (1, "Data", "48K", "0"), (1, "Instruction", "32K", "0")
SMT = [(1, "Data", "48K", "0,64"), (2, "Unified", "2048K", "0,64"), (3, "Unified", "107520K", "0-31,64-95")]
EDRAM = [(1, "Data", "32K", "0"), *((level, "Unified", size, "0-3") for level, size in ((3, "6M"), (4, "128M")))]
CLUSTER = [(1, "Data", "32K", "0"), (2, "Unified", "4096K", "0-3"), (3, "Unified", "36864K", "0-23")]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([L1D, L1I, (2, "Unified", "1024K", "0"), (3, "Unified", "32768K", "0-7")], (48 * K, M, 32 * M, 1, 8)),
        (SMT, (48 * K, 2 * M, 105 * M, 1, 32)),
        (CLUSTER, (32 * K, 4 * M, 36 * M, 4, 24)),
        ([L1D, (2, "Unified", "1024K", "0-3")], (48 * K, M, M, 4, 4)),
        (EDRAM, (32 * K, M, 128 * M, 1, 4)),
    ],
    ids=["a core's own L2", "hyper-threads are no cores", "an L2 of four cores", "L2 is the LLC", "an L4"],
)  # fmt: skip
def test_what_sysfs_says(levels, expected, first_core, tmp_path):
    assert caches(root=sysfs(tmp_path, *levels))[:5] == expected


def test_cores_of_several_kinds_go_by_the_first_that_is_allowed(monkeypatch, first_core, tmp_path):
    sysfs(tmp_path, (1, "Data", "48K", "0"), (2, "Unified", "2048K", "0"), core=0)
    sysfs(tmp_path, (1, "Data", "32K", "8"), (2, "Unified", "4096K", "8-11"), core=8)
    assert caches(root=str(tmp_path))[:2] == (48 * K, 2 * M)
    monkeypatch.setattr(_machine, "_allowed", lambda: {8, 9})
    assert caches(root=str(tmp_path))[:4] == (32 * K, 4 * M, 4 * M, 4)


@pytest.mark.parametrize("size", ["", "unknown", "32X", "K"])
def test_what_cannot_be_read_is_left_at_what_is_usual(size, first_core, tmp_path):
    found = caches(root=sysfs(tmp_path, (1, "Data", size, "0"), (2, "Unified", "512K", "0")))
    assert (found.l1, found.l2) == (Caches().l1, 512 * K)


def test_without_sysfs_the_system_is_asked(first_core, tmp_path):
    asked = {"l1": 128 * K, "l2": 12 * M, "l2_cores": 4, "line": 128}
    assert caches(lambda: asked, root=str(tmp_path))[:6] == (128 * K, 12 * M, 12 * M, 4, 4, 128)


def test_no_llc_beyond_the_usual_is_taken_from_sysconf(first_core, tmp_path):
    """It may be that of all sockets."""
    assert caches(lambda: {"l2": M, "llc": 320 * M}, root=str(tmp_path)).llc == Caches().llc


def test_a_system_that_tells_nothing(first_core, tmp_path):
    assert caches(root=str(tmp_path))[:6] == Caches()[:6]


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="other systems may not tell")
def test_the_system_can_be_asked():
    from normlib._kernels import machine

    assert set(machine.ask_system()) <= set(Caches._fields)
    assert all(value > 0 for value in machine.ask_system().values())


# ---- NORMLIB_CACHES ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("L1=48K", {"l1": 48 * K}),
        ("L2=2M,LLC=1G", {"l2": 2 * M, "l2_cores": 1, "llc": 1024 * M, "llc_cores": 1}),
        (" l1 = 32kb , thread=4096 ", {"l1": 32 * K, "thread": 4096}),
    ],
)
def test_sizes_that_are_wanted(text, expected):
    assert wanted(text) == expected


BAD = ["L1", "L1=", "L1=0", "L1=-1K", "L1=1.5M", "L4=1M", "32K", "L1=32K;L2=1M", "LLC=2T", "LLC=9999G", "L1=32K,x"]


@pytest.mark.parametrize("text", BAD)
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match=r"^NORMLIB_CACHES is '.*', expected sizes such as 'L1=32K,L2=1M,LLC=32M"):
        wanted(text)


def python(*arguments, **environment):
    env = os.environ | {"NORMLIB_BACKEND": "", "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)


@compiled
def test_the_kernels_follow_the_variable():
    code = "from normlib._kernels import machine; print(machine.thresholds()['stream'])"
    assert python("-c", code, NORMLIB_CACHES="LLC=8M").stdout.strip() == str(6 * M)
    code = "import normlib; print(normlib.show_config('dicts')['caches']['l2'])"
    assert python("-c", code, NORMLIB_CACHES="L2=4M").stdout.strip() == str(4 * M)


@compiled
def test_a_variable_that_cannot_be_understood_is_told_by_the_first_call():
    text = "ImportError: NORMLIB_CACHES is 'much', expected sizes such as 'L1=32K,L2=1M,LLC=32M,THREAD=1M'"
    done = python("-c", "import normlib; print('imported'); normlib.layer_norm([1.0])", NORMLIB_CACHES="much")
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("imported\n", text)


@compiled
def test_info_shows_them(capsys):
    normlib.show_config()
    assert f"caches:         {_kernels.info()['caches']}\n" in capsys.readouterr().out
    assert str(Caches(llc_cores=8)) == "L1 32 KB, L2 1 MB, LLC 32 MB for 8 cores; lines of 64 bytes, pages of 4096"


# ---- what follows ----


@pytest.fixture
def thresholds():
    """Those of other machines, by (l1, l2, llc, thread); those of this one come back after the test."""
    from normlib._kernels import machine

    before = machine.thresholds()

    def of(*sizes):
        machine.follow(*sizes)
        return machine.thresholds()

    yield of
    machine.override(**before)


@compiled
def test_the_rules(thresholds):
    """On the machine where they were found."""
    sizes = {"l1": 32 * K, "l2": M, "llc": 32 * M, "thread": M}
    expected = sizes | {"beyond_l2": 8 * M, "beyond_llc": 24 * M, "stream": 24 * M}
    assert thresholds(32 * K, M, 32 * M, M) == expected


@compiled
@pytest.mark.parametrize(
    "sizes",
    [(1,) * 4, (32 * K, 256 * K, 2 * M, M), (64 * K, 12 * M, 12 * M, M), (K, 4 * M, M, M), (1 << 40,) * 4],
)
def test_thresholds_are_in_order_on_any_machine(sizes, thresholds):
    found = thresholds(*sizes)
    assert min(found.values()) > 0
    assert found["beyond_l2"] <= found["beyond_llc"] <= found["stream"]


@compiled
def test_a_threshold_that_there_is_not():
    from normlib._kernels import machine

    with pytest.raises(ValueError, match=r"^override: expected l1, l2, llc, thread, .*, received l9$"):
        machine.override(l9=1)


# ---- and what does not: the bits ----

TINY = (1 * K,) * 4  # nearly all streams, on several threads, in the smallest strips, lots and chunks
SMALL = (4 * K, 64 * K, 256 * K, 16 * K)
HUGE = (1 << 40,) * 4
MACHINES = {"tiny": TINY, "small": SMALL, "huge": HUGE}


@compiled
@pytest.mark.share(3)
@pytest.mark.parametrize("setting", ["L1=1K,L2=1K,LLC=1K,THREAD=1K", "L2=64K,LLC=1M", "L1=1G,L2=1G,LLC=1G,THREAD=1G"])
def test_stored_digests(setting):
    done = python("-W", "ignore", digests.__file__, NORMLIB_CACHES=setting)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert ", 0 differ" in done.stdout


def results(case, threads):
    with normlib.backends.use("cython", strict=True), normlib.num_threads(threads):
        return checks.results(case)


@compiled
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_on_other_machines(op, dtype, thresholds):
    """Shapes, orders in memory and options at random, of some ten thousand elements."""
    rng = np.random.default_rng([*op.encode(), *dtype.encode()])
    tried = 0
    for _ in range(effort(40, 2000)):
        case = random_case(op, dtype, rng)
        thresholds(32 * K, M, 32 * M, M)
        expected = results(case, 1)
        for name, sizes in MACHINES.items():
            thresholds(*sizes)
            found = results(case, int(rng.integers(1, 4)))
            same = [checks.same_bits(a, b) for a, b in zip(found, expected, strict=True)]
            assert all(same), f"{case} on a {name} machine"
            tried += 1
    assert tried >= 100


def random_case(op, dtype, rng):
    _, options = problems(op, "typical")[0]
    while True:
        sizes = rng.choice([1, 2, 3, 5, 8, 17, 33, 64, 100, 257, 400, 1030], size=rng.integers(2, 5))
        if not 200 <= np.prod(sizes) <= 60_000:
            continue
        shape, ndim = tuple(int(size) for size in sizes), len(sizes)
        if OPS[op].kind == "feature":
            own = {"axis": int(rng.integers(ndim)) if rng.random() < 0.7 else tuple(range(1, ndim))}
        else:
            own = {"channel_axis": int(rng.choice([1, ndim - 1]))}
            if OPS[op].has_groups:
                channels = shape[own["channel_axis"]]
                own["num_groups"] = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
        case = Case(op, shape, {**options, **own}, dtype, layout=str(rng.choice(list(LAYOUTS))))
        if OPS[op].mode is not None and rng.random() < 0.3:
            case = constant(case)
        values = np.prod(shape) // shape[own.get("channel_axis", 0)] // (shape[0] if op == "instance_norm" else 1)
        if _possible(case) and values > 1:  # a channel
            return case


CHANNELS = {
    "normal": lambda x: None,
    "far from zero": lambda x: np.add(x, 1e6, out=x),
    "an outlier in the sample of the first mean": lambda x: x[0, :, 3].__imul__(1e4),
    "one constant": lambda x: x[:, -1].fill(5),
    "squares beyond float32": lambda x: np.multiply(x[:, 0], 1e30, out=x[:, 0]),
    "all tiny": lambda x: np.multiply(x, 1e-38, out=x),
    "one with a NaN": lambda x: x[1, -1, 7:8].fill(np.nan),
}


@compiled
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("length", [60, 255, 256, 257, 768, 1023, 1024, 1025, 3137])
def test_bits_of_channels_that_are_summed_while_others_are_written(length, channels, thresholds):
    """Batch norm in training and its gradients, in memory: runs end within rounds of sums, with them, and beyond."""
    rng = np.random.default_rng(length)
    for samples, many, threads in [(1, 3, 1), (2, 1, 1), (3, 5, 1), (17, 4, 1), (4, 9, 2)]:
        x = rng.standard_normal((samples + 1, many, length), dtype=np.float32)
        channels(x)
        weight, bias = rng.standard_normal((2, many), dtype=np.float32)
        dy = rng.standard_normal(x.shape, dtype=np.float32)
        found = []
        for sizes in (TINY, HUGE):
            thresholds(*sizes)
            running = np.zeros(many), np.ones(many)
            out, dx = np.zeros((2, x.size + 5), np.float32)[:, 5:].reshape(2, *x.shape)  # begin within a line
            with normlib.backends.use("cython", strict=True), normlib.num_threads(threads), np.errstate(all="ignore"):
                moving = {"running_mean": running[0], "running_var": running[1], "training": True}
                results = normlib.batch_norm(x, weight=weight, bias=bias, **moving, out=out, return_stats=True)
                gradients = normlib.batch_norm_backward(dy, x, weight, mean=results[1], rstd=results[2], out=dx)
            found.append([*results, *running, *gradients])
        for a, b in zip(*found, strict=True):
            assert checks.same_bits(np.where(np.isnan(a), 0, a), np.where(np.isnan(b), 0, b))
            assert np.array_equal(np.isnan(a), np.isnan(b))


# ---- normlib bench --tune ----

SIZES = [6 * M, 12 * M, 24 * M, 48 * M]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.5, 1.2, 0.9, 0.7], "right: it takes at most 0.90 times the other choice's time"),
        ([1.5, 0.95, 1.05, 0.7], "right: it takes at most 1.05 times the other choice's time"),
        ([0.9, 1.3, 0.8, 0.7], "right on the whole: up to 1.11 times the other choice's time, but none is better"),
        ([1.5, 0.7, 0.7, 0.6], "off: it takes up to 1.43 times the other choice's time; try NORMLIB_CACHES=LLC=12M"),
        ([1.5, 1.4, 1.3, 0.6], "off: it takes up to 1.30 times the other choice's time; try NORMLIB_CACHES=LLC=48M"),
        ([1.5, 1.4, 1.3, 1.2], "off: it takes up to 1.30 times the other choice's time; try NORMLIB_CACHES=LLC=96M"),
    ],
    ids=["right", "nearly", "noise", "too late", "too early", "never"],
)
def test_what_is_said_of_a_rule(ratios, verdict):
    """By the times of one choice over those of the other."""
    setting = lambda size: f"LLC={tune._short(size)}"  # noqa: E731
    lines, found = tune._judged("head", dict(zip(SIZES, ratios, strict=True)), 24 * M, setting)
    assert found == verdict
    assert [line.split()[0] for line in lines] == ["head", "6", "12", "24", "48"]
    assert [line.endswith("from here on") for line in lines] == [False, False, False, True, False]


@compiled
def test_tune_measures_each_threshold_and_leaves_it_as_it_was(monkeypatch, thresholds, capsys):
    from normlib._kernels import machine

    before = thresholds(32 * K, 64 * K, 256 * K, 32 * K)
    monkeypatch.setattr(_kernels, "_caches", Caches(l1=16 * K, l2=64 * K, llc=256 * K, thread=32 * K))
    monkeypatch.setattr(tune, "BUDGET", runner.Budget(total=0, sample=0, rounds=(2, 2)))
    assert main(["--tune"]) == 0
    out = capsys.readouterr().out
    assert machine.thresholds() == before
    assert out.startswith("caches: L1 16 KB, L2 64 KB, LLC 256 KB")
    assert len(re.findall(r"^=> (right|off|not measured)\b.*$", out, re.MULTILINE)) == 3
    assert re.findall(r"in (L1|L2|LLC|memory)\b", out) == ["L1", "L2", "LLC", "memory"]


@compiled
@pytest.mark.parametrize(("busy", "told"), [(None, False), (0.1, False), (0.8, True)])
def test_tune_tells_when_other_programs_disturb(busy, told, monkeypatch, capsys):
    monkeypatch.setattr(tune.Others, "busy", lambda self: busy)
    for part in ("_copies", "_streams", "_hand_over"):
        monkeypatch.setattr(tune, part, lambda caches: ([], "right"))
    assert main(["--tune"]) == 0
    assert capsys.readouterr().out.endswith("measure again when they do not.\n") == told


def test_tune_needs_the_kernels(monkeypatch, capsys):
    monkeypatch.setattr(_kernels, "_caches", None)
    assert main(["--tune"]) == 2
    assert capsys.readouterr().err == "--tune: there are no compiled kernels to measure\n"


@compiled
def test_an_llc_that_is_not_there(monkeypatch):
    """The copies of half of it are no faster than those in memory, down to a size that some cache holds."""
    monkeypatch.setattr(tune, "_copy_speeds", lambda size: (30.0, 20.0) if size <= 3 * M else (10.0, 12.0))
    found = [tune._copies(Caches(llc=llc))[1] for llc in (4 * M, 32 * M)]
    assert found == ["right: an LLC of 4 MB is seen", "off: no LLC of 32 MB is seen; try NORMLIB_CACHES=LLC=4M"]
