"""What test_sync_engines.py runs as one process of torch.distributed.

python sync_torch.py RANK RANKS DIRECTORY
"""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from ranks import shares
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from normlib import sync
from normlib.interop.torch import accelerate

N, C = 12, 4
OPTIONS = {"plain": {"affine": False, "momentum": None}, "without": {"track_running_stats": False}}
SIZES = {"even": (6, 6), "uneven": (5, 7), "empty": (0, 12)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Model(nn.Module):
    """A norm of the images themselves, and one of what a convolution makes of them, which rounds as it likes."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.BatchNorm2d(C), nn.Conv2d(C, C, 3, padding=1)
        self.second, self.last = nn.BatchNorm2d(C, momentum=None), nn.Linear(C, 1)

    def forward(self, x):
        self.normalized = self.first(x)
        return self.last(self.second(self.conv(self.normalized)).relu().mean((2, 3)))


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, C, 5, 5, generator=generator) + 3, torch.randn(N, 1, generator=generator)


def training(rank=0, count=1):
    """The losses of four steps on this share, the outputs of the first norm in the first step, and what was learned."""
    torch.manual_seed(0)
    model = accelerate(Model(), sync=True)
    whole = model if count == 1 else DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = {"losses": []}
    for step in range(4):
        x, target = (t.chunk(count)[rank] for t in images(step))
        loss = nn.functional.mse_loss(whole(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found["losses"].append(loss.item())
        found.setdefault("normalized", model.normalized.detach().numpy())
        found[f"mean{step}"], found[f"var{step}"] = (
            t.clone().numpy() for t in (model.first.running_mean, model.first.running_var)
        )
    return found | {f"learned.{name}": t.detach().numpy() for name, t in model.state_dict().items()}


def module(rank=0, sizes=(N,), dtype=torch.float32, **options):
    """A step of torch's own SyncBatchNorm, accelerated: y, dx and what is the same on all ranks."""
    norm = nn.SyncBatchNorm(C, **options)
    norm = accelerate(norm, sync=len(sizes) == 1)
    x, dy = (
        torch.from_numpy(shares(t.to(dtype).float().numpy(), sizes)[rank]).to(dtype)
        for t in (images()[0], images(1)[0])
    )
    x.requires_grad_()
    y = norm(x)
    y.backward(dy)
    found = {"y": y.detach(), "dx": x.grad, **norm.state_dict()}
    found |= {f"grad_{name}": p.grad * len(sizes) for name, p in norm.named_parameters()}
    return {name: t.float().numpy() for name, t in found.items()}


def arrays(group=None, rank=0, sizes=(4,)):
    """A step on arrays of few channels and of many, whose sums are a long message."""
    found = {}
    for channels in (3, 500):
        norm = sync.SyncBatchNorm(channels, group=group)
        x, dy = (shares(a, sizes)[rank] for a in np.random.default_rng(1).normal(size=(2, 4, channels)))
        found |= {f"{channels}.y": norm(x), f"{channels}.dx": norm.backward(dy), f"{channels}.var": norm.running_var}
    return found


def disagreement(rank):
    """What this rank is told where they have norms of another eps."""
    norm = accelerate(nn.SyncBatchNorm(C, eps=1e-3 if rank else 1e-5))
    try:
        norm(images()[0])
    except ValueError as error:
        assert norm.running_mean.tolist() == [0] * C
        assert norm.num_batches_tracked == 0
        return str(error)


def survivor(rank):
    """What the first rank is told where the others are killed in a step, while it waits for them."""
    norm = accelerate(nn.SyncBatchNorm(C))
    x, _ = images()
    norm(x)
    before = {name: t.clone() for name, t in norm.state_dict().items()}
    if rank:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        norm(x + 1)
    except RuntimeError as error:
        assert all(torch.equal(t, before[name]) for name, t in norm.state_dict().items())
        return str(error)


def main(rank, count, directory):
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=limit)
    found = {f"training.{name}": value for name, value in training(rank, count).items()}
    for name, sizes in SIZES.items():
        for dtype, kind in DTYPES.items():
            found |= {f"{name}.{dtype}.{key}": a for key, a in module(rank, sizes, kind).items()}
    for name, options in OPTIONS.items():
        found |= {f"{name}.{key}": a for key, a in module(rank, (5, 7), **options).items()}
    found |= arrays(distributed.new_group(timeout=limit), rank, (3, 1))
    found["disagreement"] = disagreement(rank)
    np.savez(Path(directory, f"rank{rank}.npz"), **found)
    distributed.barrier()
    Path(directory, "survivor").write_text(survivor(rank))
    os._exit(0)  # the group cannot be ended with a rank that is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
