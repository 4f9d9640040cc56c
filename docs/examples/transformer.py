"""A small transformer in NumPy, forward and backward; the norms and the blocks around them are normlib's."""

import numpy as np

import normlib


class Weights:
    """Matrices by name and their gradients, as a block asks its sublayer for them."""

    def __init__(self, rng, dtype, **shapes):
        self.weights = {name: rng.normal(0, np.sqrt(2 / sum(s)), s).astype(dtype) for name, s in shapes.items()}
        self.zero_grad()

    def parameters(self):
        return self.weights

    def gradients(self):
        return self.found

    def zero_grad(self):
        self.found = {}

    def gain(self, name, x, dy):
        """Add the gradient of the weight in ``x @ weight``."""
        found = x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
        self.found[name] = self.found.get(name, 0) + found


class Attention(Weights):
    """Causal attention of several heads."""

    def __init__(self, rng, dtype, width, heads):
        super().__init__(rng, dtype, **dict.fromkeys(("query", "key", "value", "out"), (width, width)))
        self.heads = heads

    def apart(self, x):
        """(texts, places, width) as (texts, heads, places, width of a head)."""
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

    def forward(self, x):
        q, k, v = (self.apart(x @ self.weights[name]) for name in ("query", "key", "value"))
        k = k / np.sqrt(k.shape[-1], dtype=k.dtype)
        later = np.triu(np.full((x.shape[1], x.shape[1]), -np.inf, x.dtype), 1)
        chances = np.exp(log_softmax(q @ k.swapaxes(2, 3) + later))
        mixed = (chances @ v).swapaxes(1, 2).reshape(x.shape)
        self.saved = x, q, k, v, chances, mixed
        return mixed @ self.weights["out"]

    def backward(self, dy):
        x, q, k, v, chances, mixed = self.saved
        self.gain("out", mixed, dy)
        dmixed = self.apart(dy @ self.weights["out"].T)
        dchances = dmixed @ v.swapaxes(2, 3)
        dscores = chances * (dchances - (dchances * chances).sum(axis=-1, keepdims=True))
        dkey = dscores.swapaxes(2, 3) @ q / np.sqrt(k.shape[-1], dtype=k.dtype)
        dx = 0
        for name, heads in (("query", dscores @ k), ("key", dkey), ("value", chances.swapaxes(2, 3) @ dmixed)):
            together = heads.swapaxes(1, 2).reshape(x.shape)
            self.gain(name, x, together)
            dx = dx + together @ self.weights[name].T
        return dx


class FeedForward(Weights):
    """Two matrices, and ReLU between them."""

    def __init__(self, rng, dtype, width, heads):
        super().__init__(rng, dtype, up=(width, 4 * width), down=(4 * width, width))

    def forward(self, x):
        self.x, self.hidden = x, np.maximum(x @ self.weights["up"], 0)
        return self.hidden @ self.weights["down"]

    def backward(self, dy):
        self.gain("down", self.hidden, dy)
        dhidden = dy @ self.weights["down"].T * (self.hidden > 0)
        self.gain("up", self.x, dhidden)
        return dhidden @ self.weights["up"].T


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


class Bare:
    """x + sublayer(x): a block without a norm."""

    def __init__(self, sublayer, norm):
        self.sublayer = sublayer
        self.parameters, self.gradients, self.zero_grad = sublayer.parameters, sublayer.gradients, sublayer.zero_grad

    def forward(self, x):
        return x + self.sublayer.forward(x)

    def backward(self, dy):
        return dy + self.sublayer.backward(dy)


class Naive(normlib.LayerNorm):
    """A LayerNorm whose backward takes mean and variance for constants."""

    def forward(self, x, *, residual=None):
        result = super().forward(x, residual=residual)
        total = x if residual is None else result[1]
        self.rstd = 1 / np.sqrt(total.var(axis=-1, keepdims=True) + self.eps)
        return result

    def backward(self, dy, dsum=None):
        super().backward(dy)  # for the gradients of weight and bias, which are the same
        dx = dy * self.weight * self.rstd
        return dx if dsum is None else dx + dsum


KINDS = {
    "no norm": (Bare, lambda width, dtype: None),
    "post-norm, LayerNorm": (normlib.PostNorm, normlib.LayerNorm),
    "post-norm, RMSNorm": (normlib.PostNorm, normlib.RMSNorm),
    "post-norm, naive": (normlib.PostNorm, Naive),
    "pre-norm, LayerNorm": (normlib.PreNorm, normlib.LayerNorm),
    "pre-norm, RMSNorm": (normlib.PreNorm, normlib.RMSNorm),
    "pre-norm, naive": (normlib.PreNorm, Naive),
}


class Transformer:
    """An embedding, `layers` times attention and feed-forward, and the scores of the next character."""

    def __init__(self, kind, layers, setting, characters, dtype=np.float32):
        rng, width, (block, norm) = np.random.default_rng(setting.seed), setting.width, KINDS[kind]
        self.embedding = Weights(rng, dtype, token=(characters, width), place=(setting.context, width))
        for weight in self.embedding.weights.values():  # so that the stream begins with scale 1
            weight[...] = rng.normal(0, np.sqrt(0.5), weight.shape)
        self.head = Weights(rng, dtype, scores=(width, characters))
        sublayers = [make(rng, dtype, width, setting.heads) for make in (Attention, FeedForward) * layers]
        self.blocks = [block(sublayer, norm(width, dtype=dtype)) for sublayer in sublayers]
        last = [norm(width, dtype=dtype)] if block is normlib.PreNorm else []
        self.stack = normlib.Stack([*self.blocks, *last])
        self.parts = {"embedding": self.embedding, "stack": self.stack, "head": self.head}

    def parameters(self):
        return {f"{name}.{key}": w for name, part in self.parts.items() for key, w in part.parameters().items()}

    def loss(self, texts):
        """The mean cross-entropy of each character behind those before it; texts (batch, context + 1)."""
        self.features = self.stack.forward(self.embed(texts))
        self.scores = self.features @ self.head.weights["scores"]
        return -np.take_along_axis(log_softmax(self.scores), texts[:, 1:, None], axis=-1).mean(dtype=float)

    def embed(self, texts):
        return self.embedding.weights["token"][texts[:, :-1]] + self.embedding.weights["place"]

    def gradient(self, texts):
        """The loss and its gradient, as one vector in the order of the parameters."""
        loss = self.loss(texts)
        for part in self.parts.values():
            part.zero_grad()
        known = np.eye(self.scores.shape[-1], dtype=self.scores.dtype)[texts]
        dscores = (np.exp(log_softmax(self.scores)) - known[:, 1:]) / known[:, 1:, 0].size
        self.head.gain("scores", self.features, dscores)
        dx = self.stack.backward(dscores @ self.head.weights["scores"].T)
        self.embedding.gain("token", known[:, :-1], dx)
        self.embedding.found["place"] = dx.sum(axis=0)
        found = {f"{name}.{key}": g for name, part in self.parts.items() for key, g in part.gradients().items()}
        return loss, np.concatenate([found[name].ravel() for name in self.parameters()])

    def subtract(self, change):
        """Move the parameters by a vector."""
        start = 0
        for weight in self.parameters().values():
            weight -= change[start : start + weight.size].reshape(weight.shape)
            start += weight.size
