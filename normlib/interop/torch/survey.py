"""Which modules of a model are norms, which compute what normlib computes, and why the others are left alone."""

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin

from ._tensors import DTYPES

FORMULA = "weight * x / sqrt(mean(x^2) + eps)"
_TORCH = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)


@dataclass(frozen=True)
class Norm:
    """A norm of a model: its name and class in it, and why it is not accelerated, nothing where it is; what is fused
    with it, and why what stands around it is not."""

    name: str
    kind: str
    why: str
    fused: str = ""
    apart: str = ""

    @property
    def accelerated(self) -> bool:
        """Whether normlib computes it."""
        return not self.why

    @property
    def words(self) -> str:
        """What is done with it."""
        fused = f", with {self.fused}" if self.fused else ""
        return self.why or f"accelerated{fused}{f'; {self.apart}' if self.apart else ''}"


class Report(list[Norm]):
    """The norms of a model, in its order; printed as a table."""

    def __str__(self) -> str:
        rows = [("module", "class", ""), *((n.name or ".", n.kind, n.words) for n in self)]
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{name:{wide[0]}}  {kind:{wide[1]}}  {words}".rstrip() for name, kind, words in rows)

    def summary(self) -> str:
        """What was left alone and why, each class once; nothing where that is none."""
        left = Counter((norm.kind, norm.why) for norm in self if norm.why)
        words = [f"{count} {kind}: {why}" for (kind, why), count in left.most_common(5)]
        words += [f"and {len(left) - 5} more classes"] * (len(left) > 5)
        return f"{left.total()} of {len(self)} norms are left alone ({'; '.join(words)})" if left else ""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: one of torch's, or by its name, with no modules inside."""
    return isinstance(module, _TORCH) or ("Norm" in type(module).__name__ and not any(module.children()))


def eps_name(module: nn.Module) -> str | None:
    """The attribute that holds the eps of a norm in a model of language."""
    return next((name for name in ("variance_epsilon", "eps") if type(getattr(module, name, None)) is float), None)


def groups(module: nn.Module) -> int:
    """Into how many groups of channels a norm with a gate parts its rows."""
    size = getattr(module, "group_size", None)
    return len(module.weight) // size if type(size) is int and size > 0 else 1  # type: ignore[arg-type]


def form_of_rms_norm(module: nn.Module) -> tuple[str, str]:
    """The form of the RMSNorm that a module of another class is, or nothing and why it is none.

    It may hold nothing but a weight and an eps. It is tried with other values of both than its own, in training and in
    evaluation, its gradients included: a class that agrees at the values that it was built with may differ at those
    that it learns.
    """
    if isinstance(module, LazyModuleMixin):
        return "", "it is lazy: accelerate it after its first call"
    held = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 1 or eps_name(module) is None:
        return "", f"it has no weight of one axis and eps, of {FORMULA}"
    if more := sorted(held - {"weight"}):
        return "", f"{', '.join(more)}: not accounted for by {FORMULA}"
    if not weight.is_cpu or weight.dtype not in DTYPES:
        return "", f"its weight is {weight.dtype} on {weight.device}".replace("torch.", "")
    gated = _is_gated(module)
    with torch.random.fork_rng(devices=[]):
        for form in ("gate", "gate first") if gated else ("weight", "1 + weight"):
            try:
                if all(_agrees(module, form, *way) for way in product((True, False), (0, 1))):
                    return form, ""
            except Exception as error:
                return "", f"it cannot be tried: {type(error).__name__}: {error}"
    return "", f"it computes something else than {FORMULA}{' * silu(gate)' * gated}"


def _is_gated(module: nn.Module) -> bool:
    """Whether the forward method takes a second tensor by the name of a gate."""
    names = list(inspect.signature(module.forward).parameters)
    return len(names) > 1 and names[1] in ("gate", "z")


def _agrees(module: nn.Module, form: str, training: bool, seed: int) -> bool:
    """Output and gradients against the formula in float64, on a copy of the module with another weight and eps."""
    generator = torch.Generator().manual_seed(seed)
    own = module._parameters["weight"]
    assert own is not None

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = nn.Parameter(drawn(len(own)).to(own.dtype))
    eps = float(drawn(1).abs() + 0.01)
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__, _parameters={"weight": weight}, training=training)
    setattr(twin, str(eps_name(module)), eps)
    x = (drawn(2, 3, len(own)) * torch.tensor([1.0, 0.01, 30.0])[:, None]).to(own.dtype).requires_grad_()
    dy, gate = (drawn(2, 3, len(own)).to(own.dtype) for _ in range(2))
    given = (x, weight, gate.requires_grad_()) if "gate" in form else (x, weight)
    wide = [t.detach().double().requires_grad_() for t in given]
    opened = nn.functional.silu(wide[2]) if "gate" in form else torch.ones(())
    rows = (wide[0] * opened if form == "gate first" else wide[0]).unflatten(-1, (groups(module), -1))
    normalized = (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    expected = normalized * (wide[1] + (form == "1 + weight")) * (opened if form == "gate" else 1)
    with torch.enable_grad():
        found = type(module).forward(twin, x, *given[2:])  # type: ignore[operator]
        if not isinstance(found, torch.Tensor) or found.shape != x.shape or not found.requires_grad:
            return False
        gradients = torch.autograd.grad(found, given, dy.to(found.dtype), allow_unused=True)
        wide_gradients = torch.autograd.grad(expected, wide, dy.double())
    precision = torch.finfo(own.dtype).eps
    tolerances = [32 * precision] * len(given)
    return _close(found, expected, 4 * precision) and all(map(_close, gradients, wide_gradients, tolerances))


def _close(found: torch.Tensor | None, expected: torch.Tensor, tolerance: float) -> bool:
    if found is None:
        return False
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms of a model by name."""
    return ((name, module) for name, module in model.named_modules() if is_norm(module))
