"""Modules of torch, Flax and Keras, layers on NumPy arrays, ONNX nodes: each as a subject.

Nothing is imported here that is not there already.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._model import Array
from ._subject import (
    EPS,
    NAMES,
    NUMPY,
    Arrays,
    Function,
    Given,
    Result,
    Subject,
    first,
    named,
    of_numpy,
    read_signature,
)

NARROW = ("float16", "bfloat16")


def torch_arrays() -> Arrays:
    """Tensors, without a graph."""
    import torch

    def make(a: Array, dtype: str) -> Any:
        return torch.from_numpy(np.array(a, dtype=np.float64)).to(getattr(torch, dtype))

    def take(y: Any) -> Result:
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"the result is a {type(y).__name__}, expected a tensor")
        return Result(y.detach().double().numpy(), str(y.dtype).removeprefix("torch."))

    def differentiate(fn: Callable[..., Any], dy: Array, inputs: Sequence[Array]) -> list[Array]:
        leaves = [make(a, "float64").requires_grad_() for a in inputs]
        y = first(fn(*leaves))
        found = torch.autograd.grad(y, leaves, make(dy, "float64").to(y.dtype), allow_unused=True)
        return [np.zeros(leaf.shape) if g is None else take(g).values for leaf, g in zip(leaves, found, strict=True)]

    return Arrays("torch", make, take, torch.no_grad, NARROW, differentiate)


def jax_arrays() -> Arrays:
    """Arrays of JAX, with float64 switched on."""
    import jax
    import jax.numpy as jnp

    def make(a: Array, dtype: str) -> Any:
        return jnp.asarray(a, dtype=dtype)

    def differentiate(fn: Callable[..., Any], dy: Array, inputs: Sequence[Array]) -> list[Array]:
        with jax.enable_x64(True):
            y, pull = jax.vjp(lambda *given: first(fn(*given)), *(make(a, "float64") for a in inputs))
            return [of_numpy(g).values for g in pull(make(dy, str(y.dtype)))]

    return Arrays("jax", make, of_numpy, lambda: jax.enable_x64(True), NARROW, differentiate)


def kinds() -> list[Arrays]:
    """The arrays that a function may take, of the frameworks that are in use."""
    others = {"torch": torch_arrays, "jax": jax_arrays}
    return [NUMPY, *(make() for name, make in others.items() if name in sys.modules)]


class Module(Subject):
    """An object that holds its parameters: a copy of it is probed, one for each dtype."""

    stats = ("running_mean", "running_var")
    modal = True

    def __init__(self, module: Any) -> None:
        super().__init__(type(module).__name__)
        self.module = module
        self.copies: dict[str, Any] = {}
        own = self.own("float64")
        for role, value in self.held(own).items():
            self.initial[role] = np.array(self.arrays.take(value).values)
            self.shapes[role] = self.initial[role].shape
        self.features = next(iter(self.shapes.values()), None) or _features(module)
        self.hints = {"eps": next((v for n in EPS if isinstance(v := getattr(module, n, None), float)), None)}
        for name in ("momentum", "num_groups", "groups", "unit_offset"):
            if isinstance(value := getattr(module, name, None), (int, float)):
                self.hints["num_groups" if name == "groups" else name] = value
        self.hints["cumulative"] = getattr(module, "momentum", 0) is None

    def own(self, dtype: str) -> Any:
        """The copy whose parameters are in a dtype."""
        if dtype not in self.copies:
            self.copies[dtype] = self.copied(dtype)
        return self.copies[dtype]

    def call(self, x: Array, given: Given, dtype: str = "float64", training: bool | None = None) -> Result:
        module = self.own(dtype)
        self.assign(module, given)
        with self.arrays.around():
            training = self.running() is not None if training is None else training
            return self.arrays.take(first(self.invoke(module, self.arrays.make(x, dtype), training)))

    def assign(self, module: Any, given: Given) -> None:
        for name, slot in self.held(module).items():
            if name in given:
                self.put(slot, given[name])

    def running(self) -> tuple[Array, Array] | None:
        found = [getattr(self.own("float64"), name, None) for name in self.stats]
        if any(value is None for value in found):
            return None
        mean, var = (np.array(self.arrays.take(value).values) for value in found)
        return mean, var

    def set_running(self, mean: Array, var: Array) -> None:
        for name, value in zip(self.stats, (mean, var), strict=True):
            self.put(getattr(self.own("float64"), name), value)

    # -- what differs between frameworks ----

    def copied(self, dtype: str) -> Any:
        """A copy whose parameters are in a dtype, where there is a choice."""
        return copy.deepcopy(self.module)

    def held(self, module: Any) -> dict[str, Any]:
        """What holds weight and bias, by our names."""
        raise NotImplementedError

    def put(self, slot: Any, value: Array) -> None:
        slot[...] = value

    def invoke(self, module: Any, x: Any, training: bool) -> Any:
        raise NotImplementedError


def _features(module: Any) -> tuple[int, ...] | None:
    """The lengths that a module without parameters speaks of."""
    for name in ("normalized_shape", "num_features", "num_channels"):
        value = getattr(module, name, None)
        if isinstance(value, int) or (isinstance(value, tuple) and value):
            return (value,) if isinstance(value, int) else tuple(value)
    return None


def by_role(members: Any) -> dict[str, Any]:
    """Of pairs of name and value those that are a weight or a bias."""
    found: dict[str, Any] = {}
    for name, value in members:
        if value is not None and (role := named(name)):
            found.setdefault(role, value)
    return found


class TorchModule(Module):
    """A ``torch.nn.Module``."""

    def __init__(self, module: Any) -> None:
        self.arrays = torch_arrays()
        super().__init__(module)

    def copied(self, dtype: str) -> Any:
        return copy.deepcopy(self.module).to(getattr(sys.modules["torch"], dtype))

    def held(self, module: Any) -> dict[str, Any]:
        return by_role((*module.named_parameters(), *module.named_buffers()))

    def put(self, slot: Any, value: Array) -> None:
        slot.data.copy_(self.arrays.make(value, "float64").reshape(slot.shape))

    def invoke(self, module: Any, x: Any, training: bool) -> Any:
        return module.train(training)(x)

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        module = self.own("float64").train(self.running() is not None)
        self.assign(module, given)
        slots = self.held(module)
        leaf = self.arrays.make(x, "float64").requires_grad_()
        for slot in slots.values():
            slot.requires_grad_()
        y = first(module(leaf))
        leaves, torch = [leaf, *slots.values()], sys.modules["torch"]
        found = torch.autograd.grad(y, leaves, self.arrays.make(dy, "float64").to(y.dtype), allow_unused=True)
        zeros = [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, found, strict=True)]
        return {name: self.arrays.take(g).values for name, g in zip(("x", *slots), zeros, strict=True)}


class FlaxModule(Module):
    """A module of ``flax.nnx``."""

    decays = True
    channels_last = True
    stats = ("mean", "var")

    def __init__(self, module: Any) -> None:
        self.arrays = jax_arrays()
        super().__init__(module)

    def held(self, module: Any) -> dict[str, Any]:
        return by_role((name, value) for name, value in vars(module).items() if hasattr(value, "set_value"))

    def put(self, slot: Any, value: Array) -> None:
        slot.set_value(self.arrays.make(value, "float32"))

    def invoke(self, module: Any, x: Any, training: bool) -> Any:
        (module.train if training else module.eval)()
        return module(x)

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        module = self.own("float64")
        self.assign(module, given)
        state = self.running()
        (module.train if state is not None else module.eval)()
        if state is not None:  # running statistics may not be written to under a trace
            return None
        assert self.arrays.differentiate is not None
        return {"x": self.arrays.differentiate(module, dy, [x])[0]}


class KerasLayer(Module):
    """A layer of Keras, on whatever backend it runs."""

    decays = True
    channels_last = True
    stats = ("moving_mean", "moving_variance")

    def __init__(self, module: Any) -> None:
        keras = sys.modules["keras"]

        def make(a: Array, dtype: str) -> Any:
            return keras.ops.convert_to_tensor(np.asarray(a, dtype=np.float32), dtype=dtype)

        def take(y: Any) -> Result:
            return of_numpy(keras.ops.convert_to_numpy(y))

        self.arrays = Arrays("keras", make, take)
        if not module.built:
            raise ValueError(f"diagnose: {type(module).__name__} is not built, expected layer.build(shape) before")
        super().__init__(module)

    def copied(self, dtype: str) -> Any:
        made = type(self.module).from_config(self.module.get_config())
        made.build_from_config(self.module.get_build_config())
        made.set_weights(self.module.get_weights())
        return made

    def held(self, module: Any) -> dict[str, Any]:
        return by_role((v.name, v) for v in module.weights)

    def put(self, slot: Any, value: Array) -> None:
        slot.assign(value)

    def invoke(self, module: Any, x: Any, training: bool) -> Any:
        return module(x, training=training)


class Layer(Module):
    """An object with arrays of NumPy as parameters, `forward` or `__call__`, and maybe `backward`, `train`, `eval`."""

    def held(self, module: Any) -> dict[str, Any]:
        return by_role((name, v) for name, v in vars(module).items() if isinstance(v, np.ndarray))

    def invoke(self, module: Any, x: Any, training: bool) -> Any:
        if switch := getattr(module, "train" if training else "eval", None):
            switch()
        return (module if callable(module) else module.forward)(x)

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        module = copy.deepcopy(self.own("float64"))
        if not hasattr(module, "backward"):
            return None
        self.assign(module, given)
        self.invoke(module, x, self.running() is not None)
        found = {"x": of_numpy(first(module.backward(dy))).values}
        for name in self.shapes:
            if (value := getattr(module, f"grad_{name}", None)) is not None:
                found[name] = of_numpy(value).values
        return found


def module(fn: Any, backward: Callable[..., Any] | None) -> Subject | None:
    """The subject for an object that is a module of some framework; None for a plain function."""
    torch, nnx, keras, onnx = (sys.modules.get(name) for name in ("torch", "flax.nnx", "keras", "onnx"))
    if keras is not None and isinstance(fn, keras.layers.Layer):  # on torch it is a torch.nn.Module too
        return KerasLayer(fn)
    if torch is not None and isinstance(fn, torch.nn.Module):
        return TorchModule(fn)
    if nnx is not None and isinstance(fn, nnx.Module):
        return FlaxModule(fn)
    if onnx is not None and isinstance(fn, (onnx.NodeProto, onnx.ModelProto)):
        from ._onnx import function

        return function(fn, backward)
    arrays = any(isinstance(value, np.ndarray) for value in getattr(fn, "__dict__", {}).values())
    if not inspect.isclass(fn) and (hasattr(fn, "forward") or (callable(fn) and arrays)):
        return Layer(fn)
    return None


def subject_of(fn: Any, parameters: Sequence[str] | None, backward: Callable[..., Any] | None) -> Subject:
    """The subject that fits to what was given.

    Raises
    ------
    TypeError, ValueError
        If it is nothing that can be called.
    """
    subject = module(fn, backward)
    if subject is not None:
        return subject
    if not callable(fn) or inspect.isclass(fn):
        raise TypeError(f"diagnose: fn is {fn!r}, expected a function, a module or an ONNX node")
    order, keywords, eps = read_signature(fn) if parameters is None else (tuple(parameters), {}, None)
    if unknown := set(order) - set(NAMES):
        raise ValueError(f"diagnose: parameters is {parameters!r}, expected of 'weight', 'bias', not {min(unknown)!r}")
    made = Function(fn, order, keywords, backward)
    made.hints = {} if eps is None else {"eps": eps}
    return made
