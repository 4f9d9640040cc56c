"""Arrays by name: parameters, their gradients, buffers; freezing, modes, and state under torch's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import _arguments
from ._arrays import as_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Holder:
    """Holds parameters as attributes, their gradients as `grad_` and the name, and buffers, which have no gradients."""

    _names: tuple[str, ...] = ("weight", "bias")
    _buffers: tuple[str, ...] = ()
    training: bool

    def __init__(self) -> None:
        self.training = True
        self._frozen: set[str] = set()

    # -- parameters and their gradients ----

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The layer's parameters by name: the arrays themselves, for an optimizer to update in place."""
        return self._held(*self._names)

    def gradients(self) -> dict[str, NDArray[Any]]:
        """The gradients that :meth:`backward` left, by the name of the parameter; frozen ones are absent."""
        named = {name: getattr(self, f"grad_{name}") for name in self.parameters()}
        return {name: gradient for name, gradient in named.items() if gradient is not None}

    def _gain(self, name: str, gradient: NDArray[Any]) -> None:
        """Add to the gradient of a parameter."""
        before = getattr(self, f"grad_{name}")
        setattr(self, f"grad_{name}", gradient if before is None else before + gradient)

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next :meth:`backward` starts new ones."""
        for name in self._names:
            setattr(self, f"grad_{name}", None)

    @property
    def requires_grad(self) -> dict[str, bool]:
        """Which parameters get gradients; change it with :meth:`freeze` and :meth:`unfreeze`."""
        return {name: name not in self._frozen for name in self.parameters()}

    def freeze(self, *names: str) -> Self:
        """Give the named parameters (by default all) no gradients; with all frozen the work is skipped."""
        for name in self._named(names):
            self._frozen.add(name)
            setattr(self, f"grad_{name}", None)
        return self

    def unfreeze(self, *names: str) -> Self:
        """Undo :meth:`freeze` for the named parameters, or for all of them."""
        self._frozen.difference_update(self._named(names))
        return self

    def _named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(self.parameters())
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__}: no parameter {name!r}, there are: {', '.join(known) or 'none'}"
                )
        return names or known

    # -- modes and state ----

    def train(self, mode: bool = True) -> Self:
        """Use the statistics of the input and update the running ones, if any; returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Use the running statistics, where the layer has any; returns the layer."""
        return self.train(False)

    def _held(self, *names: str) -> dict[str, NDArray[Any]]:
        """The arrays of these names, but for those that are None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _state(self, prefix: str) -> dict[str, NDArray[Any]]:
        return {prefix + name: value for name, value in self._held(*self._names, *self._buffers).items()}

    def state_dict(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """A copy of parameters and running statistics under torch's names, each behind `prefix`."""
        return {name: value.copy() for name, value in self._state(prefix).items()}

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True, prefix: str = ""
    ) -> tuple[list[str], list[str]]:
        """Copy arrays by name into the layer, in the layer's dtype, in place; on an error none of them.

        Parameters
        ----------
        state : mapping of str to array_like
            For example the result of :meth:`state_dict`, or the arrays of a checkpoint.
        strict : bool
            Whether a name that is missing, or that the layer does not know, is an error.
        prefix : str
            Only the names that start with `prefix` are looked at: ``"encoder.layer.0.output.LayerNorm."``
            picks one layer out of a checkpoint.

        Returns
        -------
        missing, unexpected : list of str
            What ``strict=True`` would have called an error.
        """
        own = self._state(prefix)
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name.startswith(prefix) and name not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        place = f"{type(self).__name__}.load_state_dict"
        arrays = {name: as_array(place, name, state[name]) for name in own if name in state}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                problems.append(f"{name} has shape {array.shape}, expected {own[name].shape}")
            elif not own[name].flags.writeable:
                problems.append(f"{name} is read-only, expected a parameter that can be written")
            elif array.dtype.kind not in "fiub" and array.dtype.name not in _arguments.DTYPES:
                problems.append(f"{name} has dtype {array.dtype}, expected real numbers")
        if problems:
            raise ValueError(f"{place}: {'; '.join(problems)}")
        cast = {name: array.astype(own[name].dtype) for name, array in arrays.items()}  # may raise: all before one
        for name, array in cast.items():
            own[name][...] = array
        return missing, unexpected


class Container(Holder):
    """Holds what its children hold, their names before those of the arrays.

    A child takes part by the methods that it has: ``parameters()`` and ``gradients()``, dicts of arrays by name;
    ``zero_grad()``, ``train(mode)``, ``freeze(*names)`` and ``unfreeze(*names)``. Its state is its parameters, and the
    buffers of normlib's own layers.
    """

    @property
    def _children(self) -> dict[str, Any]:
        raise NotImplementedError

    def _gathered(self, method: str) -> dict[str, NDArray[Any]]:
        """What the children say, by name."""
        found: dict[str, NDArray[Any]] = {}
        for key, child in self._children.items():
            ask = getattr(child, method, None)
            named = ask() if callable(ask) else {}
            place = f"{type(self).__name__}: {type(child).__name__}.{method}()"
            if not isinstance(named, Mapping):
                raise TypeError(f"{place} is a {type(named).__name__}, expected a dict of arrays by name")
            given = {name: array for name, array in named.items() if array is not None}
            for name, array in given.items():
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"{place}[{name!r}] is a {type(array).__name__}, expected an array")
            found |= {f"{key}.{name}": array for name, array in given.items()}
        return found

    def _told(self, method: str, *args: Any) -> Self:
        for child in self._children.values():
            if callable(getattr(child, method, None)):
                getattr(child, method)(*args)
        return self

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters of all that is inside by name: the arrays themselves, for an optimizer to update in place."""
        return self._gathered("parameters")

    def gradients(self) -> dict[str, NDArray[Any]]:
        """The gradients that :meth:`backward` left, by the name of the parameter; frozen ones are absent."""
        return self._gathered("gradients")

    def zero_grad(self) -> None:
        """Forget the gradients of all that is inside."""
        self._told("zero_grad")

    @property
    def requires_grad(self) -> dict[str, bool]:
        """Which parameters get gradients; change it with :meth:`freeze` and :meth:`unfreeze`."""
        wanted = dict.fromkeys(self.parameters(), True)
        for key, child in self._children.items():
            if isinstance(child, Holder):
                wanted |= {f"{key}.{name}": value for name, value in child.requires_grad.items()}
        return wanted

    def freeze(self, *names: str) -> Self:
        """Give the named parameters (by default all whose holder can) no gradients."""
        return self._each("freeze", names)

    def unfreeze(self, *names: str) -> Self:
        """Undo :meth:`freeze` for the named parameters, or for all of them."""
        return self._each("unfreeze", names)

    def _each(self, method: str, names: tuple[str, ...]) -> Self:
        if not names:
            return self._told(method)
        found = [self._holder(method, name) for name in self._named(names)]  # all before one
        for holder, name in found:
            getattr(holder, method)(name)
        return self

    def _holder(self, method: str, name: str) -> tuple[Any, str]:
        """Who has a parameter, and its name there."""
        key, _, rest = name.partition(".")
        child = self._children[key]
        if isinstance(child, Container):
            return child._holder(method, rest)
        if not callable(getattr(child, method, None)):
            kind = type(child).__name__
            raise TypeError(f"{type(self).__name__}.{method}: {name} is of a {kind}, which has no method {method}")
        return child, rest

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that is inside; returns the block."""
        super().train(mode)
        return self._told("train", self.training)

    def _state(self, prefix: str) -> dict[str, NDArray[Any]]:
        parameters = self.parameters()
        found: dict[str, NDArray[Any]] = {}
        for key, child in self._children.items():
            if isinstance(child, Holder):
                found |= child._state(f"{prefix}{key}.")
            else:
                found |= {prefix + name: array for name, array in parameters.items() if name.startswith(f"{key}.")}
        return found

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True, prefix: str = ""
    ) -> tuple[list[str], list[str]]:
        again = self._state(prefix)
        for name, array in self._state(prefix).items():
            if array.size and not np.may_share_memory(array, again[name]):
                raise TypeError(f"{type(self).__name__}.load_state_dict: {name} is a copy, expected the array itself")
        return super().load_state_dict(state, strict, prefix)

    load_state_dict.__doc__ = Holder.load_state_dict.__doc__

    def _inside(self) -> Iterator[Holder]:
        """All that hold something and keep their input."""
        for child in self._children.values():
            if isinstance(child, Holder):
                yield child
            if isinstance(child, Container):
                yield from child._inside()
