"""How deep can a transformer be? Without norms, post-norm and pre-norm, from 2 to 96 layers, on the same text.

    normlib demo depth [--quick] [--plot FILE]

Attention and feed-forward are NumPy, the norms and the blocks around them normlib's, forward and backward. All networks
read the same characters (the help texts of Python itself) for as many steps of the same optimizer. The "naive" ones go
back through a norm as if its statistics were constants. What came out, and what it means: docs/depth.md.
"""

import argparse
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np

from normlib.examples.report import Progress, help_texts, picture
from normlib.examples.transformer import KINDS, Transformer


@dataclass(frozen=True)
class Setting:
    """What the networks have in common."""

    width: int = 48
    heads: int = 4
    context: int = 48
    batch: int = 8
    steps: int = 200
    rate: float = 1e-3
    warm_up: int = 0  # the rate is the same from the first step on: what needs a warm-up shows
    depths: tuple = (2, 6, 12, 24, 48, 96)
    seed: int = 0


QUICK = Setting(width=32, context=32, steps=120, rate=3e-3, depths=(2, 6, 24))


class Adam:
    """Its rate grows in the first `warm_up` steps, if there are such, and then stays."""

    def __init__(self, rate, warm_up=0):
        self.rate, self.warm_up, self.steps, self.first, self.second = rate, warm_up, 0, 0, 0

    def change(self, gradient):
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        rate = self.rate * min(1, self.steps / max(self.warm_up, 1)) / (1 - 0.9**self.steps)
        return rate * self.first / (np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8)


def read():
    """The text as numbers: (to learn, held out), and how many characters are different."""
    letters = np.array([help_texts()]).view(np.uint32)
    known, ids = np.unique(letters, return_inverse=True)
    pieces = np.array_split(ids, 100)
    return np.concatenate([p for i, p in enumerate(pieces) if i % 10]), np.concatenate(pieces[::10]), len(known)


def batches(ids, setting):
    rng = np.random.default_rng(setting.seed)
    while True:
        starts = rng.integers(0, len(ids) - setting.context, setting.batch)
        yield ids[starts[:, None] + np.arange(setting.context + 1)]


def size(arrays):
    return float(np.sqrt(sum(np.square(array, dtype=float).sum() for array in arrays)))


def measure(network, texts):
    """The loss; behind each block the scale of the stream; the norm of the gradient of the matrices in each block."""
    x, scales = network.embed(texts), []
    for block in network.blocks:
        x = block.forward(x)
        scales.append(size([x]) / np.sqrt(x.size))
    loss, _ = network.gradient(texts)
    norms = [size(block.sublayer.gradients().values()) for block in network.blocks]
    return {"loss": loss, "scales": scales, "gradients": norms}


def moved(network, texts):
    """How far the scores move when Adam's first step moves each weight by 1e-5."""
    _, gradient = network.gradient(texts)
    before = network.scores
    network.subtract(Adam(1e-5).change(gradient))
    network.loss(texts)
    return size([network.scores - before]) / np.sqrt(before.size)


def likeness(network, twin, texts):
    """The cosine between the gradients of two networks with the same weights."""
    for weight, given in zip(twin.parameters().values(), network.parameters().values(), strict=True):
        weight[...] = given
    (_, one), (_, other) = network.gradient(texts), twin.gradient(texts)
    return float(np.vdot(one, other)) / (size([one]) * size([other]))


def train(job):
    """What is measured of a network before and after the steps, which end where the loss is no number."""
    kind, layers, setting = job
    learn, held_out, characters = read()
    texts = next(batches(held_out, replace(setting, batch=4 * setting.batch)))
    network, twin = (Transformer(k, layers, setting, characters) for k in (kind, kind.replace("naive", "LayerNorm")))
    result, adam = {"kind": kind, "layers": layers, "losses": []}, Adam(setting.rate, setting.warm_up)
    with np.errstate(all="ignore"):  # what diverges overflows
        result |= {"start": measure(network, texts), "alike": likeness(network, twin, texts)}
        result["moved"] = moved(twin, texts)
        for _, batch in zip(range(setting.steps), batches(learn, setting), strict=False):
            loss, gradient = network.gradient(batch)
            result["losses"].append(loss)
            if not np.isfinite(loss):
                break
            network.subtract(adam.change(gradient))
        return result | {"end": measure(network, texts)}


def run(setting):
    """Train every kind at every depth, a network a core, the deepest first; their results in the order of a table."""
    jobs = [(kind, layers, setting) for layers in sorted(setting.depths, reverse=True) for kind in KINDS]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the processes to come: the matrices are small
    workers, silent = min(os.cpu_count() or 1, 8), (signal.SIGINT, signal.SIG_DFL)  # where the user interrupts
    pool, results = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, silent), []
    try:
        with Progress(sum(layers for _, layers, _ in jobs)) as bar:
            bar.show(0)
            for future in as_completed([pool.submit(train, job) for job in jobs]):
                results.append(future.result())
                last = results[-1]
                bar.show(sum(result["layers"] for result in results), f"{last['kind']}, {last['layers']} layers")
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(results, key=lambda result: (list(KINDS).index(result["kind"]), result["layers"]))


def guesses():
    """The loss of who takes all characters for equally likely, and of who knows how frequent each one is."""
    learn, _, characters = read()
    shares = np.bincount(learn) / len(learn)
    return np.log(characters), -(shares * np.log(np.maximum(shares, 1e-9))).sum()


def verdict(result, evenly, by_frequency):
    loss, steps = result["end"]["loss"], len(result["losses"])
    if not np.isfinite(loss):
        return f"diverged in step {steps}"
    return "diverged" if loss > evenly else "frequencies at most" if loss > by_frequency - 0.1 else "learns"


def table(results, evenly, by_frequency):
    """The lines, one by one."""
    yield f"Guesses have a loss of {evenly:.2f}, those by how frequent each character is {by_frequency:.2f}.\n"
    yield f"{'':28}{'loss':^17}  {'stream':^17}  {'gradient at start':^17}  {'gradient at end':^17}    scores"
    yield f"{'network':22}layers" + f"{'start':>9}{'end':>9} " * 2 + f"{'first':>9}{'last':>9} " * 2 + "    moved"
    for result in results:
        start, end = result["start"], result["end"]
        pairs = [(m[0], m[1]) for m in ((start["loss"], end["loss"]), (start["scales"][-1], end["scales"][-1]))]
        pairs += [(m["gradients"][0], m["gradients"][-1]) for m in (start, end)]
        numbers = "".join(f"{short(a)}{short(b)} " for a, b in pairs) + short(result["moved"])
        words = verdict(result, evenly, by_frequency)
        if "naive" in result["kind"]:
            words += f", cosine {result['alike']:.2f}"
        yield f"{result['kind']:22}{result['layers']:6}{numbers}  {words}"


def short(number):
    return f"{number:9.3g}" if 1e-3 <= abs(number) < 1e4 else f"{number:9.0e}"


def draw(results, path):
    """Over the depths, over the steps, and over the blocks of the deepest networks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels, depths = figure.subplots(2, 3), sorted({result["layers"] for result in results})
    deepest = f", {depths[-1]} layers"
    titles = ["loss at the end", "how far a small step moves the scores", "loss" + deepest]
    titles += [words + deepest for words in ("stream at the end", "gradient at the start", "gradient at the end")]
    for panel, title, below in zip(panels.flat, titles, ["layers"] * 2 + ["step"] + ["block"] * 3, strict=True):
        panel.set(title=title, xlabel=below, yscale="linear" if title.startswith("loss") else "log")
        panel.grid(True, alpha=0.3)
        if below == "layers":
            panel.set(xscale="log", xticks=depths, xticklabels=depths)
            panel.minorticks_off()
    for kind in reversed(KINDS):
        own = [result for result in results if result["kind"] == kind]
        place, _, norm = kind.partition(", ")
        deep, style = own[-1], {"RMSNorm": "--", "naive": ":"}.get(norm, "-")
        lines = [(depths, [result["end"]["loss"] for result in own]), (depths, [result["moved"] for result in own])]
        every = np.arange(0, len(deep["losses"]), 10)
        lines.append((every, [np.mean(deep["losses"][at : at + 10]) for at in every]))
        of_blocks = (deep["end"]["scales"], deep["start"]["gradients"], deep["end"]["gradients"])
        lines += [(range(2 * depths[-1]), values) for values in of_blocks]
        for panel, (x, y) in zip(panels.flat, lines, strict=True):
            if not norm:  # it keeps to the limits of the others
                panel.set_ylim(panel.get_ylim())
            panel.plot(x, y, style, color={"pre-norm": "C0", "post-norm": "C1"}.get(place, "gray"), label=kind)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="normlib demo depth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer, smaller networks and steps: under a minute")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw the curves (needs matplotlib)")
    parser.add_argument("--rate", type=float, help="of Adam")
    parser.add_argument("--warm-up", type=int, metavar="STEPS", help="in which the rate grows from 0")
    parser.add_argument("--steps", type=int, help="of training")
    args = parser.parse_args(argv)
    given = {name: value for name in ("rate", "warm_up", "steps") if (value := getattr(args, name)) is not None}
    setting = replace(QUICK if args.quick else Setting(), **given)
    drawn = args.plot and find_spec("matplotlib")
    if args.plot and not drawn:
        print("normlib demo depth: no plot without matplotlib: pip install matplotlib", file=sys.stderr)
    start = time.perf_counter()
    results = run(setting)
    print(*table(results, *guesses()), sep="\n")
    print(f"\n{setting.steps} steps, {time.perf_counter() - start:.0f} s")
    if drawn:
        draw(results, args.plot)
    return 1 if args.plot and not drawn else 0


if __name__ == "__main__":
    sys.exit(main())
