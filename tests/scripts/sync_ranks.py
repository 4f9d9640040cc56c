"""What test_sync_engines.py runs under MPI, as one rank of several.

mpiexec -n RANKS python -m mpi4py sync_ranks.py digest | errors | raise DIRECTORY | kill DIRECTORY
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import numpy as np
from ranks import shares

import normlib
from normlib import sync
from normlib.testing import dtypes

N, C = 13, 5
SIZES = {1: (13,), 2: (4, 9), 3: (6, 0, 7), 4: (1, 3, 0, 9)}  # how many samples each rank has


def batch(dtype):
    rng = np.random.default_rng(3)
    x, dy = rng.normal(1e3, 1, (N, C, 6)).astype(dtype), rng.normal(size=(N, C, 6)).astype(dtype)
    return x, dy, rng.random(x.shape) < 0.8


def steps(group=None, rank=0, count=1):
    """By dtype and mask: y and dx of this share; what is the same on all ranks."""
    for dtype in dtypes():
        x, dy, inside = (shares(array, SIZES[count])[rank] for array in batch(dtype))
        for where in (None, inside):
            norm = normlib.SyncBatchNorm(C, group=group)
            own = [(norm(x + shift, where=where), norm.backward(dy)) for shift in (0, 1)]
            y, mean, rstd = sync.batch_norm(x, where=where, return_stats=True, group=group)
            last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
            dx, *gradients = sync.batch_norm_backward(
                last[1], last[0], mean=mean, rstd=rstd, where=None if where is None else np.moveaxis(where, 1, -1),
                channel_axis=-1, group=group,
            )  # fmt: skip
            same = [mean, rstd, *gradients, norm.running_mean, norm.running_var, norm.grad_weight, norm.grad_bias]
            yield [*own[0], *own[1], y, dx], same


def digest(comm=None):
    """Of the whole batch and of what all ranks have, which they have checked to be the same."""
    found = hashlib.sha256()
    rank, count = (0, 1) if comm is None else (comm.rank, comm.size)
    for own, same in steps(comm, rank, count):
        parts = [own] if comm is None else comm.allgather(own)
        bits = [array.tobytes() for array in same]
        assert comm is None or comm.allgather(bits) == [bits] * count
        for whole in [np.concatenate(arrays) for arrays in zip(*parts, strict=True)] + same:
            found.update(f"{whole.shape} {whole.dtype}".encode() + whole.tobytes())
    return found.hexdigest()


def errors(comm):
    """What each rank is told where the last one calls for something else, or cannot take part."""
    x = np.arange(24.0).reshape(4, 3, 2)
    other = [{"eps": 1e-3}, {"x": x[:, :2]}, {"x": x.astype(np.float32)}, {"x": x[0, 0]}]
    told = []
    for changes in other:
        running = {"running_mean": np.zeros(3), "running_var": np.ones(3)}
        last = comm.rank == comm.size - 1
        try:
            sync.batch_norm(**{"x": x, "group": comm, **({} if last else running), **(changes if last else {})})
        except Exception as error:
            told.append(str(error))
        assert running["running_mean"].tolist() == [0] * 3
        assert running["running_var"].tolist() == [1] * 3
    return comm.gather(told)


def fall(comm, how, directory):
    """A step of all ranks, then one in which the last rank falls, while the others wait for it. The running mean of
    each rank is a file, which stays."""
    norm = normlib.SyncBatchNorm(C, group=comm)
    norm.running_mean = np.memmap(Path(directory, f"mean{comm.rank}"), np.float32, "w+", shape=C)
    x, *_ = batch(np.float32)
    norm(x)
    norm.running_mean.flush()
    comm.barrier()
    if comm.rank == comm.size - 1:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ArithmeticError("this rank raises")
    norm(x + 1)


if __name__ == "__main__":
    from mpi4py import MPI

    world, (mode, *rest) = MPI.COMM_WORLD, sys.argv[1:]
    if mode in ("raise", "kill"):
        fall(world, mode, *rest)
    result = digest(world) if mode == "digest" else errors(world)
    if world.rank == 0:
        print(result)
