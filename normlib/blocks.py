"""Blocks of a network around its residual stream, and stacks of them.

A block adds to a stream what a branch computes. In a stack the addition is left to the norm that comes next, which
takes both terms (``residual=``): so the stream is walked over once a norm, forward and, by ``dsum=``, backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ._arrays import as_array
from ._layer import Layer
from ._parameters import Holder

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


def _guarded(array: Array) -> Array:
    """A view for others to read: the array is needed as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


class _Container(Holder):
    """Holds what its children hold, their names before those of the arrays."""

    _children: dict[str, Any]

    def _gathered(self, method: str) -> dict[str, Array]:
        """What the children that have the method say, by name."""
        found: dict[str, Array] = {}
        for key, child in self._children.items():
            named: dict[str, Array] = getattr(child, method, dict)()
            found |= {f"{key}.{name}": array for name, array in named.items()}
        return found

    def _told(self, method: str, *args: Any) -> Self:
        for child in self._children.values():
            if hasattr(child, method):
                getattr(child, method)(*args)
        return self

    def parameters(self) -> dict[str, Array]:
        """The parameters of all that is inside by name: the arrays themselves, for an optimizer to update in place."""
        return self._gathered("parameters")

    def gradients(self) -> dict[str, Array]:
        """The gradients that :meth:`backward` left, by the name of the parameter; frozen ones are absent."""
        return self._gathered("gradients")

    def zero_grad(self) -> None:
        """Forget the gradients of all that is inside."""
        self._told("zero_grad")

    @property
    def requires_grad(self) -> dict[str, bool]:
        """Which parameters get gradients; change it with :meth:`freeze` and :meth:`unfreeze`."""
        known = {f"{key}.{name}": wanted for key, child in self._children.items()
                 for name, wanted in getattr(child, "requires_grad", {}).items()}  # fmt: skip
        return {name: known.get(name, True) for name in self.parameters()}

    def freeze(self, *names: str) -> Self:
        """Give the named parameters (by default all whose holder can) no gradients."""
        return self._each("freeze", names)

    def unfreeze(self, *names: str) -> Self:
        """Undo :meth:`freeze` for the named parameters, or for all of them."""
        return self._each("unfreeze", names)

    def _each(self, method: str, names: tuple[str, ...]) -> Self:
        if not names:
            return self._told(method)
        parts = [name.partition(".") for name in self._named(names)]
        for key, _, _ in parts:
            if not hasattr(self._children[key], method):
                kind = type(self._children[key]).__name__
                raise TypeError(f"{type(self).__name__}.{method}: {key} is a {kind}, which has no method {method}")
        for key, _, name in parts:
            getattr(self._children[key], method)(name)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that is inside; returns the block."""
        super().train(mode)
        return self._told("train", self.training)

    def _state(self, prefix: str) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for key, child in self._children.items():
            if isinstance(child, Holder):
                found |= child._state(f"{prefix}{key}.")
            else:
                named: dict[str, Array] = getattr(child, "parameters", dict)()
                found |= {f"{prefix}{key}.{name}": array for name, array in named.items()}
        return found


class _Block(_Container):
    """What a block does alone is what it does in a stack."""

    _went = False  # whether a forward waits for its backward

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
        return _added(*self._carry(None, as_array(type(self).__name__, "x", x)))

    def __call__(self, x: ArrayLike) -> Array:
        """As :meth:`forward`."""
        return self.forward(x)

    def backward(self, dy: ArrayLike) -> Array:
        """The gradient with respect to the last `x`; adds to those of the parameters inside that are not frozen.

        One backward belongs to one forward: RuntimeError when there was none, or when it has been used.
        """
        name = f"{type(self).__name__}.backward"
        if not self._went:
            raise RuntimeError(f"{name}: there is no forward to go back through; call forward(x) first, once for each")
        return self._back(as_array(name, "dy", dy))

    def _carry(self, branch: Array | None, stream: Array) -> Carried:
        """Forward, with the stream and what is to be added to it."""
        self._went = False
        carried = self._through(branch, stream)
        self._went = True
        return carried

    def _back(self, dsum: Array) -> Array:
        """The gradient with respect to the sum that came in of that which reaches the sum that went out."""
        self._went = False
        return self._down(dsum)

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        raise NotImplementedError

    def _down(self, dsum: Array) -> Array:
        raise NotImplementedError


class _Residual(_Block):
    """A block around a sublayer."""

    def __init__(self, sublayer: Any, **norms: Layer) -> None:
        super().__init__()
        name = type(self).__name__
        if not callable(getattr(sublayer, "forward", None)):
            kind = type(sublayer).__name__
            raise TypeError(f"{name}: sublayer is a {kind}, expected an object with a method forward")
        for key, norm in norms.items():
            if not isinstance(norm, Layer):
                kind = type(norm).__name__
                raise TypeError(f"{name}: {key} is a {kind}, expected a norm of normlib, as LayerNorm(d)")
        self.sublayer = sublayer
        self._children = {**norms, "sublayer": sublayer}
        vars(self).update(norms)

    def _branch(self, v: Array) -> Array:
        """The sublayer of v, which keeps its shape and dtype."""
        name, kind = type(self).__name__, type(self.sublayer).__name__
        if self.training and not callable(getattr(self.sublayer, "backward", None)):
            raise TypeError(f"{name}.forward: the sublayer {kind} {_NO_BACKWARD}")
        result: Array = np.asarray(self.sublayer.forward(v))
        if result.shape != v.shape:
            wrong = f"returned shape {result.shape}, expected {v.shape}, that of x"
            raise ValueError(f"{name}.forward: the sublayer {kind} {wrong}")
        if result.dtype != v.dtype:
            wrong = f"returned dtype {result.dtype}, expected {v.dtype}, that of x"
            raise TypeError(f"{name}.forward: the sublayer {kind} {wrong}")
        return result

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={child!r}" for key, child in self._children.items())
        return f"{type(self).__name__}({inside})"


class PreNorm(_Residual):
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

    def __init__(self, sublayer: Any, norm: Layer) -> None:
        super().__init__(sublayer, norm=norm)
        self.norm = norm

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        y, total = _normalized(self.norm, branch, stream)
        return self._branch(y), total

    def _down(self, dsum: Array) -> Array:
        return self.norm.backward(self.sublayer.backward(_guarded(dsum)), dsum)


class PostNorm(_Residual):
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

    def __init__(self, sublayer: Any, norm: Layer) -> None:
        super().__init__(sublayer, norm=norm)
        self.norm = norm

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        x = _added(branch, stream)
        return None, self.norm.forward(self._branch(_guarded(x)), residual=x)[0]

    def _down(self, dsum: Array) -> Array:
        dx = self.norm.backward(dsum)
        total: Array = np.add(self.sublayer.backward(_guarded(dx)), dx)
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
        self.norm1, self.norm2 = norm1, norm2

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        y, total = _normalized(self.norm1, branch, stream)
        return self.norm2.forward(self._branch(y)), total

    def _down(self, dsum: Array) -> Array:
        return self.norm1.backward(self.sublayer.backward(self.norm2.backward(dsum)), dsum)


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
        self.blocks = list(blocks)
        if not self.blocks:
            raise ValueError("Stack: blocks is empty, expected at least one")
        for i, block in enumerate(self.blocks):
            if not callable(getattr(block, "forward", None)):
                kind = type(block).__name__
                raise TypeError(f"Stack: blocks[{i}] is a {kind}, expected an object with a method forward")
            if any(block is other for other in self.blocks[:i]):
                raise ValueError(f"Stack: blocks[{i}] is there before, expected another: each keeps its input")
        self._children = {str(i): block for i, block in enumerate(self.blocks)}

    def _through(self, branch: Array | None, stream: Array) -> Carried:
        for i, block in enumerate(self.blocks):
            if isinstance(block, _Block):
                branch, stream = block._carry(branch, stream)
            elif isinstance(block, Layer):
                branch, stream = None, _normalized(block, branch, stream)[0]
            elif self.training and not callable(getattr(block, "backward", None)):
                raise TypeError(f"Stack.forward: blocks[{i}], a {type(block).__name__}, {_NO_BACKWARD}")
            else:
                branch, stream = None, np.asarray(block.forward(_added(branch, stream)))
        return branch, stream

    def _down(self, dsum: Array) -> Array:
        for block in reversed(self.blocks):
            dsum = block._back(dsum) if isinstance(block, _Block) else block.backward(dsum)
        return dsum

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, i: int) -> Any:
        return self.blocks[i]

    def __repr__(self) -> str:
        return f"Stack([{', '.join(map(repr, self.blocks))}])"
