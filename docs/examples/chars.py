"""A character model learns English from the help texts of Python itself: an LSTM with layer norm, and one without.

    normlib demo chars [--quick] [--plot FILE]

Both begin with the same weights and read the same characters in the same order; a tenth of the text is held out. The
state goes from piece to piece of the text and the gradient does not: backpropagation through time, truncated. The
matrix products, the plain LSTM and all else are NumPy, the steps of the other LSTM normlib's.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from textwrap import indent

import numpy as np

import normlib
from normlib.examples.lstm import LSTM
from normlib.examples.report import Progress, help_texts, picture


@dataclass(frozen=True)
class Setting:
    """A step of training reads `context` characters at each of `rows` places of the text."""

    embedding: int = 64
    hidden: int = 192
    context: int = 64
    rows: int = 32
    steps: int = 600
    every: int = 50  # steps from one look at the text held out to the next
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    clip: float = 1.0
    forget: float = 1.0  # the bias of the forget gate at the beginning
    temperature: float = 0.7
    seed: int = 0


QUICK = Setting(hidden=96, steps=200, rates=(1e-3, 1e-2))
KINDS = {"layer norm": normlib.LayerNormLSTM, "plain": LSTM}


def rows_of(x):
    return x.reshape(-1, x.shape[-1])


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


class Model:
    """An embedding of the characters, the recurrent layer, and the scores of the next character."""

    def __init__(self, kind, characters, setting):
        rng, n = np.random.default_rng(setting.seed), setting.hidden
        self.layer = KINDS[kind](setting.embedding, n, rng=rng)
        self.layer.parameters()["bias_l0"][n : 2 * n] = setting.forget
        self.own = {
            "embedding": rng.normal(0, 1, (characters, setting.embedding)).astype(np.float32),
            "head": rng.uniform(-(n**-0.5), n**-0.5, (n, characters)).astype(np.float32),
            "head_bias": np.zeros(characters, np.float32),
        }

    def parameters(self):
        return self.own | self.layer.parameters()

    def loss(self, ids, state=None):
        """The mean of -log2 of the chance of each next character, and the state at the end; ids (steps + 1, rows)."""
        features, state = self.layer.forward(self.own["embedding"][ids[:-1]], state)
        logs = log_softmax(features @ self.own["head"] + self.own["head_bias"])
        self.saved = ids, features, logs
        return -np.take_along_axis(logs, ids[1:, :, None], axis=-1).mean(dtype=float) / np.log(2), state

    def gradients(self):
        """Those of the last loss in nats."""
        ids, features, logs = self.saved
        known = np.eye(logs.shape[-1], dtype=logs.dtype)
        dscores = (np.exp(logs) - known[ids[1:]]) / ids[1:].size
        self.layer.zero_grad()
        dx, _ = self.layer.backward(dscores @ self.own["head"].T)
        pairs = {"embedding": (known[ids[:-1]], dx), "head": (features, dscores)}
        found = {name: rows_of(a).T @ rows_of(b) for name, (a, b) in pairs.items()}
        return found | {"head_bias": rows_of(dscores).sum(axis=0)} | self.layer.gradients()

    def held_out(self, ids, context):
        """The mean loss over a text of several rows."""
        self.layer.train(False)
        state, total = None, 0
        for start in range(0, len(ids) - 1, context):
            piece = ids[start : start + context + 1]
            bits, state = self.loss(piece, state)
            total += bits * (len(piece) - 1)
        self.layer.train(True)
        return float(total / (len(ids) - 1))

    def sample(self, start, more, temperature, seed):
        """The characters `start`, and so many that the model adds."""
        rng, text, state = np.random.default_rng(seed), list(start), None
        for i in range(len(start) + more - 1):
            features, state = self.layer.step(self.own["embedding"][text[i : i + 1]], state)
            if i == len(text) - 1:
                scores = (features @ self.own["head"] + self.own["head_bias"])[0].astype(float)
                chances = np.exp(log_softmax(scores / temperature))
                text.append(int(rng.choice(len(chances), p=chances / chances.sum())))
        return text


class Adam:
    """Adam; gradients whose norm together is larger than `clip` are cut to it."""

    def __init__(self, rate, clip):
        self.rate, self.clip, self.steps, self.moments = rate, clip, 0, {}

    def step(self, parameters, gradients):
        norm = np.sqrt(sum(np.square(g, dtype=float).sum() for g in gradients.values()))
        scale = np.float32(min(1, self.clip / norm))
        self.steps += 1
        for name, value in parameters.items():
            gradient, (first, second) = gradients[name] * scale, self.moments.get(name, (0, 0))
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
            self.moments[name] = first, second
            value -= self.rate * first / (1 - 0.9**self.steps) / (np.sqrt(second / (1 - 0.99**self.steps)) + 1e-8)


class Text:
    """The help texts as numbers of their characters.

    Of a hundred pieces every tenth is held out. Both parts are of shape (steps, rows): as many texts side by side.
    """

    def __init__(self, rows):
        text = help_texts()
        self.length, self.alphabet = len(text), "".join(sorted(set(text)))
        pieces = np.array_split(self.numbers(text), 100)
        parts = [piece for i, piece in enumerate(pieces) if i % 10 != 9], pieces[9::10]
        flat = [np.concatenate(part) for part in parts]
        self.training, self.held_out = (ids[: len(ids) // rows * rows].reshape(rows, -1).T for ids in flat)

    def numbers(self, text):
        known = {character: i for i, character in enumerate(self.alphabet)}
        return np.array([known[character] for character in text])

    def by_frequency(self):
        """Bits per character held out for who knows how frequent each character is, and nothing else."""
        counts = np.bincount(self.training.ravel(), minlength=len(self.alphabet)) + 1
        return -np.log2(counts / counts.sum())[self.held_out].mean()


def train(kind, rate, text, setting, show=lambda words: None):
    """The model, its curve [(step, bits per character of the steps before, held out)], and the seconds of training."""
    model, adam = Model(kind, len(text.alphabet), setting), Adam(rate, setting.clip)
    state, at, seconds, recent, curve = None, 0, 0.0, [], []
    for step in range(1, setting.steps + 1):
        start = time.perf_counter()
        bits, state = model.loss(text.training[at : at + setting.context + 1], state)
        adam.step(model.parameters(), model.gradients())
        recent.append(bits)
        at += setting.context
        if at + setting.context >= len(text.training):
            state, at = None, 0
        seconds += time.perf_counter() - start
        if step % setting.every == 0:
            curve.append((step, float(np.mean(recent)), model.held_out(text.held_out, setting.context)))
            recent = []
        show(f"{kind}, rate {rate:g}: {bits:.2f} bits")
    return model, curve, seconds


def draw(path, curves, frequency):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = dict(zip(KINDS, figure.subplots(1, len(KINDS), sharey=True), strict=True))
    for panel in panels.values():
        panel.axhline(frequency, color="gray", linestyle=":", label="frequencies alone")
        panel.grid(True, alpha=0.3)
    colors = {rate: f"C{i}" for i, rate in enumerate(sorted({rate for _, rate in curves}))}
    for (kind, rate), curve in curves.items():
        steps, training, held_out = zip(*curve, strict=True)
        panels[kind].plot(steps, held_out, color=colors[rate], label=f"rate {rate:g}")
        panels[kind].plot(steps, training, color=colors[rate], linewidth=0.8, linestyle="--")
        panels[kind].set(title=kind, xlabel="steps", ylabel="bits per character")
    panels["plain"].legend(title="held out (dashed: training)")
    figure.savefig(path, dpi=130)


def learn(text, setting):
    """Train all models, and tell of them: {(kind, rate): curve}."""
    runs = [(kind, rate) for rate in setting.rates for kind in KINDS]
    found = {}
    done = count(1)
    with Progress(len(runs) * setting.steps) as bar:
        for run in runs:
            found[run] = train(*run, text, setting, lambda words: bar.show(next(done), words))
    curves = {run: curve for run, (_, curve, _) in found.items()}
    print(f"\nBits per character held out, by rate and model ({text.by_frequency():.2f} by frequencies alone):\n")
    print(" " * 6 + "".join(f"{rate:>{12 * len(KINDS)}g}" for rate in setting.rates))
    print(" steps" + "".join(f"{kind:>12}" for kind, _ in runs))
    for points in zip(*curves.values(), strict=True):
        print(f"{points[0][0]:6}" + "".join(f"{held_out:12.3f}" for _, _, held_out in points))
    print(f"\n{'model':12}{'rate':>8}{'steps':>8}{'training':>12}{'held out':>12}{'seconds':>10}")
    for (kind, rate), (_, curve, seconds) in found.items():
        steps, training, held_out = curve[-1]
        print(f"{kind:12}{rate:8g}{steps:8}{training:12.3f}{held_out:12.3f}{seconds:10.1f}")
    for kind in KINDS:
        rate = min(setting.rates, key=lambda rate: curves[kind, rate][-1][2])
        model, begin = found[kind, rate][0], text.numbers("The ")
        print(f"\n{kind}, rate {rate:g}, temperature {setting.temperature:g}:\n")
        written = model.sample(begin, 300, setting.temperature, setting.seed)
        print(indent("".join(text.alphabet[i] for i in written), "    "))
    return curves


def main(argv=None):
    parser = argparse.ArgumentParser(prog="normlib demo chars", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer steps: under 40 s")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw the curves (needs matplotlib)")
    options = parser.parse_args(argv)
    setting = QUICK if options.quick else Setting()
    drawn = options.plot and find_spec("matplotlib")
    if options.plot and not drawn:
        print("normlib demo chars: no plot without matplotlib: pip install matplotlib", file=sys.stderr)
    text = Text(setting.rows)
    print(f"{text.length} characters of help texts, {len(text.alphabet)} different ones; a tenth is held out")
    curves = learn(text, setting)
    if drawn:
        draw(options.plot, curves, text.by_frequency())
        print(f"\nThe curves: {options.plot}")
    return 1 if options.plot and not drawn else 0


if __name__ == "__main__":
    sys.exit(main())
