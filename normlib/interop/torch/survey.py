"""Which modules of a model are norms, which compute what normlib computes, and why the others are left alone."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

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
    """Whether a module is a norm: one of torch's, or by its name, with no norm inside and nothing that learns; where
    the name ends with Norm, what is inside may make its parameters."""
    name, inside = type(module).__name__, [child for child in module.modules() if child is not module]
    if isinstance(module, _TORCH) or "Norm" not in name:
        return isinstance(module, _TORCH)
    if any(map(is_norm, inside)):
        return False
    ends = re.search(r"Norm(\dd)?$", name) is not None
    return ends or not any(True for child in inside for _ in (*child.parameters(False), *child.buffers(False)))


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms of a model by name."""
    return ((name, module) for name, module in model.named_modules() if is_norm(module))
