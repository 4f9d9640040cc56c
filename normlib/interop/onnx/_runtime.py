"""The norms into which ONNX Runtime turns those of a model that it optimizes.

ONNX has no schemas of these: attributes are the keywords of ``_run``, with their defaults.
"""

import numpy as np

from ... import ops
from ._operators import NormOperator, broadcastable, parameter, rms_normalized

DOMAIN = "com.microsoft"


class SimplifiedLayerNormalization(NormOperator):
    """What is RMSNormalization in ONNX by now, without a domain of its own."""

    def _run(self, x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
        y, rstd = rms_normalized(x, scale, axis, epsilon)
        return (y, rstd.astype(np.float32))[: len(self.output)]


class _OfSum(NormOperator):
    """The norm over the last axis of x, what is added to it, and a bias a channel."""

    op_domain = DOMAIN
    scale_at = 2

    def _of_sum(self, x, skip, bias, epsilon, **given):
        """y, statistics where there are some, and the sum: as many as the node names."""
        x = x if bias is None else x + broadcastable("bias", bias, x.shape)
        given = {key.replace("gamma", "weight").replace("beta", "bias"): parameter(v, x) for key, v in given.items()}
        function = ops.layer_norm if "bias" in given else ops.rms_norm
        skip = np.broadcast_to(broadcastable("skip", skip, x.shape), x.shape)
        y, total, *statistics = function(x, residual=skip, eps=float(epsilon), return_stats=True, **given)
        mean, rstd = (s.astype(np.float32)[..., None] for s in (statistics[0], statistics[-1]))
        return (y, mean, rstd, total)[: len(self.output)]


class SkipLayerNormalization(_OfSum):
    def _run(self, x, skip, gamma, beta=None, bias=None, *, epsilon=1e-12):
        return self._of_sum(x, skip, bias, epsilon, gamma=gamma, beta=beta)


class SkipSimplifiedLayerNormalization(_OfSum):
    def _run(self, x, skip, gamma, bias=None, *, epsilon=1e-12):
        return self._of_sum(x, skip, bias, epsilon, gamma=gamma)


class EmbedLayerNormalization(NormOperator):
    """The norm of the sum of embeddings: of words, positions and, where there are some, segments."""

    op_domain = DOMAIN
    scale_at = 5

    def _run(self, words, segments, *inputs, epsilon=1e-12, mask_index_type=0):
        of_words, of_positions, of_segments, gamma, beta, mask, positions = (*inputs, None, None)[:7]
        total = of_words[words] + of_positions[np.arange(words.shape[1]) if positions is None else positions]
        if segments is not None:
            total = total + of_segments[segments]
        y = ops.layer_norm(total, gamma, beta, eps=float(epsilon))
        counts = np.zeros(len(words), np.int32) if mask is None else mask.sum(1).astype(np.int32)
        return (y, counts, total)[: len(self.output)]


class GroupNorm(NormOperator):
    op_domain = DOMAIN

    def _run(self, x, gamma, beta, *, groups, activation=0, channels_last=1, epsilon=1e-5):
        return (_group_norm(x, gamma, beta, groups, activation, channels_last, eps=float(epsilon)),)


class SkipGroupNorm(NormOperator):
    op_domain = DOMAIN

    def _run(self, x, gamma, beta, skip, *bias, groups, activation=0, channels_last=1, epsilon=1e-5):
        if skip.ndim == 2:
            skip = skip[:, None, None] if channels_last else skip[..., None, None]
        if bias:
            x = x + broadcastable("bias", bias[0] if channels_last else bias[0][:, None, None], x.shape)
        skip = np.broadcast_to(broadcastable("skip", skip, x.shape), x.shape)
        more = {"residual": skip, "eps": float(epsilon)}
        return _group_norm(x, gamma, beta, groups, activation, channels_last, **more)[: len(self.output)]


def _group_norm(x, gamma, beta, groups, activation, channels_last, **more):
    more |= {"activation": "silu"} if activation else {}
    axis = -1 if channels_last else 1
    return ops.group_norm(x, groups, parameter(gamma, x), parameter(beta, x), channel_axis=axis, **more)


class GatedRMSNorm(NormOperator):
    op_domain = DOMAIN

    def _run(self, x, scale, gate, *, activation="silu", epsilon=1e-5):
        rows = (-1, len(scale))  # each in parts, as many as have a scale
        more = {"gate_activation": activation.replace("swish", "silu"), "eps": float(epsilon)}
        return (ops.rms_norm(x.reshape(rows), parameter(scale, x), gate=gate.reshape(rows), **more).reshape(x.shape),)


FUNCTIONS = {
    SimplifiedLayerNormalization: "rms_norm",
    SkipLayerNormalization: "layer_norm",
    SkipSimplifiedLayerNormalization: "rms_norm",
    EmbedLayerNormalization: "layer_norm",
    GroupNorm: "group_norm",
    SkipGroupNorm: "group_norm",
    GatedRMSNorm: "rms_norm",
}
