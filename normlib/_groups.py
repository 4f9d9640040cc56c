"""Processes that share a batch: whatever can give each of them the messages of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

FRAME = 1 << 14  # bytes that each rank of torch.distributed sends in any case


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
        """The messages behind their lengths, in a first round so much of them as is always sent, then the rest."""
        framed = len(message).to_bytes(8, "little") + message
        rounds = [self._gathered(framed[:FRAME], FRAME)]
        lengths = [8 + int.from_bytes(part[:8], "little") for part in rounds[0]]
        if max(lengths) > FRAME:
            rounds.append(self._gathered(framed[FRAME:], max(lengths) - FRAME))
        return [b"".join(parts)[8:n] for n, parts in zip(lengths, zip(*rounds, strict=True), strict=True)]

    def _gathered(self, message: bytes, size: int) -> list[bytes]:
        t = self.torch.frombuffer(bytearray(message.ljust(size, b"\0")), dtype=self.torch.uint8)
        found = [self.torch.empty_like(t) for _ in range(self.size)]
        work = self.torch.distributed.all_gather(found, t, group=self.group, async_op=True)
        work.wait()
        _held.append(work)
        return [part.numpy().tobytes() for part in found]
