"""What stands around the norms of a module, found in the graph of its forward method.

torch.fx runs the method once with symbols for its tensors; the modules inside are nodes of the graph. Where a norm is
followed by an activation or an add, or comes after an add, these nodes become one, and the code of the graph takes the
place of the method for as long as what the method looked at stays as it was: the modules inside, and its plain
attributes. For other arguments than tensors, and for more or fewer of them, the method itself runs.
"""

import functools
import inspect
import operator
import types
import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook

from ._formulas import ACTIVATIONS
from ._tensors import PLAIN, eager

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
_LOOKS = {"isinstance", "type", "hasattr", "getattr"}  # a symbol is no tensor


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


def _traced(owner):
    """The graph of the forward method, and the attributes that it read."""
    own, before = type(owner), dict(vars(owner))
    cls = own
    if issubclass(cls, Planned):
        cls = cls._normlib_original
    forward = inspect.unwrap(cls.forward)
    if "forward" in before or not isinstance(forward, types.FunctionType):
        raise Unclear("its forward is no method of its class")
    if looks := _LOOKS & set(forward.__code__.co_names):
        raise Unclear(f"its forward calls {min(looks)}")
    read = {}
    watched = _watched(cls, _required(forward), read)
    try:
        owner.__class__ = watched
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _Tracer().trace(owner)
    except Exception as error:
        raise Unclear(f"its forward cannot be traced: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    finally:
        owner.__class__ = own
        after = dict(vars(owner))
        vars(owner).clear()
        vars(owner).update(before)
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


def _around(norm, owner, adds, order):
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


# ---- what takes the place of the method ----


@dataclass(frozen=True)
class Plan:
    """A forward method with fused norms, for a number of tensors; it holds while modules and attributes do."""

    run: types.FunctionType
    count: int
    read: tuple
    modules: tuple

    def holds(self, owner, args):
        """Whether the method would do the same."""
        if len(args) != self.count:
            return False
        if not all(map(_is_tensor, args)):
            return False
        for name, value in self.read:
            if getattr(owner, name) is not value:
                return False
        return torch.compiler.is_compiling() or all(tuple(now.values()) == then for now, then in self.modules)


def _merge(graph, found):
    """Put one node in the place of those around a norm."""
    with graph.inserting_before(found.last):
        norm = graph.get_attr(found.norm.target)
        module = found.activation is not None and found.activation.op == "call_module"
        activation = graph.get_attr(found.activation.target) if module else None
        x, residual = found.before.args if found.before else (found.norm.args[0], None)
        add = next((a for a in found.after.args if a is not found.norm), None) if found.after else None
        result = graph.call_function(compute, (norm, activation, found.options, x, residual, add))
        y = graph.call_function(operator.getitem, (result, 0)) if found.before else result
        total = graph.call_function(operator.getitem, (result, 1)) if found.before else None
    found.last.replace_all_uses_with(y)
    old = [node for node in (found.activation, found.after, found.norm) if node]
    if found.before:
        found.before.replace_all_uses_with(total)
        old.append(found.before)
        result.args = (norm, activation, found.options, x, residual, add)
    for node in old:
        graph.erase_node(node)


# Bytes of x up to which a pass of its own costs an activation or an add no more than a place in ours: they are in cache
# then, torch's activations take no longer, and its gradients less, as they need not compute what they are gradients of.
_IN_CACHE = 2**23
_IN_PLACE = {
    "relu": lambda y, _: y.relu_(),
    "leaky_relu": lambda y, slope: F.leaky_relu_(y, slope),
    "silu": lambda y, _: F.silu(y, inplace=True),
    "sigmoid": lambda y, _: y.sigmoid_(),
}


def _pays(name, add, x):
    """Whether what follows a norm of x is to be in its pass: by measurements on a core with caches of 2 and 32 MB."""
    if x.nbytes > _IN_CACHE or name == "gelu_tanh" or torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and name in ("relu", "leaky_relu") and add is None and x.is_contiguous()


def compute(norm, activation, options, x, residual=None, add=None):
    """A norm with what stands around it: in one pass, as far as that can be and pays, and no hook wants to see the
    steps. `activation` is a module or, for a function, None."""
    if _hooked(norm) or (activation is not None and _hooked(activation)) or _has_any_global_hook():
        total = x if residual is None else x + residual
        y = _followed(norm(total), add, activation, options)
        return y if residual is None else (y, total)
    total, fused = None, {}
    if residual is not None and _alike(residual, x):
        fused["residual"] = residual
    elif residual is not None:
        x = total = x + residual
    whole = (add is None or _alike(add, x)) and _pays(options.get("activation"), add, x)
    if whole:
        fused |= options if add is None else {**options, "add": add}
    y = norm.forward(x, fused) if fused else norm.forward(x)
    if y is NotImplemented:
        if "residual" in fused:
            x = total = x + residual
        y, whole = norm.forward(x), False
    elif "residual" in fused:
        y, total = y
    if not whole:
        if torch.is_grad_enabled() or not eager(x):
            y = _followed(y, add, activation, options)
        else:  # nobody else has y
            y = y if add is None else y.add_(add) if _alike(add, y) else y + add
            if options:
                name = options["activation"]
                y = _IN_PLACE.get(name, ACTIVATIONS[name][0])(y, options.get("negative_slope"))
    return y if total is None else (y, total)


def _followed(y, add, activation, options):
    """What follows a norm, in steps."""
    if add is not None:
        y = y + add
    if activation is not None:
        return activation(y)
    return ACTIVATIONS[options["activation"]][0](y, options.get("negative_slope")) if options else y


def _is_tensor(t):
    return type(t) in PLAIN or (torch.compiler.is_compiling() and isinstance(t, torch.Tensor))


def _alike(t, x):
    return _is_tensor(t) and t.dtype is x.dtype and t.shape == x.shape and t.is_cpu


def _hooked(module):
    return (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def places(owner, name=""):
    """Where the modules of an owner stand: its own, and those of lists among them, each with the name of its place."""
    yield name, owner._modules
    for key, child in owner._modules.items():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from places(child, f"{name}{key}.")


def _plan(owner, adds):
    """The plan of a module, or None where nothing is fused, and what is said of its norms: by their names in it, what
    is fused and why not."""
    graph, read = _traced(owner)
    order = {node: i for i, node in enumerate(graph.nodes)}
    notes = {}
    for norm in list(graph.nodes):
        if norm.op != "call_module" or not getattr(owner.get_submodule(norm.target), "takes_fused", False):
            continue
        if len(norm.args) != 1 or norm.kwargs or not isinstance(norm.args[0], fx.Node):
            continue
        found = _around(norm, owner, adds, order)
        words, why = notes.get(norm.target, ("", ""))  # of another call of it
        notes[norm.target] = words or found.words, why or found.why
        if found.words:
            _merge(graph, found)
    if not any(words for words, _ in notes.values()):
        return None, notes
    code = graph.python_code("self")
    run = _function(code.src, tuple(code.globals.items()))
    modules = tuple((place, tuple(place.values())) for _, place in places(owner))
    count = sum(node.op == "placeholder" for node in graph.nodes)
    return Plan(run, count, tuple(read.items()), modules), notes


@functools.cache
def _function(source, names):
    """The function that the code of a graph defines; the same one for the same code, for torch.compile."""
    names = dict(names)
    exec(source, names)
    return names["forward"]


def plans(owner, adds):
    """The plans of a module in training and in evaluation, and what is said of its norms, in evaluation."""
    training, found = owner.training, {}
    try:
        for owner.__dict__["training"] in (True, False):
            try:
                found[owner.training], notes = _plan(owner, adds)
            except Unclear as error:
                found[owner.training], notes = None, str(error)
    finally:
        owner.__dict__["training"] = training
    return found, notes


class Planned:
    """A module whose forward method has a plan, one for training and one for evaluation."""


def forward_of(cls):
    """What takes the place of the forward method of a class, with its signature."""
    own = cls.forward

    @functools.wraps(own)
    def forward(self, *args, **kwargs):
        found = vars(self).get("_normlib_plans")
        if found is None and not torch.compiler.is_compiling():  # a copy
            found, _ = plans(self, **self._normlib_how)
            self.__dict__["_normlib_plans"] = found
        plan = found and found[self.training]
        if plan is None or kwargs or not plan.holds(self, args):
            return own(self, *args, **kwargs)
        return plan.run(self, *args)

    return forward
