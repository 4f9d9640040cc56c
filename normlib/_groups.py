"""Processes that share a batch: whatever can give each of them the messages of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol


class Group(Protocol):
    """The ranks that share a batch, as :class:`mpi4py.MPI.Comm` is one."""

    def allgather(self, message: bytes, /) -> Sequence[bytes]:
        """What each rank calls with its message returns the messages of all, in the order of the ranks."""


def gathered(place: str, group: Any, message: bytes) -> Sequence[bytes]:
    """The messages of all ranks."""
    if group is None:
        return [message]
    if type(group).__module__.startswith("torch."):
        group = OfTorch(group)
    if not callable(getattr(group, "allgather", None)):
        raise TypeError(f"{place}: group is a {type(group).__name__}, expected a method allgather(bytes)")
    messages: Sequence[bytes] = group.allgather(message)
    return messages


# The last works of gloo. Were its thread the last to hold one, it would wait for Python's lock to let the tensors go,
# while whoever ends the group may have the lock and wait for the thread (pytorch/pytorch#56297).
_held: deque[Any] = deque(maxlen=8)


class OfTorch:
    """A process group of torch.distributed; None is the default one."""

    def __init__(self, group: Any = None) -> None:
        import torch

        self.torch, self.group = torch, group
        self.size = torch.distributed.get_world_size(group)
        if self.size < 1:
            raise ValueError("sync: this process is not in group, expected one of its ranks")

    def allgather(self, message: bytes) -> list[bytes]:
        """The lengths of all messages first, then the messages, at the length of the longest."""
        lengths = self._gathered(self.torch.tensor([len(message)]))
        padded = self.torch.zeros(int(max(lengths)), dtype=self.torch.uint8)
        padded[: len(message)] = self.torch.frombuffer(bytearray(message), dtype=self.torch.uint8)
        parts = self._gathered(padded)
        return [part[: int(n)].numpy().tobytes() for part, n in zip(parts, lengths, strict=True)]

    def _gathered(self, t: Any) -> list[Any]:
        found = [self.torch.empty_like(t) for _ in range(self.size)]
        work = self.torch.distributed.all_gather(found, t, group=self.group, async_op=True)
        work.wait()
        _held.append(work)
        return found
