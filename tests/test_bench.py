"""The benchmark measures what it says: its cases, its rounds, its peers, its report. Nothing here is timed."""

import functools
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import normlib
from normlib.bench import figures, limit, main, peers, report, runner
from normlib.bench.calls import Contender, arrays, call
from normlib.bench.cases import CHANNEL_LAYOUTS, DTYPES, FEATURE_LAYOUTS, FUSED, GROWTH, LARGE, MODELS, Case, cases
from normlib.bench.peers import build
from normlib.ops import OPS

ROOT = Path(__file__).parents[1]
TINY_SHAPES = {
    "rows": (5, 24),
    "strided": (5, 3, 8),
    "channel_axis": (2, 6, 3, 5),
    "channels_first": (2, 8, 3, 5),
    "channels_last": (2, 8, 3, 5),
    "dense": (6, 8),
}
TINY_BUDGET = runner.Budget(total=0.0, sample=0.0, rounds=(2, 2))


def tiny(norm, layout, *, backward=False, dtype="float32", **options):
    groups = 4 if OPS[norm].has_groups else 0
    return Case("tiny", norm, TINY_SHAPES[layout], layout, dtype, backward, groups=groups, **options)


def tiny_cases():
    for norm, op in OPS.items():
        for layout in FEATURE_LAYOUTS if op.kind == "feature" else CHANNEL_LAYOUTS:
            if layout == "dense" and norm != "batch_norm":
                continue
            for backward in (False, True):
                for training in (True, False) if norm == "batch_norm" else (True,):
                    yield tiny(norm, layout, backward=backward, training=training)


def fused_cases(**options):
    found = {(model.norm, model.fused) for model in FUSED}
    for norm, fused in sorted(found):
        layout = "rows" if OPS[norm].kind == "feature" else "channels_first"
        for backward in (False, True):
            yield tiny(norm, layout, backward=backward, fused=fused, **options)


def needs_bfloat16(case):
    if case.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")


class Clock:
    """A clock that moves on by the cost of what was called."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def contender(self, cost):
        def work():
            self.now += cost

        return Contender(work)


@pytest.mark.parametrize("family", ["plain", "fused"])
def test_names_tell_cases_apart(family):
    names = [case.name for case in cases(family=family)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("quick", [False, True])
def test_every_norm_pass_and_layout_is_measured(quick):
    found = cases(quick=quick)
    for norm in OPS:
        for backward in (False, True):
            assert any(case.norm == norm and case.backward == backward for case in found)
    layouts = {case.layout for case in found}
    assert layouts == {*FEATURE_LAYOUTS, *CHANNEL_LAYOUTS}
    assert {case.dtype for case in found} == set(DTYPES)
    assert {(case.dtype, case.out) for case in cases()} == {(d, o) for d in DTYPES for o in (True, False)}
    assert {case.out for case in found} == {True, False}
    assert {case.training for case in found} == {True, False}


@pytest.mark.parametrize("norm", OPS)
def test_sizes_run_from_cache_to_memory_in_every_dtype(norm):
    found = [case for case in cases() if case.norm == norm]
    assert {case.dtype for case in found} == set(DTYPES)
    assert min(case.bytes for case in found) < 1e6
    assert max(case.bytes for case in found) > 200e6
    assert any(case.bytes > 60e6 for case in found if case.dtype == "bfloat16")


@pytest.mark.parametrize("norm", OPS)
@pytest.mark.parametrize("backward", [False, True])
def test_each_figure_out_of_cache_has_cases(norm, backward):
    found = [c for c in cases() if c.norm == norm and c.backward == backward]
    in_float32 = {(c.layout, c.out) for c in found if c.dtype == "float32" and c.bytes > LARGE}
    layouts = {"layer_norm": ("rows", "channel_axis"), "rms_norm": ("rows",)}.get(
        norm, ("channels_first", "channels_last")
    )
    assert {(layout, out) for layout in layouts for out in (True, False)} <= in_float32
    assert {c.dtype for c in found if c.out and c.bytes > 60e6} >= {"float16", "bfloat16"}


def test_growth_changes_nothing_but_the_length_of_rows():
    found = [case for case in cases() if case.model == GROWTH]
    assert {case.shape[-1] for case in found} >= {64, 65536}
    for key in {(case.norm, case.backward) for case in found}:
        family = [case for case in found if (case.norm, case.backward) == key]
        assert len({case.bytes for case in family}) == 1
        assert len({case.shape[-1] for case in family}) == len(family) > 3


def test_models_are_well_formed():
    for model in (*MODELS, *FUSED):
        assert model.source
        for shape in model.shapes:
            assert all(n > 0 for n in shape)
            assert not model.groups or shape[1] % model.groups == 0
    assert any(model.shapes[0][1] % 8 for model in MODELS if model.norm == "batch_norm")


def test_cases_can_be_chosen():
    assert all(case.norm == "layer_norm" and case.backward for case in cases(only="layer_norm backward"))
    assert {case.model for case in cases(only="Whisper tiny, nnU-Net")} == {"Whisper tiny", "nnU-Net"}
    assert {case.dtype for case in cases(["float16"])} == {"float16"}
    assert cases(only="no such case") == []


def test_a_new_norm_is_measured_without_being_named(monkeypatch):
    monkeypatch.setitem(OPS, "sum_norm", replace(OPS["layer_norm"], name="sum_norm"))
    assert {case.backward for case in cases(only="sum_norm")} == {True, False}


@pytest.mark.parametrize("case", [*tiny_cases(), *(tiny("layer_norm", "rows", dtype=d) for d in DTYPES)], ids=str)
def test_the_call_is_the_public_one(case):
    needs_bfloat16(case)
    given = arrays(case)
    ours = call(case, given)
    assert ours.call.func is getattr(normlib, case.function)
    first, *gradients = ours.outputs(ours.call())
    assert first is given["out"]
    assert first.shape == given["x"].shape
    assert first.dtype == given["x"].dtype
    assert len(gradients) == (len(OPS[case.norm].parameters) if case.backward else 0)
    assert np.isfinite(first.astype(float)).all()
    assert given["x"].nbytes * (3 if case.backward else 2) == case.bytes


def test_the_fused_family_is_every_norm_with_its_neighbours():
    found = cases(family="fused")
    assert {case.norm for case in found} == set(OPS)
    assert {case.fused for case in found} == {
        ("residual",), ("add", "relu"), ("leaky_relu",), ("silu",), ("gelu",)
    }  # fmt: skip
    for dtype in ("float32", "bfloat16"):
        assert {case.backward for case in found if case.dtype == dtype} == {False, True}
        assert {case.shape for case in found if case.dtype == dtype} == {s for model in FUSED for s in model.shapes}
    assert {case.out for case in found if "residual" in case.fused and case.bytes > LARGE} == {False, True}
    assert {case.training for case in found if case.norm == "batch_norm"} == {False, True}
    assert not any(case.fused for case in cases())


@pytest.mark.parametrize("case", [*fused_cases()], ids=str)
def test_a_fused_call_reads_and_writes_the_arrays_that_its_bytes_count(case):
    given = arrays(case)
    ours = call(case, given)
    assert ours.call.func is getattr(normlib, case.function)
    bound = {id(value) for value in (*ours.call.args, *ours.call.keywords.values())}
    assert all(id(given[name]) in bound for name in case.reads)
    written = [array for array in ours.outputs(ours.call()) if array.shape == given["x"].shape]
    assert len(written) == case.writes
    assert sum(given[name].nbytes for name in case.reads) + sum(a.nbytes for a in written) == case.bytes


@pytest.mark.parametrize(
    ("norm", "layout", "backward", "fused", "reads", "writes"),
    [
        ("batch_norm", "channels_first", False, ("add", "relu"), ("x", "add"), 1),
        ("batch_norm", "channels_first", True, ("add", "relu"), ("dy", "x", "add"), 2),
        ("group_norm", "channels_first", False, ("silu",), ("x",), 1),
        ("group_norm", "channels_first", True, ("silu",), ("dy", "x"), 1),
        ("rms_norm", "rows", False, ("residual",), ("x", "residual"), 2),
        ("rms_norm", "rows", True, ("residual",), ("dy", "x", "dsum"), 1),
    ],
)
def test_the_limit_of_a_fused_pass_moves_its_own_bytes(norm, layout, backward, fused, reads, writes):
    case = tiny(norm, layout, backward=backward, fused=fused)
    assert (case.reads, case.writes) == (reads, writes)
    check_limit(case)


@pytest.mark.parametrize("name", ["separate", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peers_compute_the_fused_pass(name, dtype):
    pytest.importorskip("jax" if name == "jax" else "torch")
    found, _ = peers.load((name,), 1)
    for case in [*fused_cases(dtype=dtype), *fused_cases(dtype=dtype, out=False)]:
        needs_bfloat16(case)
        assert name in runner.measure(case, found, 1, TINY_BUDGET).seconds, case.name


def test_onnxruntime_computes_fused_passes_forward():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found, _ = peers.load(("onnxruntime",), 1)
    for case in [*fused_cases(), *fused_cases(out=False), *fused_cases(dtype="bfloat16")]:
        needs_bfloat16(case)
        case = replace(case, training=case.norm != "batch_norm")
        result = runner.measure(case, found, 1, TINY_BUDGET)
        assert not result.refused, case.name
        # In 16 bits it has the norm of a sum alone.
        has_kernels = not case.backward and (case.dtype == "float32" or "residual" in case.fused)
        assert ("onnxruntime" in result.seconds) == has_kernels, case.name


COMPILED = """
from normlib.bench import peers, runner
from normlib.bench.cases import Case

case = Case("tiny", "rms_norm", (5, 24), "rows", "float32", fused=("residual",))
budget = runner.Budget(total=0.0, sample=0.0, rounds=(2, 2))
print(*runner.measure(case, peers.load(("torch.compile",), 1)[0], 1, budget).seconds)
"""


def test_compiled_steps_compute_the_fused_pass():
    """In a process of its own: torch compiles with setuptools, which must come before what another test has of it."""
    pytest.importorskip("torch")
    program = [sys.executable, "-W", "ignore", "-c", COMPILED]
    root = Path(normlib.__file__).parents[1]
    out = subprocess.run(program, capture_output=True, text=True, check=True, cwd=root).stdout
    assert "torch.compile" in out.split()


def test_vllm_computes_rms_norms_of_rows():
    """Where its package is installed, from which the library is taken alone."""
    pytest.importorskip("torch")
    found, missing = peers.load(("vllm",), 1)
    if missing:
        assert "vllm" in missing["vllm"]
        return
    for dtype in ("float32", "float16", "bfloat16"):
        for case in [*tiny_cases(), *fused_cases()]:
            result = runner.measure(replace(case, dtype=dtype), found, 1, TINY_BUDGET)
            assert not result.refused, case.name
            own = case.norm == "rms_norm" and case.layout == "rows" and not case.backward
            assert ("vllm" in result.seconds) == own, case.name


def test_separate_steps_need_torch_for_smooth_activations_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "normlib.bench.peers.pytorch", raising=False)
    found, _ = peers.load(("separate",), 1)
    for case in fused_cases():
        result = runner.measure(case, found, 1, TINY_BUDGET)
        assert not result.refused, case.name
        assert ("separate" in result.seconds) == (case.activation not in ("silu", "gelu"))


def test_a_plain_pass_has_no_separate_steps():
    case = tiny("layer_norm", "rows")
    assert peers.load(("separate",), 1)[0]["separate"].prepare(case, arrays(case)) is None


def test_goals_of_a_family_are_held_against_its_own_cases():
    plain, fused = tiny("layer_norm", "rows"), tiny("layer_norm", "rows", fused=("gelu",))
    measured = [runner.Result(case, {"copy": 1.0, runner.OURS: 2.0, "torch": 8.0}) for case in (plain, fused)]
    lines = [line for line in figures.figures(measured) if line["figure"] == "torch over ours"]
    assert [(line["goal"], line["cases"]) for line in lines] == [(5.0, 1), (1.0, 1), (4.0, 1), (1.0, 1)]
    goals = {line["figure"]: line["goal"] for line in figures.figures(measured[1:])}
    assert goals["x limit: up to 8 MB, float32, silu and gelu"] == 2.5
    assert "x limit: all cases" not in goals


def test_layouts_lie_in_memory_as_they_say():
    assert not arrays(tiny("rms_norm", "strided"))["x"].flags.c_contiguous
    last = arrays(tiny("group_norm", "channels_last"))
    assert last["x"].shape == (2, 3, 5, 8)
    assert last["channel_axis"] == -1
    assert arrays(tiny("layer_norm", "channel_axis"))["weight"].shape == (6,)


def test_fresh_output_is_allocated_by_the_call():
    case = tiny("layer_norm", "rows", out=False)
    ours = call(case, arrays(case))
    assert ours.call() is not ours.call()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("layout", ["rows", "strided"])
def test_the_limit_moves_the_least_bytes(layout, backward, dtype):
    case = tiny("rms_norm", layout, backward=backward, dtype=dtype)
    needs_bfloat16(case)
    check_limit(case)


def check_limit(case):
    copies = limit.limits(case, arrays(case), 1)
    assert set(copies) == set(limit.COPIES if limit.compiled() else ["np.copyto"])
    for name, contender in copies.items():
        contender.call()
        buffers = [value for value in walk(contender.call) if isinstance(value, np.ndarray)]
        if name != "np.copyto":
            assert sum(buffer.nbytes for buffer in buffers) == case.bytes
            target, *sources = buffers
            np.testing.assert_array_equal(target, sum(sources))


def walk(call):
    """Return the arguments of nested partial functions."""
    return [*call.args] if not hasattr(call.func, "func") else [*walk(call.func), *call.args]


def test_contenders_take_turns():
    order = []
    contenders = {name: Contender(lambda name=name: order.append(name)) for name in "abc"}
    runner.time_interleaved(contenders, runner.Budget(total=0.0, sample=0.0, settle=0.0, rounds=(3, 3)))
    assert "".join(order).endswith("aabbcc" * 3)  # each once to warm up, once on the clock


def test_data_settles_in_the_caches_before_a_sample():
    clock = Clock()
    calls = []

    def counted(name, work):
        return Contender(lambda: (calls.append(name), work()))

    costs = {"a": 2e-4, "b": 1e-3, "c": 8e-3}
    contenders = {name: counted(name, clock.contender(cost).call) for name, cost in costs.items()}
    runner.time_interleaved(contenders, runner.Budget(total=0.0, settle=4e-3, rounds=(1, 1), slow=100.0), clock=clock)
    first, sample = 2, {"a": 5, "b": 1, "c": 1}
    settling = {"a": runner.SETTLED, "b": 4, "c": 1}
    assert {name: calls.count(name) - first - sample[name] for name in costs} == settling


def test_a_call_is_timed_as_a_user_writes_it():
    def norm(x, weight, *, axis=-1, eps=0.0):
        return x, weight, axis, eps

    call = runner.written_out(functools.partial(norm, 1, 2, eps=0.5))
    assert type(call) is type(norm)
    assert call() == (1, 2, -1, 0.5)
    plain = functools.partial(norm, 1, 2)
    assert runner.written_out(plain) is plain
    assert runner.written_out(norm) is norm


def test_medians_and_ratios_follow_the_clock(monkeypatch):
    clock = Clock()
    costs = {"copy": 1e-3, "streaming copy": 2e-3, runner.OURS: 1.5e-3, "peer": 6e-3}
    samples = runner.time_interleaved(
        {name: clock.contender(cost) for name, cost in costs.items()},
        runner.Budget(total=1.0, sample=4e-3),
        clock=clock,
    )
    seconds = {name: values[0] for name, values in samples.items()}
    assert seconds == pytest.approx(costs)
    result = runner.Result(tiny("layer_norm", "rows"), seconds)
    assert result.limit == pytest.approx(1e-3)
    assert result.over_limit == pytest.approx(1.5)
    assert result.peers == pytest.approx({"peer": 4.0})


def test_slow_contenders_sit_out():
    clock = Clock()
    contenders = {"fast": clock.contender(1e-3), "slow": clock.contender(1.0)}
    samples = runner.time_interleaved(contenders, runner.Budget(total=100.0, rounds=(3, 10)), clock=clock)
    assert (len(samples["fast"]), len(samples["slow"])) == (10, 1)


def test_noise_is_the_spread_of_samples():
    assert runner.spread([1.0] * 9) == 0
    assert runner.spread([1.0, 2.0, 1.0, 2.0, 1.0]) > runner.NOISY
    noisy = runner.Result(tiny("layer_norm", "rows"), {"copy": 1.0, runner.OURS: 1.0}, noise=0.5)
    assert "too noisy to tell in 1 of 1" in report.summary_text([noisy])
    assert "~1.00" in report.table([noisy])


class Wrong:
    """A peer that computes something else."""

    version = "0"

    def __init__(self, threads=1):
        pass

    def prepare(self, case, given):
        return Contender(lambda: given["x"] * 2, lambda result: [result])


def test_a_peer_that_computes_something_else_is_not_timed():
    result = runner.measure(tiny("layer_norm", "rows"), {"wrong": Wrong()}, 1, TINY_BUDGET)
    assert "wrong" not in result.seconds
    assert "differs" in result.refused["wrong"]
    assert "1 not timed" in report.summary_text([result])


class Failing(Wrong):
    """A peer that cannot do this after all."""

    def prepare(self, case, given):
        raise RuntimeError("no kernel\nfor this")


def test_a_failing_peer_does_not_end_the_run():
    result = runner.measure(tiny("layer_norm", "rows"), {"failing": Failing()}, 1, TINY_BUDGET)
    assert result.refused == {"failing": "RuntimeError: no kernel"}
    assert runner.OURS in result.seconds


PEER_MODULES = {"torch": ["torch"], "torch.compile": ["torch"], "onnxruntime": ["onnx", "onnxruntime"], "jax": ["jax"]}


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "jax", "numpy"])
def test_peers_compute_the_named_pass(name):
    for module in PEER_MODULES.get(name, ()):
        pytest.importorskip(module)
    found, missing = peers.load((name,), 1)
    assert not missing
    extra = [
        tiny(norm, next(iter(FEATURE_LAYOUTS if op.kind == "feature" else CHANNEL_LAYOUTS)), dtype=dtype)
        for norm, op in OPS.items()
        for dtype in ("float64", "float16")
    ]
    extra += [
        tiny("layer_norm", "rows", out=False),
        tiny("instance_norm", "channels_first", affine=False),
        tiny("instance_norm", "channels_first", affine=False, backward=True),
    ]
    extra += [Case("tiny", "group_norm", (2, 8, 15), "channels_last", backward=b, groups=4) for b in (False, True)]
    timed = 0
    for case in [*tiny_cases(), *extra]:
        result = runner.measure(case, found, 1, TINY_BUDGET)
        assert not result.refused, case.name
        timed += name in result.seconds
    compiled = normlib.backends.which("layer_norm") != "numpy"
    assert timed >= 8 if name != "numpy" or compiled else timed == 0


def test_another_build(tmp_path):
    """Its functions are its own, the arrays ours; and what `import` finds stays as it was."""
    shutil.copytree(Path(normlib.__file__).parent, tmp_path / "normlib")
    before = {name: module for name, module in sys.modules.items() if name.startswith("normlib")}
    peer = build.Peer(1, str(tmp_path))
    assert {name: module for name, module in sys.modules.items() if name.startswith("normlib")} == before
    assert peer.other.__file__ == str(tmp_path / "normlib" / "__init__.py")
    for case in tiny_cases():
        ours = call(case, arrays(case))
        theirs = peer.prepare(case, arrays(case))
        assert theirs.call.func is not ours.call.func
        for a, b in zip(theirs.outputs(theirs.call()), ours.outputs(ours.call()), strict=True):
            assert a.tobytes() == b.tobytes()
    with pytest.raises(ImportError, match="there is no package normlib in"):
        build.Peer(1, str(tmp_path / "elsewhere"))
    assert main(["--beside", str(tmp_path / "elsewhere"), "--only", "digits", "--peers", "none"]) == 2


def test_missing_peers_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "normlib.bench.peers.pytorch", raising=False)
    found, missing = peers.load(("torch",), 1)
    assert found == {}
    assert "torch" in missing["torch"]
    with pytest.raises(ValueError, match="no peer is called 'tensorflow'; there are torch"):
        peers.load(("tensorflow",), 1)


def results():
    peer = {"layer_norm": 4e-3, "rms_norm": 5e-4}
    return [
        runner.Result(tiny(norm, "rows"), {"copy": 1e-3, runner.OURS: ours, "peer": peer[norm]}, 0.01, 5)
        for norm, ours in (("layer_norm", 1e-3), ("rms_norm", 4e-3))
    ]


def test_summary_counts_what_is_lost():
    against_limit, against_peer = report.summary(results())
    assert against_limit["mean"] == pytest.approx(2.0)
    assert against_limit["worst"] == pytest.approx(4.0)
    assert against_peer["mean"] == pytest.approx(math.sqrt(4 * 0.125))
    assert (against_peer["lost"], against_peer["worst"]) == (1, pytest.approx(0.125))
    assert report.summary([]) == []


def test_figures_tell_what_is_missed():
    found = {(line["figure"], line["measure"]): line for line in figures.figures(results())}
    line = found["x limit: up to 8 MB, float32", "worst"]
    assert line["value"] == pytest.approx(4.0)
    assert (line["met"], line["missed"]) == (False, 1)
    assert "1 missed" in report.summary_text(results())


def measured(shape=(5, 768), ours=1e-3, model="tiny", **seconds):
    names = {"alone": runner.ALONE, "add": runner.ADD}
    case = Case(model, "layer_norm", shape, "rows", out=False)
    return runner.Result(case, {"copy": 1e-3, runner.OURS: ours, **{names.get(k, k): v for k, v in seconds.items()}})


@pytest.mark.parametrize(
    ("figure", "measure", "given", "value", "met"),
    [
        ("torch over ours", "mean", [measured(torch=4e-3), measured(torch=9e-3)], 6.0, True),
        ("torch over ours", "worst", [measured(torch=0.9e-3), measured(torch=9e-3)], 0.9, False),
        ("jax over ours", "mean", [measured(jax=3e-3), measured()], 3.0, False),
        ("one fresh row of 768: torch over ours", "worst", [measured((1, 768), torch=5e-3)], 5.0, True),
        ("one fresh row of 768: ours over np.add", "worst", [measured((1, 768), add=5e-4)], 2.0, False),
        ("one thread over several: up to 8 MB, over 100 us", "worst", [measured(alone=1.9e-3)], 1.9, True),
        ("one thread over several: all cases", "worst", [measured(alone=1.9e-3), measured(alone=9e-4)], 0.9, False),
        (
            "growth: rows of 64 to 65536 over the fastest",
            "worst",
            [measured((8, 64), 1.0, GROWTH), measured((4, 128), 1.5, GROWTH), measured((8, 128), 9.0, GROWTH)],
            1.5,
            False,
        ),
    ],
)
def test_figures_follow_from_the_times(figure, measure, given, value, met):
    line = next(line for line in figures.figures(given) if (line["figure"], line["measure"]) == (figure, measure))
    assert line["value"] == pytest.approx(value)
    assert line["met"] == met


def test_one_thread_takes_part_where_there_are_several():
    before = normlib.get_num_threads()
    normlib.set_num_threads(2)
    try:
        result = runner.measure(tiny("layer_norm", "rows"), {}, 2, TINY_BUDGET)
        assert normlib.get_num_threads() == 2
        with runner.one_thread():
            assert normlib.get_num_threads() == 1
    finally:
        normlib.set_num_threads(before)
    assert result.speedup == result.seconds[runner.ALONE] / result.ours
    assert not result.peers
    assert "1 thread" in report.table([result])
    assert runner.measure(tiny("layer_norm", "rows"), {}, 1, TINY_BUDGET).speedup is None
    assert "1 thread" not in report.table(results())


def test_table_has_a_line_for_each_case():
    lines = report.table(results()).splitlines()
    assert [line for line in lines if "tiny" in line] == [line for line in lines if " MB" not in line and "x24" in line]
    assert "layer_norm forward" in lines
    assert any("<0.125" in line for line in lines)


def test_command_writes_table_json_and_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("normlib.bench.runner.QUICK", TINY_BUDGET)
    arguments = [
        "--quick",
        "--only",
        "BERT 1x768 float32, digits",
        "--peers",
        "numpy",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "out.json"),
    ]
    with_plot = importlib.util.find_spec("matplotlib") is not None
    if with_plot:
        arguments += ["--plot", str(tmp_path / "out.png")]
    before = normlib.get_num_threads()
    try:
        assert main(arguments) == 0
    finally:
        normlib.set_num_threads(before)
    printed = capsys.readouterr().out
    assert "layer_norm forward" in printed
    assert "against" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["threads"] == 1
    assert written["normlib"] == normlib.__version__
    assert {"norm", "shape", "seconds", "over_limit", "peers", "noise"} <= written["results"][0].keys()
    assert written["summary"][0]["cases"] == len(written["results"]) >= 8
    if with_plot:
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_command_lists_and_complains(capsys):
    assert main(["--list", "--only", "Whisper tiny"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["--only", "no such case"]) == 2
    assert "no case has such a name" in capsys.readouterr().err
    assert main(["--list", "--family", "fused", "--only", "wav2vec2 49x512 forward float32"]) == 0
    assert capsys.readouterr().out.split()[:3] == ["layer_norm", "+", "gelu"]
    with pytest.raises(SystemExit):
        main(["--dtype", "float8"])
    assert "'float8' is none of float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "/nonexistent/x.json"], "there is no folder '/nonexistent' to write 'x.json' to"),
        (["--json", "."], "'.' is a folder, expected a file"),
        (["--plot", "/nonexistent/x.png"], "there is no folder '/nonexistent'"),
        (["--plot", "p.xyz"], "'p.xyz' ends in none of"),
        (["--plot", "p"], "'p' ends in none of"),
        (["--threads", "-1"], "'-1' is no whole number from 1 to 4096"),
        (["--threads", "0"], "'0' is no whole number from 1 to 4096"),
        (["--threads", "two"], "'two' is no whole number from 1 to 4096"),
        (["--peers", "abacus"], "'abacus' is none of"),
    ],
)
def test_command_refuses_before_it_measures(arguments, words, capsys, monkeypatch):
    if "ends in" in words:
        pytest.importorskip("matplotlib")
    monkeypatch.setattr("normlib.bench.runner.measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_a_folder_beside_that_is_none(capsys):
    assert main(["--quick", "--peers", "none", "--beside", "/nonexistent"]) == 2
    assert capsys.readouterr().err.startswith("--beside: ")


@pytest.mark.parametrize("only", ["BERT 1x768 float32 forward", "BERT 1x768 float32 backward"])
def test_a_picture_of_one_pass_alone(only, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("normlib.bench.runner.QUICK", TINY_BUDGET)
    path = tmp_path / "out.png"
    assert main(["--quick", "--only", only, "--peers", "none", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"written: {path}" in capsys.readouterr().out


def test_an_interrupt_ends_with_a_report_of_what_was_measured(capsys, monkeypatch):
    measured = []

    def measure(case, *_):
        if measured:
            raise KeyboardInterrupt
        measured.append(case)
        return runner.Result(case, dict.fromkeys(("normlib", *limit.COPIES), 1e-6))

    monkeypatch.setattr("normlib.bench.runner.measure", measure)
    assert main(["--quick", "--peers", "none"]) == 130
    assert "against" in capsys.readouterr().out


def test_rows_are_marked_where_other_programs_want_the_cores(monkeypatch):
    class Busy:
        def busy(self):
            return 1.5

    monkeypatch.setattr("normlib.bench.runner.Others", Busy)
    monkeypatch.setattr("normlib.bench.runner.cores", lambda: 2)
    result = runner.measure(tiny("layer_norm", "rows"), {}, 1, TINY_BUDGET)
    assert result.shared
    row = next(line for line in report.table([result]).splitlines() if "tiny" in line)
    assert "!" in row
    assert "Other programs wanted our cores in 1 of 1 cases" in report.summary_text([result])


def test_a_comparison_leaves_the_stored_results_alone(tmp_path):
    fake = tmp_path / "asv"
    fake.write_text('#!/bin/sh\necho "$@"; cat "$3"\n')
    fake.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [ROOT / "benchmarks/continuous", "main", "HEAD", "--bench", "Latency"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    said, _, config = out.partition("\n")
    assert said.startswith("continuous --config asv.continuous.")
    assert said.endswith("main HEAD --bench Latency")
    folder = re.search(r'"results_dir": "(.*)"', config)[1]
    assert not Path(folder).exists()
    assert not list((ROOT / "benchmarks").glob("asv.continuous.*"))


@pytest.fixture
def suite(monkeypatch):
    """The asv suite, imported as asv imports it."""
    monkeypatch.syspath_prepend(str(ROOT))
    names = "common fused latency memory moments neighbours publish scaling startup sync throughput views"
    return {name: importlib.import_module(f"benchmarks.{name}") for name in names.split()}


def test_the_suite_knows_every_norm(suite):
    assert set(suite["common"].NORMS) == set(OPS)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("norm", OPS)
def test_the_suite_calls_what_it_names(suite, norm, layout):
    for op in (norm, f"{norm}_backward"):
        call = suite["common"].prepare(op, (2, 8, 4, 4), layout=layout)
        assert call.func is getattr(normlib, op)
        result = call()
        output = result[0] if isinstance(result, tuple) else result
        assert output is call.keywords["out"]
        assert np.isfinite(output).all()


def test_the_suite_skips_what_a_commit_lacks(suite, monkeypatch):
    monkeypatch.delattr(normlib, "rms_norm")
    with pytest.raises(NotImplementedError):
        suite["common"].prepare("rms_norm", (1, 8))


def test_benchmarks_of_the_suite_run(suite, monkeypatch):
    monkeypatch.setitem(suite["common"].SIZES, "cache", (2, 8, 4, 4))
    monkeypatch.setitem(suite["common"].SIZES, "memory", (2, 8, 4, 4))
    for norm in suite["common"].FUSED:
        monkeypatch.setitem(suite["common"].FUSED, norm, ((2, 8), (2, 8)))
    monkeypatch.setitem(suite["moments"].CHUNK, "rows", (4, 8))
    monkeypatch.setattr(suite["sync"].Sync, "params", (((4, 8),), suite["sync"].Sync.params[1]))
    before = normlib.get_num_threads()
    try:
        for name, cls, arguments in (
            ("latency", "Latency", ("instance_norm_backward", "fresh")),
            ("fused", "Fused", ("rms_norm + residual", "backward", "float32", "cache")),
            ("fused", "Fused", ("batch_norm + add + relu", "backward", "float32", "cache")),
            ("fused", "Fused", ("layer_norm + gelu", "forward", "float32", "cache")),
            ("throughput", "Throughput", ("batch_norm_backward", "float32", "channels_last", "cache")),
            ("memory", "Memory", ("layer_norm",)),
            ("scaling", "Scaling", ("group_norm", 1, "memory")),
            ("moments", "Chunks", ("rows", "float32")),
            ("sync", "Sync", ((4, 8), "backward")),
        ):
            benchmark = getattr(suite[name], cls)()
            assert len(benchmark.param_names) == len(benchmark.params) == len(arguments)
            assert all(value in values for value, values in zip(arguments, benchmark.params, strict=True))
            benchmark.setup(*arguments)
            for method in dir(benchmark):
                if method.startswith(("time_", "peakmem_")):
                    getattr(benchmark, method)(*arguments)
                if method.startswith("track_"):
                    assert getattr(benchmark, method)(*arguments) > 0
    finally:
        normlib.set_num_threads(before)
    code, setup = suite["startup"].timeraw_import()
    compile(code + "\n" + setup, "timeraw", "exec")


@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="calls the compiled kernels")
def test_the_benchmark_of_views_computes_norms(suite, tmp_path, monkeypatch):
    pytest.importorskip("Cython")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CFLAGS", "-O0")  # compiles in a third of the time
    benchmark = suite["views"].Views()
    folder = benchmark.setup_cache()
    for norm in benchmark.params[0]:
        benchmark.setup(folder, norm, 1)
        benchmark.time_calls(folder, norm, 1)
        parameters = [benchmark.weight] * (2 if norm == "layer_norm" else 1)
        assert (benchmark.y == getattr(normlib, norm)(benchmark.x, *parameters, eps=1e-5)).all()


@pytest.mark.parametrize(
    ("name", "cls", "lacks"), [("moments", "Chunks", "Moments"), ("sync", "Sync", "sync")], ids=["moments", "sync"]
)
def test_a_commit_without_them_skips_them(suite, monkeypatch, name, cls, lacks):
    monkeypatch.delattr(normlib, lacks)
    benchmark = getattr(suite[name], cls)()
    with pytest.raises(NotImplementedError):
        benchmark.setup(*(values[0] for values in benchmark.params))


PAGE = """<head>
<script src="https://example.org/jquery-3.3.1.min.js" integrity="sha256-0" onerror="js_load_failure()"></script>
<script language="javascript" type="text/javascript" src="asv.js"></script>
<link rel="stylesheet" href="https://example.org/css/bootstrap.min.css" integrity="sha256-0" crossorigin="anonymous">
<a href="https://example.org/asv/">asv</a>
"""


def test_the_dashboard_loads_nothing_from_other_hosts(suite, tmp_path):
    """The libraries of its page come from folders beside it; links for the reader stay."""
    kept, html = tmp_path / "vendor", tmp_path / "html"
    for package, path in (suite["publish"].LIBRARIES[name] for name in ("jquery-3.3.1.min.js", "bootstrap.min.css")):
        (kept / package / path).parent.mkdir(parents=True)
        (kept / package / path).write_text(package)
    html.mkdir()
    (html / "index.html").write_text(PAGE)
    suite["publish"].vendor(html, kept)
    page = (html / "index.html").read_text()
    found = re.findall(r'(?:src|stylesheet" href)="([^"]*)"', page)
    assert len(found) == 3
    assert not [address for address in found if "//" in address]
    beside = [(html / address).read_text() for address in found if address != "asv.js"]
    assert beside == ["jquery@3.3.1", "bootstrap@3.1.1"]
    assert 'href="https://example.org/asv/"' in page
    assert "integrity" not in page


def test_a_library_that_the_dashboard_did_not_have_is_an_error(suite):
    with pytest.raises(ValueError, match=r"asv's page has three\.min\.js, expected only .*jquery"):
        suite["publish"].local('<script src="https://example.org/three.min.js"></script>')
