"""Whole models in torch: with torch's norms, with those of `accelerate`, and under `install`, in turns."""

import contextlib
import copy
import functools
import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import torch

import normlib
import normlib.interop.torch as nt
from normlib._machine import cores
from normlib._progress import Progress
from normlib.bench.calls import Contender
from normlib.bench.model_report import Result, report
from normlib.bench.runner import AWAY_FROM_KINK, TOLERANCE, Budget, difference, spread, time_interleaved
from normlib.bench.shares import share_of_norms

__all__ = ["BUDGET", "QUICK", "command"]

BUDGET = Budget(total=1.5, rounds=(7, 101), slow=float("inf"))
QUICK = Budget(total=0.3, rounds=(3, 21), slow=float("inf"))
TORCH = "torch"


class Unusable(Exception):
    """What a user named makes no model to measure; the text says why."""


class Subject:
    """A model, and a copy with our norms that shares its weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        with warnings.catch_warnings():  # what is left alone is in the report
            warnings.simplefilter("ignore")
            self.accelerated = nt.accelerate(_with_its_weights(model))
        self.norms = nt.report(self.accelerated)
        self.alone = [norm.name for norm in self.norms] == [""]  # a norm, no model


@dataclass
class Example:
    """A model with inputs, a tuple or a dictionary, and a pass: ``inference``, ``forward`` with gradients recorded, or
    ``training``, which is forward and backward. A norm alone stays in its own mode, training or evaluation."""

    name: str
    subject: Subject
    inputs: tuple | dict
    kind: str

    @property
    def shape(self) -> str:
        """The shape of the first tensor that is given."""
        return next(("x".join(map(str, t.shape)) for t in _tensors(self.inputs)), "")

    @property
    def words(self) -> str:
        """What it is called."""
        return f"{self.name} {self.shape} {self.kind}"


def load(name: str) -> Callable:
    """Return the function that ``module:function`` names, the working directory being where modules are found too."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise Unusable(f"{name!r} is not of the form module:function")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise Unusable(f"{module} has no function {function!r}")
    return found


def examples(name: str, function: Callable) -> Iterator[Example]:
    """Yield what is to be measured of what a function makes: a model, or (model, inputs, more inputs, ...), or a
    dictionary of such functions by name, each of which is called when the one before is done."""
    made = function()
    if isinstance(made, dict):
        for key, value in made.items():
            try:
                yield from examples(key, value)
            except ImportError as error:
                print(f"{key} is left out: {error}", file=sys.stderr)
        return
    model, *inputs = made if isinstance(made, tuple) else (made,)
    if not isinstance(model, torch.nn.Module):
        expected = "expected a torch.nn.Module, or (module, inputs), or a dictionary of functions"
        raise Unusable(f"{name} returns a {type(model).__name__}, {expected}")
    inputs = [(i,) if isinstance(i, torch.Tensor) else i for i in inputs or [getattr(model, "dummy_inputs", None)]]
    if wrong := [i for i in inputs if not isinstance(i, (tuple, dict))]:
        expected = "expected a tuple, or a dictionary by name: return (module, inputs)"
        raise Unusable(f"{name} has a {type(wrong[0]).__name__} for inputs, {expected}")
    subject = Subject(model)
    kinds = ("inference", "forward") if subject.alone else ("inference",)
    for given in inputs:
        yield from (Example(name, subject, given, kind) for kind in kinds)
    if any(t.requires_grad for t in (*model.parameters(), *_tensors(inputs[-1]))):
        yield Example(name, subject, inputs[-1], "training")  # with the last ones alone: a step takes a while


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in what a model takes or returns."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _differentiable(result: object) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for t in _tensors(result) if t.requires_grad]


def _with_its_weights(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that shares parameters and buffers: all contenders find the same ones in the caches."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _call(example: Example, model: Callable) -> Callable:
    positional, keywords = ((), example.inputs) if isinstance(example.inputs, dict) else (example.inputs, {})
    return functools.partial(model, *positional, **keywords)


def _contender(example: Example, model: Callable, factors: list[torch.Tensor], installed: bool = False) -> Contender:
    """The call of a model, and what a check looks at: its outputs, or the gradients that it left."""
    forward = _call(example, model)

    @contextlib.contextmanager
    def around():
        with contextlib.ExitStack() as entered:
            if installed:
                entered.enter_context(nt.install())
            if example.kind == "inference":
                entered.enter_context(torch.inference_mode())
            yield

    if example.kind != "training":
        return Contender(forward, lambda result: list(_tensors(result)), around)
    given = (*example.subject.model.parameters(), *_tensors(example.inputs))
    leaves = [t for t in given if t.requires_grad]

    def step():
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(_differentiable(forward()), factors)

    return Contender(step, lambda _: [leaf.grad for leaf in leaves if leaf.grad is not None], around)


def _factors(example: Example) -> list[torch.Tensor]:
    """What the outputs are multiplied by before they are summed up: their sum has no gradient behind a norm."""
    if example.kind != "training":
        return []
    drawn = torch.Generator().manual_seed(1)
    outputs = _differentiable(_call(example, example.subject.model)())
    return [torch.randn(t.shape, generator=drawn).to(t.dtype) for t in outputs]


def _contenders(example: Example, factors: list[torch.Tensor], compiled: bool) -> dict[str, Contender]:
    subject = example.subject
    models = {TORCH: subject.model, "accelerate": subject.accelerated, "install": subject.model}
    if compiled:
        torch._dynamo.reset()
        models["install"] = _with_its_weights(subject.model)  # code of its own, or it would find that of torch
        models = {name: torch.compile(model) for name, model in models.items()}
    return {name: _contender(example, model, factors, name == "install") for name, model in models.items()}


def _refusal(expected: list[torch.Tensor], contender: Contender, backward: bool) -> str:
    """How a contender differs from torch beyond rounding, nothing if it does not."""
    try:
        found = _looked_at(contender)
    except Exception as error:  # what fails in one must not end the run
        return f"{type(error).__name__}: {error!s:.120}".partition("\n")[0]
    if [t.shape for t in found] != [t.shape for t in expected]:
        return f"returns {len(found)} tensors of other shapes than the {len(expected)} of torch"
    tolerance = max(TOLERANCE[str(t.dtype).removeprefix("torch.")][backward] for t in expected)
    # All of them as one: a gradient that is 0 but for rounding has a size that tells nothing
    both = (torch.cat([t.flatten().double() for t in some]).numpy() for some in (expected, found))
    error = difference(*both, AWAY_FROM_KINK if backward else 1.0)
    what = "a gradient" if backward else "an output"
    return f"{what} differs from torch's by {error:.1e} of the largest value" if error > tolerance else ""


def _looked_at(contender: Contender) -> list[torch.Tensor]:
    with contender.around(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of dropout
        return [t.detach().clone() for t in contender.outputs(contender.call()) if t.is_floating_point()]


def measure(example: Example, *, threads: int, compiled: bool = False, budget: Budget = BUDGET) -> Result:
    """Measure a model with torch's norms, and with ours where they compute the same."""
    subject, training = example.subject, example.kind == "training"
    if not subject.alone:
        for model in (subject.model, subject.accelerated):
            model.train(training)
    result = Result(example.name, example.shape, example.kind, threads, subject.alone, compiled)
    result.norms, result.accelerated = len(subject.norms), sum(norm.accelerated for norm in subject.norms)
    result.left_alone = subject.norms.summary()
    # One thread is timed while it has a core, so that other programs do less harm
    clock = time.thread_time if threads == 1 else time.perf_counter
    with _threads(threads):
        factors = _factors(example)
        contenders = _contenders(example, factors, compiled)
        expected = _looked_at(contenders[TORCH])
        for name in list(contenders)[1:]:
            if refusal := _refusal(expected, contenders[name], training):
                result.refused[name] = refusal
                del contenders[name]
        if not subject.alone:
            result.share = _share(example, factors, clock)
        samples = time_interleaved(contenders, budget, pause=0.003 if threads > 1 else 0.0, clock=clock)
    result.seconds = {name: statistics.median(values) for name, values in samples.items()}
    for name in list(samples)[1:]:
        ratios = [theirs / ours for theirs, ours in zip(samples[TORCH], samples[name], strict=True)]
        result.ratios[name] = statistics.median(ratios)
        result.errors[name] = result.ratios[name] * spread(ratios) / len(ratios) ** 0.5
    return result


def _share(example: Example, factors: list[torch.Tensor], clock: Callable[[], float]) -> float:
    """What torch's norms take of the time of the model as it is, not compiled."""
    plain = _contender(example, example.subject.model, factors)
    norms = [example.subject.model.get_submodule(norm.name) for norm in example.subject.norms]
    with plain.around():
        return share_of_norms(norms, plain.call, clock)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads(), normlib.get_num_threads()
    torch.set_num_threads(number)
    normlib.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        normlib.set_num_threads(before[1])


def command(name: str, *, only="", threads=(), compiled=False, budget=BUDGET, listed=False, file=None) -> int:
    """Run ``normlib bench --model``, print its report and return the exit status."""
    threads = threads or tuple(range(1, min(cores(), 2) + 1))
    about = {"normlib": normlib.__version__, "torch": torch.__version__, "threads": threads, "compiled": compiled}
    results: list[Result] = []
    interrupted = False
    try:
        chosen = _chosen(examples(name.rpartition(":")[2], load(name)), only)
        if listed:
            print("\n".join(example.words for example in chosen))
            return 0
        with Progress() as progress:
            for done, (example, number) in enumerate((e, n) for e in chosen for n in threads):
                progress.show(done, example.words)
                results.append(measure(example, threads=number, compiled=compiled, budget=budget))
    except (ImportError, Unusable) as error:
        print(f"--model: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # what is measured is reported
        interrupted = True
        if not results:
            raise
    if not results:
        print("no case has such a name; --list prints them all", file=sys.stderr)
        return 2
    print(report(results, about))
    if file:
        with open(file, "w", encoding="utf-8") as out:
            json.dump({**about, "results": [asdict(result) for result in results]}, out, indent=1)
        print(f"\nwritten: {file}")
    return 130 if interrupted else 0


def _chosen(found: Iterable[Example], only: str) -> Iterator[Example]:
    patterns = [words.split() for words in only.split(",")]
    return (example for example in found if any(all(word in example.words for word in words) for words in patterns))
