"""What share of the time of a model its norms take: clocks before and after each, forward and backward."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import torch

__all__ = ["share_of_norms"]

RUNS, SECONDS = 25, 0.5  # at most, but three runs at least


class _Clock:
    """Seconds between starts and stops."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds = self.started = 0.0

    def start(self, *_) -> None:
        self.started = self.now()

    def stop(self, *_) -> None:
        self.seconds += self.now() - self.started


def share_of_norms(
    norms: Iterable[torch.nn.Module], call: Callable[[], object], now: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds in these modules over those of the call, the median of some runs.

    Backward is told by the nodes of autograd: those on the way from the output of a norm to its input.
    """
    clock = _Clock(now)
    norms, shares = list(norms), []
    call()
    end = now() + SECONDS
    while len(shares) < 3 or (len(shares) < RUNS and now() < end):
        clock.seconds = 0.0
        with _watched(norms, clock):
            start = now()
            call()
            shares.append(clock.seconds / (now() - start))
    return statistics.median(shares)


@contextlib.contextmanager
def _watched(norms: Iterable[torch.nn.Module], clock: _Clock) -> Iterator[None]:
    def stop(module, args, kwargs, output):
        clock.stop()
        for node in _nodes(output, (*args, *kwargs.values())):
            node.register_prehook(clock.start)
            node.register_hook(clock.stop)

    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(norm.register_forward_pre_hook(clock.start))
            stack.enter_context(norm.register_forward_hook(stop, with_kwargs=True))
        yield


def _nodes(output: object, inputs: Iterable[object]) -> set:
    """The nodes of autograd that lead from the output of a module to its inputs, which they leave out."""
    before = {t.grad_fn for t in inputs if isinstance(t, torch.Tensor)}
    found, ahead = set(), [output.grad_fn] if isinstance(output, torch.Tensor) else []
    while ahead:
        node = ahead.pop()
        if node is not None and node not in before and node not in found:
            found.add(node)
            ahead += [following for following, _ in node.next_functions]
    return found
