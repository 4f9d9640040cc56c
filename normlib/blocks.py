"""Blocks of a network around its residual stream, and stacks of them.

A block adds to a stream what a branch computes. In a stack the addition is left to the norm that comes next, which
takes both terms (``residual=``): so the stream is walked over once a norm, forward and, by ``dsum=``, backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _arguments
from ._arrays import as_array, numpy_of
from ._layer import Layer
from ._parameters import Container

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    # What is to be added to a stream, None: nothing is; and the stream.
    Carried = tuple[Array | None, Array]

__all__ = ["PostNorm", "PreNorm", "Sandwich", "Stack"]

_NO_BACKWARD = "has no method backward, expected one in training; or call eval()"


def _added(branch: Array | None, stream: Array) -> Array:
    total: Array = stream if branch is None else np.add(stream, branch)
    return total


def _normalized(norm: Layer, branch: Array | None, stream: Array) -> tuple[Array, Array]:
    """The norm of a stream and what is to be added to it, and their sum."""
    if branch is None:
        return norm.forward(stream), stream
    both: tuple[Array, Array] = norm.forward(branch, residual=stream)
    return both


def _like(text: str, array: Array, shape: tuple[int, ...], dtype: Any, words: str) -> Array:
    """The array, which must have this shape and dtype; `text` says whose it is."""
    if array.shape != shape:
        raise ValueError(f"{text} shape {array.shape}, expected {shape}, that of {words}")
    if array.dtype != dtype:
        raise TypeError(f"{text} dtype {array.dtype}, expected {dtype}, that of {words}")
    return array


def _guarded(array: Array) -> Array:
    """A view for others to read: the array is needed as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


class _Block(Container):
    """What a block does alone is what it does in a stack."""

    _went: tuple[tuple[int, ...], Any] | None = None  # shape and dtype of an output that waits for its gradient

    def forward(self, x: ArrayLike) -> Array:
        """The block of `x`; what is inside keeps references for :meth:`backward`: do not change `x` before.

        Parameters
        ----------
        x : array_like
            The stream, of any shape that the norms and the sublayers take.

        Returns
        -------
        y : ndarray
            Of the shape and dtype of `x`.
        """
        return _added(*self._carry(None, _guarded(as_array(f"{type(self).__name__}.forward", "x", x))))

    def __call__(self, x: ArrayLike) -> Array:
        """As :meth:`forward`."""
        return self.forward(x)

    def backward(self, dy: ArrayLike) -> Array:
        """The gradient with respect to the last `x`; adds to those of the parameters inside that are not frozen.

        One backward belongs to one forward: RuntimeError when there was none, or when it has been used.

        Parameters
        ----------
        dy : array_like
            The gradient with respect to the output, of its shape and dtype.
        """
        name = f"{type(self).__name__}.backward"
        dtype = None if hasattr(dy, "dtype") or self._went is None else self._went[1]
        return self._back(_guarded(_arguments.convert(name, "dy", numpy_of(name, "dy", dy), dtype)))

    def _carry(self, branch: Array | None, stream: Array) -> Carried:
        """Forward, with the stream and what is to be added to it."""
        self._went = None
        carried = self._through(branch, stream)
        self._went = carried[1].shape, carried[1].dtype
        return carried

    def _back(self, dsum: Array) -> Array:
        """The gradient with respect to the sum that came in of that which reaches the sum that went out."""
        name = f"{type(self).__name__}.backward"
        if self._went is None:
            raise RuntimeError(f"{name}: there is no forward to go back through; call forward(x) first, once for each")
        _like(f"{name}: dy has", dsum, *self._went, "the output")
        dx = self._down(dsum)
        self._went = None
        return dx

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        raise NotImplementedError

    def _down(self, dsum: Array) -> Array:
        raise NotImplementedError


def _carries(block: Any) -> bool:
    """Whether it is a block that goes forward and back as ours do."""
    kind = type(block)
    return isinstance(block, _Block) and kind.forward is _Block.forward and kind.backward is _Block.backward


def _callable(place: str, what: str, value: Any) -> None:
    """An object that has a method forward, not a class."""
    if isinstance(value, type) or not callable(getattr(value, "forward", None)):
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise TypeError(f"{place}: {what} is {kind}, expected an object with a method forward")


class _Residual(_Block):
    """A block around a sublayer."""

    _parts: tuple[str, ...]
    sublayer: Any

    def __init__(self, sublayer: Any, **norms: Layer) -> None:
        super().__init__()
        name = type(self).__name__
        _callable(name, "sublayer", sublayer)
        for key, norm in norms.items():
            if not isinstance(norm, Layer):
                kind = type(norm).__name__
                raise TypeError(f"{name}: {key} is a {kind}, expected a norm of normlib, as LayerNorm(d)")
        self.sublayer = sublayer
        self._parts = (*norms, "sublayer")

    @property
    def _children(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self._parts}

    def _carry(self, branch: Array | None, stream: Array) -> Carried:
        if self.training:
            self._ready("forward")
        return super()._carry(branch, _arguments.array(f"{type(self).__name__}.forward", stream))

    def _ready(self, method: str) -> None:
        if not callable(getattr(self.sublayer, "backward", None)):
            kind = type(self.sublayer).__name__
            raise TypeError(f"{type(self).__name__}.{method}: the sublayer {kind} {_NO_BACKWARD}")

    def _branch(self, v: Array, method: str = "forward") -> Array:
        """The sublayer of v, or its gradient, which have the shape and dtype of v."""
        if method == "backward":
            self._ready(method)
        place = f"{type(self).__name__}.{method}"
        result = _arguments.convert(place, "the sublayer's result", getattr(self.sublayer, method)(v))
        words = f"{place}: the sublayer {type(self.sublayer).__name__} returned"
        return _like(words, result, v.shape, v.dtype, "what it took")

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={child!r}" for key, child in self._children.items())
        return f"{type(self).__name__}({inside})"


class _OfOneNorm(_Residual):
    def __init__(self, sublayer: Any, norm: Layer) -> None:
        super().__init__(sublayer, norm=norm)
        self.norm = norm


class PreNorm(_OfOneNorm):
    """A pre-norm block: ``x + sublayer(norm(x))``.

    Parameters
    ----------
    sublayer : object
        With methods ``forward(x)`` and, for training, ``backward(dy)``, which keep the shape and the dtype. It takes
        part by ``parameters()``, ``gradients()``, ``zero_grad()``, ``train(mode)`` and ``freeze(*names)`` where it has
        them.
    norm : Layer
        A layer of normlib.

    References
    ----------
    Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, arXiv:2002.04745.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> class Double:
    ...     def forward(self, x):
    ...         return 2 * x
    ...     def backward(self, dy):
    ...         return 2 * dy
    >>> block = normlib.PreNorm(Double(), normlib.RMSNorm(2))
    >>> block(np.array([[3.0, 4.0]])).round(3)
    array([[4.697, 6.263]])
    >>> block.backward(np.array([[1.0, 0.0]])).round(3)
    array([[ 1.362, -0.272]])
    """

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        y, total = _normalized(self.norm, branch, stream)
        return self._branch(y), total

    def _down(self, dsum: Array) -> Array:
        return self.norm.backward(self._branch(_guarded(dsum), "backward"), dsum)


class PostNorm(_OfOneNorm):
    """A post-norm block: ``norm(x + sublayer(x))``.

    Parameters
    ----------
    sublayer, norm : object
        As in :class:`PreNorm`.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> class Nothing:
    ...     def forward(self, x):
    ...         return 0 * x
    >>> block = normlib.PostNorm(Nothing(), normlib.LayerNorm(2)).eval()
    >>> block(np.array([[1.0, 3.0]])).round(3)
    array([[-1.,  1.]])
    """

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        x = _added(branch, stream)
        return None, self.norm.forward(self._branch(_guarded(x)), residual=x)[0]

    def _down(self, dsum: Array) -> Array:
        dx = self.norm.backward(dsum)
        total: Array = np.add(self._branch(_guarded(dx), "backward"), dx)
        return total


class Sandwich(_Residual):
    """A block with norms on both sides of its sublayer: ``x + norm2(sublayer(norm1(x)))``.

    Parameters
    ----------
    sublayer : object
        As in :class:`PreNorm`.
    norm1, norm2 : Layer
        Layers of normlib.

    References
    ----------
    Ding et al., "CogView", 2021, arXiv:2105.13290, who named it; Gemma 2 and 3 are made of such blocks
    (arXiv:2408.00118).

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> class Itself:
    ...     def forward(self, x):
    ...         return x
    >>> block = normlib.Sandwich(Itself(), normlib.RMSNorm(2), normlib.RMSNorm(2)).eval()
    >>> block(np.array([[3.0, 4.0]])).round(3)
    array([[3.849, 5.131]])
    """

    def __init__(self, sublayer: Any, norm1: Layer, norm2: Layer) -> None:
        super().__init__(sublayer, norm1=norm1, norm2=norm2)
        if norm1 is norm2:
            raise ValueError("Sandwich: norm1 and norm2 are one layer, expected two: each keeps its input")
        self.norm1, self.norm2 = norm1, norm2

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        y, total = _normalized(self.norm1, branch, stream)
        return self.norm2.forward(self._branch(y)), total

    def _down(self, dsum: Array) -> Array:
        return self.norm1.backward(self._branch(self.norm2.backward(dsum), "backward"), dsum)


class Stack(_Block):
    """Blocks and layers one after the other, over one residual stream.

    The addition at the end of a pre-norm or sandwich block is done by the norm that begins the next one, in its pass,
    or by a norm at the end of the stack. For :meth:`backward` a stack keeps, for each norm, the sum that it normalized
    (an array of the size of `x`) and 16 bytes a row, and what sublayers keep.

    Parameters
    ----------
    blocks : iterable of object
        :class:`PreNorm`, :class:`PostNorm`, :class:`Sandwich`, stacks, norms, and any objects with ``forward`` and
        ``backward``. Their arrays have the names ``0.norm.weight``, ``0.sublayer.``...

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> class Double:
    ...     def forward(self, x):
    ...         return 2 * x
    ...     def backward(self, dy):
    ...         return 2 * dy
    >>> blocks = [normlib.PreNorm(Double(), normlib.RMSNorm(2)) for _ in range(3)]
    >>> model = normlib.Stack([*blocks, normlib.RMSNorm(2)])
    >>> y = model(np.array([[3.0, 4.0]]))
    >>> y.round(3)
    array([[0.849, 1.131]])
    >>> dx = model.backward(np.ones_like(y))
    >>> list(model.gradients())
    ['0.norm.weight', '1.norm.weight', '2.norm.weight', '3.weight']
    """

    def __init__(self, blocks: Iterable[Any]) -> None:
        super().__init__()
        if isinstance(blocks, _Block) or not isinstance(blocks, Iterable):
            raise TypeError(f"Stack: blocks is a {type(blocks).__name__}, expected a list of blocks")
        self.blocks = list(blocks)
        if not self.blocks:
            raise ValueError("Stack: blocks is empty, expected at least one")
        for i, block in enumerate(self.blocks):
            _callable("Stack", f"blocks[{i}]", block)
        seen: set[int] = set()
        for holder in self._inside():
            if id(holder) in seen:
                raise ValueError(f"Stack: {holder!r} is in it twice, expected two of its kind: each keeps its input")
            seen.add(id(holder))

    @property
    def _children(self) -> dict[str, Any]:
        return {str(i): block for i, block in enumerate(self.blocks)}

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        for i, block in enumerate(self.blocks):
            if _carries(block):
                branch, stream = block._carry(branch, stream)
            elif isinstance(block, Layer):
                branch, stream = None, _normalized(block, branch, stream)[0]
            else:
                if self.training:
                    self._ready(i, "forward")
                y = block.forward(_added(branch, stream))
                branch, stream = None, _arguments.convert("Stack.forward", f"the result of blocks[{i}]", y)
        return branch, stream

    def _down(self, dsum: Array) -> Array:
        for i in reversed(range(len(self.blocks))):
            block = self.blocks[i]
            if _carries(block):
                dsum = block._back(dsum)
            else:
                self._ready(i, "backward")
                dsum = _arguments.convert("Stack.backward", f"the result of blocks[{i}]", block.backward(dsum))
        return dsum

    def _ready(self, i: int, method: str) -> None:
        if not callable(getattr(self.blocks[i], "backward", None)):
            raise TypeError(f"Stack.{method}: blocks[{i}], a {type(self.blocks[i]).__name__}, {_NO_BACKWARD}")

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, i: int) -> Any:
        return self.blocks[i]

    def __repr__(self) -> str:
        return f"Stack([{', '.join(map(repr, self.blocks))}])"
