"""Batch norm over several processes: asv's timings for one rank, and as a program both passes, and what ranks exchange.

    python -m benchmarks.sync                  # one rank: what the sums take
    mpiexec -n 2 python -m benchmarks.sync     # with the exchange, by mpi4py

Rounds take turns; medians of the first rank, in ms.
"""

import time

import numpy as np

import normlib

from .common import one_thread

ROUNDS = 15
SHAPES = ((16, 64, 56, 56), (16, 256, 14, 14), (256, 512))


class Sync:
    """What the sums that no order of ranks can change take beside the plain batch norm: one rank, one thread."""

    params = (SHAPES, ("forward", "forward alone", "backward", "backward alone"))
    param_names = ("shape", "pass")

    def setup(self, shape, pass_):
        if not hasattr(normlib, "sync"):
            raise NotImplementedError("this commit has no norm over processes")
        one_thread()
        self.call = dict(calls(shape, None))[pass_]

    def time_pass(self, shape, pass_):
        self.call()

    time_pass.pretty_name = "Batch norm over processes, by one of them"


class Counted:
    """A group that counts what it sends."""

    def __init__(self, group):
        self.group, self.bytes, self.time = group, 0, 0.0

    def allgather(self, message):
        began = time.perf_counter()
        messages = [message] if self.group is None else self.group.allgather(message)
        self.bytes, self.time = len(message), time.perf_counter() - began
        return messages


def calls(shape, group):
    x, dy = (np.random.default_rng(seed).standard_normal(shape, np.float32) for seed in (0, 1))
    weight = np.ones(shape[1], np.float32)
    y, mean, rstd = normlib.batch_norm(x, weight=weight, training=True, return_stats=True)
    out = np.empty_like(y)
    statistics = {"mean": mean, "rstd": rstd, "out": out}
    yield "forward alone", lambda: normlib.batch_norm(x, weight=weight, training=True, out=out)
    yield "forward", lambda: normlib.sync.batch_norm(x, weight=weight, out=out, group=group)
    yield "backward alone", lambda: normlib.batch_norm_backward(dy, x, weight, **statistics)
    yield "backward", lambda: normlib.sync.batch_norm_backward(dy, x, weight, **statistics, group=group)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(normlib.get_num_threads())
    a, w = torch.from_numpy(x), torch.from_numpy(weight)
    yield "forward, torch alone", lambda: torch.nn.functional.batch_norm(a, None, None, w, training=True)


def main():
    try:
        from mpi4py import MPI
    except ImportError:
        ranks = None
    else:
        ranks = MPI.COMM_WORLD
    group = Counted(ranks)
    first = ranks is None or ranks.rank == 0
    if first:
        print(f"{1 if ranks is None else ranks.size} ranks, {normlib.get_num_threads()} threads each, float32")
    for shape in SHAPES:
        times = {name: ([], []) for name, _ in calls(shape, group)}
        for _ in range(ROUNDS):
            for name, call in calls(shape, group):
                for _ in range(3):
                    began = time.perf_counter()
                    group.time = 0.0
                    call()
                taken, exchange = times[name]
                taken.append(time.perf_counter() - began)
                exchange.append(group.time)
        if first:
            print(f"\n{shape}, a message of {group.bytes} bytes ({group.bytes / shape[1]:.0f} a channel)")
            for name, (taken, exchange) in times.items():
                wait = f", of which the exchange {1e3 * np.median(exchange):.3f}" if any(exchange) else ""
                print(f"  {name:22} {1e3 * np.median(taken):8.3f}{wait}")


if __name__ == "__main__":
    main()
