"""What stands around the norms of a module, found in the graph of its forward method.

torch.fx runs the method once with symbols for its tensors; the modules inside are nodes of the graph.
"""

import inspect
import operator
import random
import types
import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from ._formulas import ACTIVATIONS

_ADDS = (operator.add, operator.iadd, torch.add)
_FUNCTIONS = {
    F.relu: "relu", torch.relu: "relu", F.leaky_relu: "leaky_relu", F.silu: "silu", F.gelu: "gelu",
    torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid",
}  # fmt: skip
_MODULES = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.SiLU: "silu", nn.GELU: "gelu", nn.Sigmoid: "sigmoid",
}  # fmt: skip
_HELD = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (bool, int, float, str, type(None), types.FunctionType, types.BuiltinFunctionType)
# What a graph does not show: a symbol is no tensor, and contexts leave no nodes
_HIDDEN = {
    "isinstance", "type", "hasattr", "no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled",
    "inference_mode", "is_inference_mode_enabled", "autocast", "is_autocast_enabled",
}  # fmt: skip


class Unclear(Exception):
    """Why the graph of a forward method is not to be had."""


# ---- the graph ----


def _watched(cls, count, read):
    """A subclass whose forward takes `count` tensors, and that notes which of its own attributes are read."""

    def __getattribute__(self, name):
        value = cls.__getattribute__(self, name)
        if name not in _HELD and not name.startswith("__") and name in cls.__getattribute__(self, "__dict__"):
            read[name] = value
        return value

    own = cls.forward
    forward = (
        lambda self, a: own(self, a),
        lambda self, a, b: own(self, a, b),
        lambda self, a, b, c: own(self, a, b, c),
    )[count - 1]
    return type(cls.__name__, (cls,), {"__getattribute__": __getattribute__, "forward": forward})


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return True


def _required(forward):
    """How many arguments a forward method wants."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    count = sum(p.kind in kinds and p.default is p.empty for p in parameters)
    if not 1 <= count <= 3 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise Unclear(f"its forward takes {count} tensors, expected 1 to 3")
    return count


def _names(cls, code, seen):
    """The names that a method uses, and the methods of its class that it calls."""
    seen |= set(code.co_names)
    for name in set(code.co_names):
        method = getattr(cls, name, None)
        if isinstance(method, types.FunctionType) and name not in vars(nn.Module) and method.__code__ not in seen:
            seen.add(method.__code__)
            _names(cls, method.__code__, seen)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            _names(cls, inner, seen)
    return seen


def _random_states():
    return random.getstate(), torch.get_rng_state().numpy().tobytes()


def traced(owner):
    """The graph of the forward method, and the attributes that it read."""
    own, before = type(owner), dict(vars(owner))
    cls = getattr(own, "_normlib_original", own)
    if "forward" in before or not isinstance(cls.forward, types.FunctionType) or hasattr(cls.forward, "__wrapped__"):
        raise Unclear("its forward is no plain method of its class")
    if hidden := _HIDDEN & _names(cls, cls.forward.__code__, set()):
        raise Unclear(f"its forward calls {min(hidden)}")
    read, states = {}, _random_states()
    watched = _watched(cls, _required(cls.forward), read)
    try:
        owner.__class__ = watched
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _Tracer().trace(owner)
    except Exception as error:
        raise Unclear(f"its forward cannot be traced: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    finally:
        owner.__class__ = own
        after, drawn = dict(vars(owner)), states != _random_states()
        vars(owner).clear()
        vars(owner).update(before)
        random.setstate(states[0])
        torch.set_rng_state(torch.frombuffer(bytearray(states[1]), dtype=torch.uint8))
    if drawn:
        raise Unclear("its forward draws random numbers")
    if after.keys() != before.keys() or any(after[key] is not before[key] for key in before):
        raise Unclear("its forward changes attributes")
    for name, value in read.items():
        if not isinstance(value, _PLAIN):
            raise Unclear(f"its forward reads {name}, a {type(value).__name__}, which may change")
    return graph, read


# ---- patterns ----


@dataclass
class Found:
    """A norm in a graph and the nodes around it: an add before and after, an activation; and why there are no more."""

    norm: fx.Node
    before: fx.Node | None = None
    after: fx.Node | None = None
    activation: fx.Node | None = None
    options: dict = field(default_factory=dict)
    why: str = ""

    @property
    def last(self):
        return self.activation or self.after or self.norm

    @property
    def words(self):
        """What is fused, in the order of the computation."""
        named = (self.before and "residual", self.after and "add", self.options.get("activation"))
        return ", ".join(filter(None, named))


def activation_of(module):
    """The options of an activation that is a module, or None. One of another class than torch's is tried."""
    name = _MODULES.get(type(module))
    if name == "gelu" and module.approximate == "tanh":
        name = "gelu_tanh"
    if name == "leaky_relu":
        return {"activation": name, "negative_slope": module.negative_slope}
    if name is None and "LU" in type(module).__name__ and not any((*module.children(), *module.state_dict())):
        name = _tried(module)
    return name and {"activation": name}


def _tried(module):
    h = torch.linspace(-10, 10, 401)
    try:
        with torch.no_grad():
            found = module.forward(h.clone())
    except Exception:
        return None
    names = (name for name in ACTIVATIONS if name != "leaky_relu")
    same = isinstance(found, torch.Tensor) and found.shape == h.shape
    return next((n for n in names if same and torch.allclose(found, ACTIVATIONS[n][0](h, None), 1e-6, 1e-6)), None)


def _activation(node, owner):
    """The options of an activation that is a node, or None."""
    if node.op == "call_module":
        plain = len(node.args) == 1 and not node.kwargs
        return activation_of(owner.get_submodule(node.target)) if plain else None
    name = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    more = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    if name == "leaky_relu" and len(node.args) <= 2:
        slope = node.args[1] if len(node.args) == 2 else more.pop("negative_slope", 0.01)
        return {"activation": name, "negative_slope": slope} if isinstance(slope, float) and not more else None
    if name == "gelu" and more.pop("approximate", "none") == "tanh":
        name = "gelu_tanh"
    return {"activation": name} if name and len(node.args) == 1 and not more else None


def _is_add(node, norm=None):
    """Whether a node adds two tensors, in place only to what a norm has just made."""
    if node.op != "call_function" or node.target not in _ADDS or node.kwargs or len(node.args) != 2:
        return False
    first, second = node.args
    distinct = isinstance(first, fx.Node) and isinstance(second, fx.Node) and first is not second
    return distinct and (node.target is not operator.iadd or first is norm)


def _only_user(node):
    return next(iter(node.users)) if len(node.users) == 1 else None


def around(norm, owner, adds, order):
    """What can be fused with a norm of a graph; `order` has the place of each node that the graph had at first."""
    found, (x,) = Found(norm), norm.args
    user = _only_user(norm)
    if user is not None and _is_add(user, norm):
        if adds:
            found.after, user = user, _only_user(user)
        else:
            found.why, user = "an add follows, which fuse=True takes", None
    if user is not None and (options := _activation(user, owner)):
        found.activation, found.options = user, options
    elif len(norm.users) > 1 and any(_activation(u, owner) for u in norm.users):
        found.why = "an activation follows, and others use the output too"
    if isinstance(x, fx.Node) and _is_add(x):
        if not adds:
            found.why = found.why or "an add comes before, which fuse=True takes"
        elif all(u is norm or order.get(u, -1) > order[found.last] for u in x.users):
            found.before = x
        else:
            found.why = "an add comes before, whose sum is used too soon"
    inputs = found.before.args if found.before else [x]
    others = {u for t in inputs for u in t.users} - {found.before, norm, found.after}
    if any(order[found.before or norm] < order.get(u, -1) < order[found.last] for u in others):
        return Found(norm, why="others use its input before all that is fused is there")
    return found
