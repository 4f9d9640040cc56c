"""LSTMs with layer norm of other libraries: their weights in a :class:`normlib.LayerNormLSTM`.

Only arrays by name are needed, nothing of the libraries. What our layer does not compute is an error.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from .. import _arguments
from .._arrays import as_array
from ..recurrent import LayerNormLSTM

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[Any]
    Weights = Mapping[str, ArrayLike | None]

__all__ = ["from_custom_lstms", "from_tensorflow_addons", "from_tensorflow_contrib", "from_tensorflow_lite"]


class Options(TypedDict, total=False):
    """What a library's weights leave open."""

    dtype: DTypeLike
    batch_first: bool
    batch_invariant: bool


class _Named:
    """Arrays by name, each to be taken once."""

    def __init__(self, place: str, weights: Weights, prefix: str = "") -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(f"{place}: weights is a {type(weights).__name__}, expected a mapping of names to arrays")
        self.place, self.prefix = place, prefix
        self.left = {
            name.removeprefix(prefix).removesuffix(":0"): value  # as TensorFlow ends the names of variables
            for name, value in weights.items()
            if name.startswith(prefix) and value is not None
        }

    def _array(self, name: str) -> Array:
        if name not in self.left:
            names = ", ".join(self.prefix + left for left in self.left) or "none"
            raise ValueError(f"{self.place}: {self.prefix + name} is missing, there are: {names}")
        found: Array = as_array(self.place, self.prefix + name, self.left[name])
        if found.dtype.name not in _arguments.DTYPES:
            raise TypeError(f"{self.place}: {self.prefix + name} has dtype {found.dtype}, expected floating point")
        return found

    def shape(self, name: str) -> tuple[int, int]:
        """That of a matrix."""
        array = self._array(name)
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{self.place}: {self.prefix + name} has shape {array.shape}, expected a matrix")
        return array.shape[0], array.shape[1]

    def take(self, name: str, *shape: int) -> Array:
        """In float64, which holds them all."""
        array = self._array(name)
        if array.shape != shape:
            raise ValueError(f"{self.place}: {self.prefix + name} has shape {array.shape}, expected {shape}")
        del self.left[name]
        return array.astype(np.float64)

    def done(self) -> None:
        if self.left:
            names = ", ".join(self.prefix + name for name in self.left)
            raise ValueError(f"{self.place}: there is no place for {names}")


def _layer(named: _Named, inputs: int, hidden: int, options: Options, **known: Any) -> LayerNormLSTM:
    _arguments.keywords(named.place, options, Options.__annotations__)
    return LayerNormLSTM(inputs, hidden, **known, **options)


def _fill(layer: LayerNormLSTM, suffix: str, arrays: dict[str, Array]) -> None:
    for name, array in arrays.items():
        getattr(layer, name + suffix)[...] = array


def from_custom_lstms(
    weights: Weights, prefix: str = "", *, eps: float = 1e-5, **options: Unpack[Options]
) -> LayerNormLSTM:
    """The network of PyTorch's `custom_lstms.py` that `script_lnlstm` returns.

    Parameters
    ----------
    weights : mapping of str to array_like
        Its ``state_dict()``, with any number of layers and both directions if it has them
        (``layers.0.cell.weight_ih``, ``layers.0.directions.1.cell.layernorm_i.bias``), or that of a single
        ``LayerNormLSTMCell`` (``weight_ih``). The biases of ``layernorm_i`` and ``layernorm_h`` are added.
    prefix : str
        Only the names that begin with it are looked at.
    eps : float
        That of ``nn.LayerNorm`` by default; 0 for ``decompose_layernorm=True``, where the norms have none.
    dtype, batch_first, batch_invariant : optional
        As in :class:`normlib.LayerNormLSTM`.

    Returns
    -------
    LayerNormLSTM
        Of the variant "carried".

    References
    ----------
    https://github.com/pytorch/pytorch/blob/main/benchmarks/fastrnns/custom_lstms.py

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.interop.recurrent import from_custom_lstms
    >>> cell = {"weight_ih": np.ones((8, 3)), "weight_hh": np.ones((8, 2))}
    >>> for name, size in {"layernorm_i": 8, "layernorm_h": 8, "layernorm_c": 2}.items():
    ...     cell |= {f"{name}.weight": np.ones(size), f"{name}.bias": np.zeros(size)}
    >>> from_custom_lstms({f"layers.0.cell.{name}": value for name, value in cell.items()})
    LayerNormLSTM(3, 2, variant='carried', eps=1e-05)
    """
    named = _Named("from_custom_lstms", weights, prefix)
    pattern = re.compile(r"((?:layers\.(\d+)\.)?(?:directions\.([01])\.)?(?:cell\.)?)weight_ih")
    found = [m for m in map(pattern.fullmatch, named.left) if m]
    cells = {(int(m[2] or 0), int(m[3] or 0)): m[1] for m in found} or {(0, 0): "layers.0.cell."}
    layers, sides = (1 + max(places) for places in zip(*cells, strict=True))
    (_, inputs), (_, n) = (named.shape(cells[min(cells)] + name) for name in ("weight_ih", "weight_hh"))
    known = {"num_layers": layers, "variant": "carried", "bidirectional": sides == 2, "eps": eps}
    layer = _layer(named, inputs, n, options, **known)
    for at in itertools.product(range(layers), range(sides)):
        cell = cells.get(at, f"layers.{at[0]}.directions.{at[1]}.cell." if sides == 2 else f"layers.{at[0]}.cell.")
        arrays = {
            "weight_ih": named.take(f"{cell}weight_ih", 4 * n, sides * n if at[0] else inputs),
            "weight_hh": named.take(f"{cell}weight_hh", 4 * n, n),
            "norm_ih": named.take(f"{cell}layernorm_i.weight", 4 * n),
            "norm_hh": named.take(f"{cell}layernorm_h.weight", 4 * n),
            "bias": named.take(f"{cell}layernorm_i.bias", 4 * n) + named.take(f"{cell}layernorm_h.bias", 4 * n),
            "norm_cell_weight": named.take(f"{cell}layernorm_c.weight", n),
            "norm_cell_bias": named.take(f"{cell}layernorm_c.bias", n),
        }
        _fill(layer, f"_l{at[0]}" + "_reverse" * at[1], arrays)
    named.done()
    return layer


def from_tensorflow_addons(
    weights: Weights, prefix: str = "", *, eps: float = 1e-3, **options: Unpack[Options]
) -> LayerNormLSTM:
    """The ``LayerNormLSTMCell`` of TensorFlow Addons, with its activations tanh and sigmoid.

    Parameters
    ----------
    weights : mapping of str to array_like
        ``kernel``, ``recurrent_kernel``, ``bias`` (zeros without) and ``gamma`` and ``beta`` of ``kernel_norm``,
        ``recurrent_norm`` and ``state_norm``: ``{w.name: w.numpy() for w in cell.weights}``, with
        ``prefix="layer_norm_lstm_cell/"``. All three biases are added.
    prefix : str
        Only the names that begin with it are looked at; ``:0`` at their end is left out.
    eps : float
        Its ``norm_epsilon``.
    dtype, batch_first, batch_invariant : optional
        As in :class:`normlib.LayerNormLSTM`.

    Returns
    -------
    LayerNormLSTM
        Of the variant "carried".

    References
    ----------
    https://github.com/tensorflow/addons/blob/master/tensorflow_addons/rnn/layer_norm_lstm_cell.py

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.interop.recurrent import from_tensorflow_addons
    >>> weights = {"kernel": np.ones((3, 8)), "recurrent_kernel": np.ones((2, 8)), "bias": np.zeros(8)}
    >>> for name, size in {"kernel_norm": 8, "recurrent_norm": 8, "state_norm": 2}.items():
    ...     weights |= {f"{name}/gamma": np.ones(size), f"{name}/beta": np.zeros(size)}
    >>> from_tensorflow_addons(weights)
    LayerNormLSTM(3, 2, variant='carried', eps=0.001)
    """
    named = _Named("from_tensorflow_addons", weights, prefix)
    (inputs, _), (n, _) = named.shape("kernel"), named.shape("recurrent_kernel")
    layer = _layer(named, inputs, n, options, variant="carried", eps=eps)
    bias = named.take("kernel_norm/beta", 4 * n) + named.take("recurrent_norm/beta", 4 * n)
    arrays = {
        "weight_ih": named.take("kernel", inputs, 4 * n).T,
        "weight_hh": named.take("recurrent_kernel", n, 4 * n).T,
        "norm_ih": named.take("kernel_norm/gamma", 4 * n),
        "norm_hh": named.take("recurrent_norm/gamma", 4 * n),
        "bias": bias + named.take("bias", 4 * n) if "bias" in named.left else bias,
        "norm_cell_weight": named.take("state_norm/gamma", n),
        "norm_cell_bias": named.take("state_norm/beta", n),
    }
    _fill(layer, "_l0", arrays)
    named.done()
    return layer


def from_tensorflow_contrib(
    weights: Weights, prefix: str = "", *, forget_bias: float = 1.0, eps: float = 1e-12, **options: Unpack[Options]
) -> LayerNormLSTM:
    """The ``LayerNormBasicLSTMCell`` of ``tf.contrib.rnn``, in TensorFlow 1.

    Parameters
    ----------
    weights : mapping of str to array_like
        ``kernel``, and ``gamma`` and ``beta`` of ``input``, ``transform``, ``forget``, ``output`` and ``state``: the
        variables of the cell, with ``prefix="rnn/layer_norm_basic_lstm_cell/"`` under ``dynamic_rnn``. Those that an
        optimizer adds to a checkpoint are errors.
    prefix : str
        Only the names that begin with it are looked at; ``:0`` at their end is left out.
    forget_bias : float
        The cell adds it in the forget gate; it becomes part of the bias.
    eps : float
        Its norms are ``tf.contrib.layers.layer_norm``, whose eps is fixed.
    dtype, batch_first, batch_invariant : optional
        As in :class:`normlib.LayerNormLSTM`.

    Returns
    -------
    LayerNormLSTM
        Of the variant "per_gate". Its state is (h, c); there it is (c, h).

    References
    ----------
    https://github.com/tensorflow/tensorflow/blob/r1.15/tensorflow/contrib/rnn/python/ops/rnn_cell.py

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.interop.recurrent import from_tensorflow_contrib
    >>> weights = {"kernel": np.ones((3 + 2, 8))}
    >>> for scope in ("input", "transform", "forget", "output", "state"):
    ...     weights |= {f"{scope}/gamma": np.ones(2), f"{scope}/beta": np.zeros(2)}
    >>> lstm = from_tensorflow_contrib(weights)
    >>> lstm, lstm.bias_l0
    (LayerNormLSTM(3, 2, variant='per_gate', eps=1e-12), array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32))
    """
    named = _Named("from_tensorflow_contrib", weights, prefix)
    rows, columns = named.shape("kernel")
    inputs, n = rows - columns // 4, columns // 4
    if inputs < 1:
        raise ValueError(f"{named.place}: {prefix}kernel has shape {rows, columns}, expected (inputs + n, 4 * n)")
    layer = _layer(named, inputs, n, options, variant="per_gate", eps=eps)
    i, j, f, o = np.split(named.take("kernel", inputs + n, 4 * n).T, 4)
    weight, scopes = np.concatenate((i, f, j, o)), ("input", "forget", "transform", "output")
    arrays = {
        "weight_ih": weight[:, :inputs],
        "weight_hh": weight[:, inputs:],
        "norm": np.concatenate([named.take(f"{scope}/gamma", n) for scope in scopes]),
        "bias": np.concatenate([named.take(f"{scope}/beta", n) for scope in scopes]),
        "norm_cell_weight": named.take("state/gamma", n),
        "norm_cell_bias": named.take("state/beta", n),
    }
    arrays["bias"][n : 2 * n] += forget_bias
    _fill(layer, "_l0", arrays)
    named.done()
    return layer


def from_tensorflow_lite(
    tensors: Weights,
    *,
    fused_activation_function: str = "TANH",
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    eps: float = 1e-8,
    **options: Unpack[Options],
) -> LayerNormLSTM:
    """The operators LSTM and UNIDIRECTIONAL_SEQUENCE_LSTM of TensorFlow Lite, with layer norm, in floating point.

    Without peepholes, a projection, clipping, and a coupled input gate (CIFG): with any of them it is an error.

    Parameters
    ----------
    tensors : mapping of str to array_like
        Inputs of the operator, which a file numbers: ``input_to_{gate}_weights`` 1 to 4,
        ``recurrent_to_{gate}_weights`` 5 to 8, ``{gate}_gate_bias`` 12 to 15, ``{gate}_layer_norm_coefficients`` 20 to
        23, for the gates ``input``, ``forget``, ``cell`` and ``output``. Optional ones may be None or absent.
    fused_activation_function, cell_clip, proj_clip : optional
        The operator's options. All but "TANH" and no clipping is an error.
    eps : float
        That of the operator's kernels.
    dtype, batch_first, batch_invariant : optional
        As in :class:`normlib.LayerNormLSTM`.

    Returns
    -------
    LayerNormLSTM
        Of the variant "per_gate", without a norm of the cell.

    References
    ----------
    https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/kernels/lstm_eval.cc

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.interop.recurrent import from_tensorflow_lite
    >>> tensors = {}
    >>> for gate in ("input", "forget", "cell", "output"):
    ...     tensors |= {f"input_to_{gate}_weights": np.ones((2, 3)), f"recurrent_to_{gate}_weights": np.ones((2, 2))}
    ...     tensors |= {f"{gate}_gate_bias": np.zeros(2), f"{gate}_layer_norm_coefficients": np.ones(2)}
    >>> from_tensorflow_lite(tensors)
    LayerNormLSTM(3, 2, variant='per_gate', cell_norm=False, eps=1e-08)
    """
    place, gates = "from_tensorflow_lite", ("input", "forget", "cell", "output")
    named = _Named(place, tensors)
    if fused_activation_function != "TANH":
        raise ValueError(f"{place}: fused_activation_function is {fused_activation_function!r}, expected 'TANH'")
    for name, clip in (("cell_clip", cell_clip), ("proj_clip", proj_clip)):
        if clip != 0:
            raise ValueError(f"{place}: {name} is {clip!r}, expected 0: a cell without clipping")
    for pattern, what in (("cell_to_.*", "peepholes"), ("projection_.*", "a projection"), ("aux_.*", "a second input")):
        for name in filter(re.compile(pattern).fullmatch, named.left):
            raise ValueError(f"{place}: {name} is given, expected a cell without {what}")
    if "input_to_input_weights" not in named.left and "input_to_forget_weights" in named.left:
        raise ValueError(f"{place}: input_to_input_weights is missing, expected a cell without coupled gates (CIFG)")
    (_, inputs), (n, _) = (named.shape(f"{source}_to_forget_weights") for source in ("input", "recurrent"))
    layer = _layer(named, inputs, n, options, variant="per_gate", cell_norm=False, eps=eps)
    arrays = {
        "weight_ih": np.concatenate([named.take(f"input_to_{gate}_weights", n, inputs) for gate in gates]),
        "weight_hh": np.concatenate([named.take(f"recurrent_to_{gate}_weights", n, n) for gate in gates]),
        "norm": np.concatenate([named.take(f"{gate}_layer_norm_coefficients", n) for gate in gates]),
        "bias": np.concatenate([named.take(f"{gate}_gate_bias", n) for gate in gates]),
    }
    _fill(layer, "_l0", arrays)
    named.done()
    return layer
