"""The brain in a scan of a head by the real deepbet: 34 InstanceNorms of volumes, without weights, by normlib.

pip install torch && pip install --no-deps deepbet
python -m normlib demo brain

The model comes as TorchScript, whose modules cannot be swapped. So its graph runs node by node here: the norms by
normlib on the memory of torch's tensors, in place where no other node reads it, the rest by torch.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import normlib
from normlib.examples.report import Watch, difference, on_backends, race


def checkpoint():
    """The smaller input's model of the two in deepbet, found without importing a package that asks for more."""
    return Path(find_spec("deepbet").origin).parent.parent / "data" / "models" / "bbox_model.pt"


def by_normlib(x, weight, bias, mean, var, use_input_stats, momentum, eps, read_once):
    """What ``aten::instance_norm`` does with its arguments, in the memory of `x` if nobody else reads that."""
    x = x.numpy()
    given = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    options = {"use_input_stats": use_input_stats, "momentum": momentum, "eps": eps}
    return torch.from_numpy(normlib.instance_norm(x, **given, **options, out=x if read_once else None))


def by_torch(*args):
    return torch.instance_norm(*args[:-1], cudnn_enabled=False)


class Brain:
    """A volume, each side a multiple of 32, to the likelihood of brain in each voxel."""

    def __init__(self, path):
        self.script = torch.jit.load(path).eval()
        self.graph = torch.jit.freeze(self.script).graph
        _, self.input = self.graph.inputs()  # the first is the module
        (self.output,) = self.graph.outputs()
        self.watch = Watch()

    @torch.inference_mode()
    def __call__(self, volume, norm=by_normlib):
        values = {self.input.debugName(): volume[None, None]}
        for node in self.graph.nodes():
            kind, (output,) = node.kind(), node.outputs()
            args = [values.get(value.debugName()) for value in node.inputs()]
            if kind == "prim::Constant":
                value = output.toIValue()
            elif kind == "aten::instance_norm":
                with self.watch:
                    value = norm(*args[:-1], len(node.inputsAt(0).uses()) == 1)
            elif kind in ("aten::add", "aten::add_"):  # the third argument has no place, but a name
                value = getattr(args[0], kind[6:])(args[1], alpha=args[2])
            else:
                value = getattr(torch.ops.aten, kind[6:])(*args)
            values[output.debugName()] = value
        return values[self.output.debugName()][0, 1]

    def norms(self):
        return sum(node.kind() == "aten::instance_norm" for node in self.graph.nodes())


def head(n):
    """A head of n x n x n voxels as a scanner might see it, made of ellipsoids: (volume, which voxels are brain)."""
    z, y, x = np.ogrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j, -1 : 1 : n * 1j]
    radius = np.sqrt((z / 0.62) ** 2 + (y / 0.78) ** 2 + (x / 0.7) ** 2)
    tissues = [(1, 0.75), (0.93, 0.08), (0.86, 0.2), (0.82, 0.45), (0.7, 0.7)]  # skin, skull, water, gray, white
    volume = np.random.default_rng(0).normal(0, 0.02, radius.shape)
    for i, (outer, signal) in enumerate(tissues):
        inner = tissues[i + 1][0] if i + 1 < len(tissues) else -1
        volume[(radius < outer) & (radius >= inner)] += signal
    low, high = np.quantile(volume, [0.005, 0.995])  # from here on as deepbet prepares a scan
    volume = np.clip((volume - low) / (high - low), 0, 1)
    volume = 0.226 * (volume - volume.mean()) / volume.std(ddof=1) + 0.449
    return torch.from_numpy(volume.astype(np.float32)), radius < 0.84


def overlap(likelihood, brain):
    """The Dice coefficient: 1 where both masks are the same, 0 where they have nothing in common."""
    found = np.asarray(likelihood) > 0.5
    return 2 * (found & brain).sum() / (found.sum() + brain.sum())


def drawn(volume, likelihood):
    """The middle slice in 32 lines: `#` is brain, `:` is something else that is bright."""
    n = len(volume)
    rows = slice(None, None, n // 32), slice(None, None, n // 64)
    for line in zip(volume[n // 2][rows], likelihood[n // 2][rows], strict=True):
        print("".join("#" if found > 0.5 else " :"[int(bright > 0.6)] for bright, found in zip(*line, strict=True)))


def main(size=128):
    model = Brain(checkpoint())
    print(f"deepbet: {model.norms()} InstanceNorms over depth, height and width, no weights, all by normlib\n")
    volume, brain = head(size)
    likelihood = model(volume)
    drawn(volume, likelihood)
    print(f"\n{overlap(likelihood, brain):.1%} of the brain and of what was found overlap (Dice).")

    print(f"\nTime for {size} x {size} x {size} voxels")
    runs = on_backends(lambda: model(volume)) | {"torch": lambda: model(volume, norm=by_torch)}
    race(runs, model.watch)
    with torch.inference_mode():
        expected = model.script(volume[None, None])[0, 1].numpy()
    difference(likelihood.numpy(), expected, "deepbet as it is in the likelihood of brain")


if __name__ == "__main__":
    main()
