"""Arrays of other libraries: taken without a copy, and answered in kind.

Tensors of torch, arrays of JAX and whatever else speaks DLPack and the array API standard become NumPy arrays of the
same memory on their way into a function, and its results become arrays of the kind of ``x`` on their way out. A library
is only looked up among the imported modules: whoever gives an array of it has imported it.
"""

import sys

import numpy as np

from ._arguments import bfloat16, computed, convert
from ._arguments import mask as where

_PLAIN = {np.ndarray, type(None), list, tuple, float, int, bool}


def taken(function, values, like_x=True):
    """The arguments of `function` with arrays of NumPy for those of other libraries, and the kinds of these by name;
    like_x: whether its result has the dtype of x."""
    kinds = {}
    if _PLAIN.issuperset(map(type, values)):
        return values, kinds
    arrays = list(values)
    for name, at in function.places.items():
        if type(values[at]) not in _PLAIN and (kind := _kind(values[at])) is not None:
            kinds[name] = kind
            arrays[at] = kind.taken(function.name, name, values[at])
    if like_x and "x" in kinds and values[function.places["out"]] is None:
        arrays[function.places["out"]] = kinds["x"].output(arrays[function.places["x"]])
    return arrays, kinds


def returned(function, values, kinds, results):
    """The results in the kind of x, after telling the libraries of the arrays that were written to."""
    places = function.places
    for role in function.written:
        if role.name in kinds and (role.direction == "out" or values[function.names.index(function.op.mode)]):
            kinds[role.name].written(values[places[role.name]])
    kind, x, out = kinds.get("x", _NUMPY), values[places["x"]], values[places["out"]]
    if not isinstance(results, tuple):
        return kind.like(results, x) if out is None else out
    first, *rest = results
    first = kind.like(first, x) if out is None else out
    return (first, *(None if r is None else kind.returned(r, x) for r in rest))


def mask(function, values, kinds, fused):
    """The argument `where` of a call whose x is a masked array: what is not masked, of what is asked for."""
    if kinds.get("x") is not _MASKED:
        return {}
    x = values[function.places["x"]]
    inside = ~np.ma.getmaskarray(x)
    return {"where": inside & where(function.name, "where", fused["where"], x) if "where" in fused else inside}


def as_array(op, name, value):
    """`value`, of whatever library, as an array of NumPy."""
    return convert(op, name, numpy_of(op, name, value))


def numpy_of(op, name, value):
    """`value` for NumPy where it is an array of another library, else as it is."""
    if type(value) in _PLAIN or isinstance(value, str) or (kind := _kind(value)) is None:
        return value
    return kind.taken(op, name, value)


def kind_of(value):
    """How results beside `value` are made."""
    return _NUMPY if type(value) in _PLAIN else _kind(value) or _NUMPY


def _kind(value):
    """How to treat `value`, or None where NumPy knows best: its subclasses, and what np.asarray makes an array of."""
    if isinstance(value, getattr(sys.modules.get("torch"), "Tensor", ())):
        return _TORCH
    if isinstance(value, getattr(sys.modules.get("jax"), "Array", ())):
        return _JAX
    if isinstance(value, np.ndarray):
        return _MASKED if isinstance(value, np.ma.MaskedArray) else None
    return _STANDARD if hasattr(value, "__dlpack__") and hasattr(value, "__array_namespace__") else None


def _elsewhere(op, name, device, way):
    return ValueError(f"{op}: {name} is on the device {device}, expected an array in the memory of the CPU: {way}")


class _Plain:
    """NumPy's own."""

    def output(self, x):
        """The array for the result, where it must be a particular one."""
        return None

    def written(self, value):
        """Tell the library of `value` that its memory was written to."""

    def returned(self, array, like):
        """`array` as an array of the library that `like` is of."""
        return array

    def like(self, array, like):
        """The same of what has the elements of `like`."""
        return self.returned(array, like)


class _Masked(_Plain):
    """Masked arrays of NumPy, whose mask is that of the result."""

    def taken(self, op, name, value):
        return value.data

    def like(self, array, like):
        return np.ma.array(array, mask=np.ma.getmaskarray(like).copy())


class _Torch(_Plain):
    def taken(self, op, name, value):
        torch = sys.modules["torch"]
        bits = value.dtype is torch.bfloat16
        if value.device.type != "cpu":
            raise _elsewhere(op, name, value.device, f"{name}.cpu()")
        if value.requires_grad:
            if torch.is_grad_enabled():
                raise ValueError(
                    f"{op}: {name} requires a gradient, which would be lost here: expected {name}.detach(), "
                    "a call under torch.no_grad(), or normlib.interop.torch"
                )
            value = value.detach()
        try:
            array = (value.view(torch.int16) if bits else value).numpy()
        except Exception as error:
            raise TypeError(f"{op}: {name} cannot be made an array: {error}") from error
        return array.view(bfloat16(op, name)) if bits else array

    def written(self, value):
        if not value.is_inference():  # the others have versions, by which autograd notices
            sys.modules["torch"].autograd.graph.increment_version(value)

    def returned(self, array, like):
        torch = sys.modules["torch"]
        array = np.asarray(array)
        if array.dtype.kind in "fi":
            return torch.from_numpy(array)
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


class _Jax(_Plain):
    def taken(self, op, name, value):
        jax = sys.modules["jax"]
        if isinstance(value, jax.core.Tracer):
            raise TypeError(f"{op}: {name} is being traced by JAX (jit, grad, vmap): use normlib.interop.jax")
        devices = value.devices()
        if any(device.platform != "cpu" for device in devices):
            way = f"jax.device_put({name}, jax.devices('cpu')[0])"
            raise _elsewhere(op, name, " and ".join(sorted(map(str, devices))), way)
        if name == "out":
            raise TypeError(f"{op}: out is a JAX array, which cannot be written to, expected a NumPy array or None")
        return convert(op, name, value)

    def output(self, x):
        """JAX takes over memory that is aligned to 64 bytes and has no gaps, and copies any other."""
        dtype = computed(x.dtype)
        size = x.size * dtype.itemsize
        memory = np.empty(size + 63, np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + size].view(dtype).reshape(x.shape)

    def returned(self, array, like):
        return sys.modules["jax"].device_put(array, like.sharding if like.committed else None)


class _Standard(_Plain):
    """What the array API standard has; the memory is that of the CPU where its DLPack device says so."""

    def taken(self, op, name, value):
        kind, _ = value.__dlpack_device__()
        if kind != 1:
            raise _elsewhere(op, name, getattr(value, "device", kind), "copy it there")
        try:
            return np.from_dlpack(value)
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(f"{op}: {name} cannot be made an array: {error}") from error

    def returned(self, array, like):
        return like.__array_namespace__().from_dlpack(np.asarray(array), device=like.device)


_NUMPY, _MASKED, _TORCH, _JAX, _STANDARD = _Plain(), _Masked(), _Torch(), _Jax(), _Standard()
