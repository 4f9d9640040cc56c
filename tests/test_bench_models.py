"""normlib bench --model: what it measures of a model in torch, what it says of it, and what it refuses."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from torch import nn  # noqa: E402

import normlib  # noqa: E402
import normlib.interop.torch as nt  # noqa: E402
from normlib.bench import main, models, runner, shares  # noqa: E402
from normlib.bench.model_report import Result, report  # noqa: E402

C = 8
ONCE = runner.Budget(total=0.0, sample=0.0, settle=0.0, rounds=(1, 1), slow=float("inf"))


class Odd(nn.Module):
    """Not what normlib computes; a norm by its name."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(C)), 1e-5

    def forward(self, x):
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


OddNorm = type("OddNorm", (Odd,), {})


def tiny():
    return nn.Sequential(nn.Linear(C, C), nn.LayerNorm(C), nn.Dropout(0.5), OddNorm())


class Named(nn.Module):
    """Takes its arguments by name, and returns a dictionary, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(10, C), nn.RMSNorm(C)

    def forward(self, words, mask=None):
        return {"hidden": self.norm(self.embedding(words)), "words": words, "more": (self.embedding(words),)}


class WithInputs(Named):
    dummy_inputs = {"words": torch.zeros(1, 2, dtype=torch.int64)}  # noqa: RUF012


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(models, "BUDGET", ONCE)
    monkeypatch.setattr(models, "QUICK", ONCE)
    monkeypatch.setattr(shares, "SECONDS", 0.0)


@pytest.fixture
def mine(monkeypatch):
    """A module of a user, with functions to come."""
    module = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def lines_of(printed, model):
    return [line.split() for line in printed.splitlines() if line.startswith(f"{model} ")]


def test_a_model_is_measured_in_inference_and_in_a_training_step_on_each_number_of_threads(mine, capsys, tmp_path):
    model = tiny()
    mine.make = lambda: (model, (torch.randn(3, C),))
    before = torch.get_num_threads(), normlib.get_num_threads()
    assert main(["--model", "mine:make", "--threads", "1,2", "--json", str(tmp_path / "out.json")]) == 0
    assert (torch.get_num_threads(), normlib.get_num_threads()) == before
    printed = capsys.readouterr().out
    found = [(line[2], line[3]) for line in lines_of(printed, "make")]
    assert found == [(kind, threads) for kind in ("inference", "training") for threads in "12"]
    assert "1 of 2" in printed
    assert "1 OddNorm: it computes something else" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    for result in written["results"]:
        assert result["ratios"].keys() == {"accelerate", "install"} - result["refused"].keys()
        assert "accelerate" in result["ratios"]
        assert 0 < result["share"] < 1
    assert type(model[1]) is nn.LayerNorm


def test_inputs_may_be_a_tuple_a_dictionary_or_a_tensor_and_several(mine, capsys):
    words = torch.zeros(2, 5, dtype=torch.int64)
    mine.make = lambda: {
        "positional": lambda: (Named(), (words, None)),
        "named": lambda: (Named(), {"words": words[:1]}, {"words": words}),
        "tensor": lambda: (Named(), words),
        "own": WithInputs,
    }
    assert main(["--model", "mine:make", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "positional 2x5 inference", "positional 2x5 training",
        "named 1x5 inference", "named 2x5 inference", "named 2x5 training",
        "tensor 2x5 inference", "tensor 2x5 training",
        "own 1x2 inference", "own 1x2 training",
    ]  # fmt: skip
    assert main(["--model", "mine:make", "--only", "named training, own inference", "--threads", "1", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert [line[:3] for line in lines_of(printed, "named")] == [["named", "2x5", "training"]]
    assert [line[:3] for line in lines_of(printed, "own")] == [["own", "1x2", "inference"]]
    assert not lines_of(printed, "tensor")


def test_a_norm_alone_is_measured_with_gradients_recorded_too_and_stays_in_its_mode(mine, capsys):
    norm = nn.BatchNorm1d(C).eval()
    mine.make = lambda: (norm, torch.randn(4, C, requires_grad=True))
    assert main(["--model", "mine:make", "--threads", "1"]) == 0
    assert [line[2] for line in lines_of(capsys.readouterr().out, "make")] == ["inference", "forward", "training"]
    assert norm.num_batches_tracked == 0


def test_what_has_no_gradients_is_not_trained(mine, capsys):
    mine.make = lambda: (tiny().requires_grad_(False), torch.randn(3, C))
    assert main(["--model", "mine:make", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["make", f"3x{C}", "inference"]


def test_what_needs_a_package_that_is_missing_is_left_out(mine, capsys):
    def missing():
        import a_package_that_is_not_there  # noqa: F401

    mine.make = lambda: {"missing": missing, "there": lambda: (tiny(), torch.randn(3, C))}
    assert main(["--model", "mine:make", "--list"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "missing is left out: No module named 'a_package_that_is_not_there'\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine", "'mine' is not of the form module:function"),
        (":make", "':make' is not of the form module:function"),
        ("nowhere_at_all:make", "No module named 'nowhere_at_all'"),
        ("mine:other", "mine has no function 'other'"),
        ("mine:number", "mine has no function 'number'"),
        ("mine:array", "array returns a list, expected a torch.nn.Module, or (module, inputs)"),
        ("mine:alone", "alone has a NoneType for inputs, expected a tuple, or a dictionary by name"),
        ("mine:wrong", "wrong has a float for inputs, expected a tuple, or a dictionary by name"),
    ],
)
def test_what_is_no_model_is_an_error_in_words(mine, capsys, name, words):
    mine.number, mine.array, mine.alone, mine.wrong = 1, lambda: [1], tiny, lambda: (tiny(), 1.0)
    assert main(["--model", name]) == 2
    assert capsys.readouterr().err.startswith(f"--model: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "mine:make", "--peers", "none"], "--peers says nothing of a model"),
        (["--model", "mine:make", "--family", "fused"], "--family says nothing of a model"),
        (["--compile"], "--compile, and --threads of several numbers, go with --model"),
        (["--threads", "1,2"], "--compile, and --threads of several numbers, go with --model"),
        (["--model", "mine:make", "--threads", "1,0"], "'0' is no whole number from 1 to 4096"),
    ],
)
def test_options_that_do_not_go_together(capsys, arguments, words):
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err


def test_a_name_that_no_case_has(mine, capsys):
    mine.make = lambda: (tiny(), torch.randn(3, C))
    assert main(["--model", "mine:make", "--only", "validation"]) == 2
    assert "no case has such a name" in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "normlib.bench.models")
    monkeypatch.delattr("normlib.bench.models")
    assert main(["--model", "mine:make"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'normlib[torch]'\n")


def example(kind, model=None):
    made = (model or tiny(), torch.randn(3, C))
    return next(e for e in models.examples("tiny", lambda: made) if e.kind == kind)


@pytest.mark.parametrize(("kind", "what"), [("inference", "an output differs"), ("training", "a gradient differs")])
def test_what_computes_something_else_is_not_timed(monkeypatch, kind, what):
    def wrong(model):
        model[1].register_forward_hook(lambda module, args, y: 2 * y)
        return model

    monkeypatch.setattr(nt, "accelerate", wrong)
    result = models.measure(example(kind, nn.Sequential(nn.Linear(C, C), nn.LayerNorm(C))), threads=1)
    assert result.refused["accelerate"].startswith(what)
    assert "accelerate" not in result.ratios
    assert "accelerate: tiny 3x8" in report([result], {"normlib": "1", "torch": "2", "compiled": False})


def test_what_fails_is_not_timed_and_ends_nothing(monkeypatch):
    def install():
        raise RuntimeError("there is no bridge\nat all")

    monkeypatch.setattr(nt, "install", install)
    result = models.measure(example("inference"), threads=1)
    assert result.refused == {"install": "RuntimeError: there is no bridge"}
    assert result.ratios.keys() == {"accelerate"}


def test_each_contender_has_its_own_code_where_the_model_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    result = models.measure(example("training"), threads=1, compiled=True)
    assert len({id(model) for model in compiled}) == len(compiled) == 3
    assert len({id(model[0].weight) for model in compiled}) == 1
    assert result.goal == 0.98


def test_an_interrupt_ends_with_a_report_of_what_was_measured(mine, monkeypatch, capsys):
    measure = models.measure

    def interrupted(example, **options):
        if example.kind == "training":
            raise KeyboardInterrupt
        return measure(example, **options)

    monkeypatch.setattr(models, "measure", interrupted)
    mine.make = lambda: (tiny(), torch.randn(3, C))
    assert main(["--model", "mine:make", "--threads", "1"]) == 130
    assert len(lines_of(capsys.readouterr().out, "make")) == 1


class Written(nn.Module):
    """A norm whose gradient is several nodes: those of the product, of rsqrt, of the sum, the mean and the square."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize(
    ("norm", "forward", "backward"), [(nn.LayerNorm(C, elementwise_affine=False), 1, 1), (Written(), 1, 5)]
)
def test_the_share_of_norms_is_told_by_clocks_around_them_forward_and_backward(norm, forward, backward):
    ticks = iter(range(10_000))
    model, x = nn.Sequential(nn.Linear(C, C), norm, nn.Linear(C, C)), torch.randn(3, C)
    intervals = forward  # each look at the clock is one tick later than the one before
    found = shares.share_of_norms([norm], lambda: model(x), lambda: next(ticks))
    assert found == pytest.approx(intervals / (2 * intervals + 1))
    intervals += backward
    found = shares.share_of_norms([norm], lambda: model(x).sum().backward(), lambda: next(ticks))
    assert found == pytest.approx(intervals / (2 * intervals + 1))


def measured(ratio, share=0.01, error=0.0, **options):
    options = {"alone": False, "compiled": False} | options
    return Result("tiny", "3x8", "inference", 1, share=share, seconds={"torch": 1e-3}, **options,
                  ratios={"accelerate": ratio}, errors={"accelerate": error})  # fmt: skip


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        ({"share": 0.01}, 0.99),
        ({"share": 0.1}, 1 / 0.95),  # half of what the norms take is gained
        ({"share": 0.1, "compiled": True}, 0.98),
        ({"share": None, "alone": True}, 1.0),
    ],
)
def test_the_goal_is_no_loss_and_half_of_what_norms_take_where_that_counts(given, goal):
    assert measured(1.0, **given).goal == pytest.approx(goal)


def test_the_report_marks_what_misses_its_goal():
    results = [measured(1.2), measured(0.9, error=0.01), measured(0.98, error=0.02), measured(1.5, None, alone=True)]
    text = report(results, {"normlib": "1", "torch": "2", "compiled": False})
    assert [line.split()[-2] for line in text.splitlines() if line.startswith("tiny")] == [
        "1.200", "<0.900", "~0.980", "1.500",
    ]  # fmt: skip
    closing = [line.split() for line in text.splitlines() if line.startswith("accelerate,")]
    assert [line[:7] for line in closing] == [
        ["accelerate,", "norms", "1", "1.500", "1.500", "0", "0"],
        ["accelerate,", "models", "3", "1.019", "0.900", "1", "1"],
    ]
    assert "Left alone" not in text


def test_the_list_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.models import MODELS, everything

    listed = everything()
    assert len(MODELS) >= 22
    singles = {name: make for name, make in listed.items() if name not in MODELS}
    assert len(singles) == 12
    for name, make in singles.items():
        kinds = {e.kind: e for e in models.examples(name, make)}
        assert kinds.keys() == {"inference", "forward", "training"}
        assert kinds["forward"].subject.model.training != ("eval" in name)
    network, *_ = MODELS["3-D U-Net"]()
    assert network(torch.randn(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    assert sum(isinstance(m, nn.InstanceNorm3d) for m in network.modules()) == 10
