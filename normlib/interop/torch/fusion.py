"""Forward methods in which norms and what stands around them are one call.

Where a norm is followed by an activation or an add, or comes after an add, these nodes of the graph of a forward method
become one, and the code of the graph takes the place of the method for as long as what the method looked at stays as it
was: the modules inside, and its plain attributes. For other arguments than tensors, and for more or fewer of them, the
method itself runs.
"""

import functools
import operator
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.module import _has_any_global_hook

from ._formulas import ACTIVATIONS
from ._graphs import Unclear, around, traced
from ._tensors import PLAIN, eager


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
        return all(tuple(now.values()) == then for now, then in self.modules)


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
    for node in old:
        graph.erase_node(node)


_IN_PLACE = {
    "relu": lambda y, _: y.relu_(),
    "leaky_relu": lambda y, slope: F.leaky_relu_(y, slope),
    "silu": lambda y, _: F.silu(y, inplace=True),
    "sigmoid": lambda y, _: y.sigmoid_(),
}


def _pays(name, add, x):
    """Whether what follows a norm of x is to be in its pass. By measurements it is, but where torch's own loop takes no
    longer than a place in ours: what is cheap in channels-last memory, gradients that take no more than a place in 16
    bits, where ours compute once more what they are gradients of."""
    recorded, narrow, last = torch.is_grad_enabled(), x.element_size() == 2, not x.is_contiguous()
    if name in ("silu", "gelu", "gelu_tanh"):
        return True
    if name == "sigmoid":
        return not recorded or not (narrow or last)
    return (not recorded or add is not None) if narrow else recorded or not last


def compute(norm, activation, options, x, residual=None, add=None):
    """A norm with what stands around it: in one pass, as far as that can be and pays, and no hook wants to see the
    steps. `activation` is a module or, for a function, None."""
    alone = _hooked(norm) or not getattr(norm, "takes_fused", False)  # it may have been restored
    if alone or (activation is not None and _hooked(activation)) or _has_any_global_hook():
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
    y = norm.forward(x, fused=fused) if fused else norm.forward(x)
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
    return type(t) in PLAIN


def _alike(t, x):
    return _is_tensor(t) and t.dtype is x.dtype and t.shape == x.shape and t.is_cpu


def _hooked(module):
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return hooks or "forward" in vars(module)


def places(owner, name=""):
    """Where the modules of an owner stand: its own, and those of lists among them, each with the name of its place."""
    yield name, owner._modules
    for key, child in owner._modules.items():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from places(child, f"{name}{key}.")


def _plan(owner, adds):
    """The plan of a module, or None where nothing is fused, and what is said of its norms: by their names in it, what
    is fused and why not."""
    graph, read = traced(owner)
    order = {node: i for i, node in enumerate(graph.nodes)}
    notes = {}
    for norm in list(graph.nodes):
        if norm.op != "call_module" or not getattr(owner.get_submodule(norm.target), "takes_fused", False):
            continue
        if len(norm.args) != 1 or norm.kwargs or not isinstance(norm.args[0], fx.Node):
            continue
        found = around(norm, owner, adds, order)
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
        if is_dynamo_compiling():
            return own(self, *args, **kwargs)
        found = vars(self).get("_normlib_plans")
        if found is None:  # a copy
            found, _ = plans(self, **self._normlib_how)
            self.__dict__["_normlib_plans"] = found
        plan = found and found[self.training]
        if plan is None or kwargs or not plan.holds(self, args):
            return own(self, *args, **kwargs)
        return plan.run(self, *args)

    return forward
