"""How a norm that a model brings along computes: found by trying it.

A copy of the module runs on a small input with other parameters and another eps than its own, and is compared with
formulas in float64, gradients included: a class that agrees at the values that it was built with may differ at those
that it learns. Only shapes are read from the module, so that it may lie on the meta device.
"""

import contextlib
import copy
import inspect
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ._formulas import ACTIVATIONS
from ._tensors import DTYPES

FORMULA = "weight * x / sqrt(mean(x^2) + eps)"
_CONSTANTS = (1e-5, 1e-6, 1e-12)  # an eps that is no attribute
_HELD = frozenset(vars(nn.Module()))
_NARROW = tuple(t for t in (torch.bfloat16, torch.float16) if t in DTYPES)
_PAIRS = [(torch.float64, torch.float64), (torch.float32, torch.float32)]
_PAIRS += [pair for t in _NARROW for pair in ((t, t), (t, torch.float32), (torch.float32, t))]
_NAMES = {"weight": ("weight", "gamma", "scale"), "bias": ("bias", "beta")}
_RUNNING = "running_mean", "running_var"
_TORCH = nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.SyncBatchNorm, _BatchNorm


@dataclass(frozen=True)
class Form:
    """What a module computes, in the words of normlib's functions; `op` "torch": what the class of torch does that it
    derives from, `followed` by the modules inside, one after the other."""

    op: str
    weight: str = ""  # the names of its parameters
    bias: str = ""
    eps: str | float = ""  # the name of the attribute, or the constant
    offset: str = ""  # "wide" for 1 + weight, "own" where that is rounded to the dtype of the weight
    axis: int | tuple[int, ...] = -1
    moved: bool = False  # whether channels lie last in the memory of the result, wherever they lay
    in_order: bool | None = False  # whether the order of axes in memory stays; None: neither that nor contiguous
    gate: str = ""  # its activation
    gate_first: bool = False
    groups: str = ""  # the attribute with their size or number
    ndims: tuple[int, ...] = ()
    rules: tuple = ()  # what is wanted beside, by the dtypes of x and weight
    autocast: bool = True  # whether autocast changes nothing
    followed: bool = False


def eps_name(module):
    """The attribute that holds the eps."""
    names = ("variance_epsilon", "eps", "epsilon")
    return next((name for name in names if type(getattr(module, name, None)) is float), "")


def group_count(module, name, channels):
    """Into how many groups a norm parts its rows, by the attribute of that name."""
    number = getattr(module, name) if name else 1
    if type(number) is not int or number < 1:
        return 1
    return channels // number if name == "group_size" else number


def held(module):
    """Parameters and buffers by name, without those that are None."""
    return {key: t for key, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}


# ---- trials ----


@dataclass
class Trial:
    """A call of a copy of a module, and what came of it."""

    module: nn.Module
    x: torch.Tensor
    tensors: dict[str, torch.Tensor]
    gate: torch.Tensor | None
    eps: float
    dy: torch.Tensor
    found: torch.Tensor
    gradients: list[torch.Tensor]

    @property
    def leaves(self):
        gate = [] if self.gate is None else [self.gate]
        return [self.x, *gate, *(t for t in self.tensors.values() if t.requires_grad)]


def twin(module, tensors, training):
    """A copy of a module with other parameters and buffers."""
    made = object.__new__(type(module))
    given = {
        key: {name: None if t is None else tensors[name] for name, t in getattr(module, key).items()}
        for key in ("_parameters", "_buffers")
    }
    children = {name: copy.deepcopy(child).train(training) for name, child in module._modules.items() if child}
    made.__dict__.update(vars(module), **given, training=training, _modules=children)
    return made


def drawn(module, dtype, generator):
    """Other parameters and buffers of the same shapes, on the CPU."""
    found = {}
    for name, t in held(module).items():
        if not t.is_floating_point():
            found[name] = torch.zeros(t.shape, dtype=t.dtype)
            continue
        value = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        value = (value.abs() + 0.1 if name == "running_var" else value).to(dtype)
        found[name] = nn.Parameter(value) if name in module._parameters else value
    return found


def tried(module, shape, dtypes=(torch.float32, torch.float32), training=True, seed=0, order=None):
    """A trial with an input of that shape, with axes that lie in memory in that order, or None where nothing fit for
    a norm came of it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = drawn(module, dtypes[1], generator)
    made = twin(module, tensors, training)
    eps = float(torch.rand(1, generator=generator, dtype=torch.float64) + 0.01)
    if name := eps_name(module):
        setattr(made, name, eps)
    order = order or range(len(shape))

    def wide():
        t = torch.randn([shape[i] for i in order], generator=generator, dtype=torch.float64)
        return t.permute(sorted(range(len(shape)), key=list(order).__getitem__))

    scale = torch.tensor([1.0, 0.003, 30.0], dtype=torch.float64)[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    x, gate, dy = ((wide() * s).to(dtypes[0]).detach() for s in (scale, 1, 1))
    gated = is_gated(module)
    given = [x.requires_grad_(), gate.requires_grad_()] if gated else [x.requires_grad_()]
    with torch.enable_grad():
        found = type(module).forward(made, *given)
        if not isinstance(found, torch.Tensor) or found.shape != x.shape or not found.requires_grad:
            return None
        trial = Trial(made, x, tensors, gate if gated else None, eps, dy.to(found.dtype), found, [])
        trial.gradients = torch.autograd.grad(found, trial.leaves, trial.dy, allow_unused=True)
    return None if any(g is None for g in trial.gradients) else trial


def is_gated(module):
    """Whether the forward method takes a second tensor by the name of a gate."""
    names = list(inspect.signature(type(module).forward).parameters)
    return len(names) > 2 and names[2] in ("gate", "z")


# ---- formulas ----


def _expected(trial, form, round_first=False):
    """The result in float64, and its leaves."""
    wide = [t.detach().double().requires_grad_() for t in trial.leaves]
    x, *rest = wide
    gate = rest.pop(0) if trial.gate is not None else None
    left = iter(rest)
    t = {name: next(left) if t.requires_grad else t.double() for name, t in trial.tensors.items()}
    eps = form.eps if isinstance(form.eps, float) else trial.eps

    def laid(name):
        value = t[name]
        return value.reshape(-1, *[1] * (x.ndim - 2)) if form.axis == 1 else value

    opened = None if gate is None else ACTIVATIONS[form.gate][0](gate, None)
    h = x * opened if form.gate_first else x
    if form.op == "batch_norm":
        z = (h - laid(_RUNNING[0])) * torch.rsqrt(laid(_RUNNING[1]) + eps)
    else:
        if form.groups:
            h = h.unflatten(-1, (group_count(trial.module, form.groups, h.shape[-1]), -1))
        if form.op == "layer_norm":
            h = h - h.mean(form.axis, keepdim=True)
        z = h * torch.rsqrt(h.square().mean(form.axis, keepdim=True) + eps)
        z = z.flatten(-2) if form.groups else z
    if round_first:
        z = z + (z.to(trial.x.dtype).double() - z).detach()
    if form.weight:
        weight = laid(form.weight)
        if form.offset:
            one = (trial.tensors[form.weight].detach() + 1).double().reshape(weight.shape)
            weight = weight + (one - weight).detach() if form.offset == "own" else weight + 1
        z = z * weight
    z = z + laid(form.bias) if form.bias else z
    return (z if opened is None or form.gate_first else z * opened), wide


def _off(found, expected, tolerance):
    """By how much a tensor is off on the mean, relative to the largest value of each of its first parts, or None where
    any value is off by more than the tolerance."""
    found, expected = found.detach().double().flatten(1), expected.detach().flatten(1)
    off = (found - expected).abs() / expected.abs().amax(1, keepdim=True).clamp_min(1e-300)
    return float(off.mean()) if float(off.max()) <= tolerance else None


def off(trial, form, round_first=False):
    """By how much the result of a trial is off that of a form; None where that, or a gradient, is too much."""
    expected, leaves = _expected(trial, form, round_first)
    precision = max(torch.finfo(t.dtype).eps for t in (trial.x, trial.found))
    if (result := _off(trial.found, expected, 4 * precision)) is None:
        return None
    precision = max(precision, *(torch.finfo(t.dtype).eps for t in trial.leaves))
    gradients = torch.autograd.grad(expected, leaves, trial.dy.double(), allow_unused=True)
    for leaf, found, wanted in zip(leaves, trial.gradients, gradients, strict=True):
        rows = leaf is leaves[0] or leaf.shape == leaves[0].shape
        if wanted is None:
            return None
        found, wanted = (t if rows else t[None] for t in (found, wanted))
        if _off(found, wanted, 64 * precision if precision < 1e-3 else 8 * precision) is None:
            return None
    return result


# ---- the search ----


def _parameters(names):
    """The names of weight and bias among those of what a module holds."""
    return tuple(next((name for name in _NAMES[role] if name in names), "") for role in ("weight", "bias"))


def _candidates(module):
    """The forms that a module may have, by what it holds."""
    names = held(module)
    weight, bias = _parameters(names)
    moving = names.keys() >= {*_RUNNING}
    if weight and (names[weight].ndim == 0 or 1 in names[weight].shape[: names[weight].ndim - 1]):
        return  # it is laid along x in a way of its own
    for eps in (eps_name(module),) if eps_name(module) else _CONSTANTS:
        form = Form("rms_norm", weight, bias, eps)
        if moving:
            yield replace(form, op="batch_norm", axis=1)
            continue
        ndim = names[weight].ndim if weight else 1
        axes = (-1, 1) if ndim == 1 else (-1, tuple(range(-ndim, 0)))
        parts = [name for name in ("group_size", "n_groups") if type(getattr(module, name, None)) is int]
        for op, axis, offset in product(("rms_norm", "layer_norm"), axes, ("", "wide") if weight else ("",)):
            plain = replace(form, op=op, axis=axis, offset=offset)
            if not is_gated(module):
                yield from (replace(plain, groups=name) for name in ("", *parts))
            elif axis == -1 and not bias and not offset:
                gates = product((name for name in ACTIVATIONS if name != "leaky_relu"), (False, True), ("", *parts))
                yield from (replace(plain, gate=gate, gate_first=first, groups=name) for gate, first, name in gates)


def _shapes(module):
    """Inputs to try: rows, of which a few lie in each of the first parts, and images; by the number of their axes."""
    size = next((tuple(t.shape) for name, t in held(module).items() if name in _NAMES["weight"]), None)
    shape = getattr(module, "normalized_shape", None)
    size = size or (tuple(shape) if isinstance(shape, (tuple, list)) else (8,))
    rows = 2 if size[-1] > 64 else 16
    lead = (3, rows), (3, 2, rows), (3, 1, 2, rows)
    yield from ((-1, (*some, *size)) for some in lead)
    if len(size) == 1:
        yield from ((1, (3, *size, *some)) for some in ((4, 5), (5,), (2, 3, 2)))
    yield -1, (3, *size)


@contextlib.contextmanager
def _plainly():
    """Whatever the caller has switched on is off, and no random numbers of his are drawn. On one thread: on a busy
    machine a second one costs more than all of a trial."""
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.device("cpu"))
        yield


def _attempt(*arguments, **options):
    """A trial, or the error of the module."""
    try:
        return tried(*arguments, **options)
    except Exception as error:
        return error


def form_of(module):
    """The form of a module that is a norm of another class than torch's, or None, and why it has none."""
    key = _key(module)
    if key in _found:
        return _found[key]
    with _plainly():
        try:
            result = _of_torch(module) or _search(module)
        except Exception as error:
            result = None, f"it cannot be tried: {type(error).__name__}: {error}"
    if key is not None:
        _found[key] = result
    return result


_found: dict = {}


def _key(module):
    """What decides on the form of a module: its class, plain attributes, the shapes of what it holds, and what is
    inside; None where that does not tell all."""
    attributes = {name: value for name, value in vars(module).items() if name not in _HELD}
    plain = (bool, int, float, str, type(None), tuple, torch.Size, torch.dtype)
    inside = tuple((name, _key(child)) for name, child in module.named_children())
    if any(key is None for _, key in inside) or not all(isinstance(value, plain) for value in attributes.values()):
        return None
    shapes = tuple((name, tuple(t.shape), name in module._parameters) for name, t in held(module).items())
    key = type(module), inside, shapes, tuple(sorted(attributes.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _search(module):
    if isinstance(module, (nn.GroupNorm, _NormBase)):
        original = next(cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn."))
        return None, f"it computes something else than {original.__name__}, from which it derives"
    if any(True for _ in module.children()):
        return None, f"it holds modules that it computes with: {', '.join(dict(module.named_children()))}"
    known = {*_parameters(held(module)), *(_RUNNING if held(module).keys() >= {*_RUNNING} else ())}
    if more := sorted(held(module).keys() - known):
        return None, f"{', '.join(more)}: not accounted for by {FORMULA}"
    if narrow := [f"{name} is {t.dtype}" for name, t in held(module).items() if t.dtype not in DTYPES]:
        return None, narrow[0].replace("torch.", "")
    candidates = list(_candidates(module))
    trials = [(axis, shape, _attempt(module, shape)) for axis, shape in _shapes(module)]
    for axis, shape, first in trials:
        if not isinstance(first, Trial):
            continue
        for form in candidates:
            if (form.axis == 1) != (axis == 1) or off(first, form) is None:
                continue
            others = (_attempt(module, shape, training=t, seed=s) for t, s in ((False, 0), (True, 1), (False, 1)))
            if all(isinstance(trial, Trial) and off(trial, form) is not None for trial in others):
                return _completed(module, form), ""
    *_, last = trials[0]
    if isinstance(last, Exception) and not any(isinstance(trial, Trial) for *_, trial in trials):
        raise last
    return None, f"it computes something else than {_words(module)}"


def _words(module):
    if isinstance(module, nn.LayerNorm) or {"bias", "beta"} & held(module).keys():
        return "a layer norm over the last axis or the channels"
    return f"{FORMULA}{' * silu(gate)' * is_gated(module)}"


# ---- the rest of a form ----


def _completed(module, form):
    """A form with what holds for other shapes, strides and dtypes."""
    shapes = {len(shape): shape for axis, shape in _shapes(module) if (axis == 1) == (form.axis == 1)}
    ndims = []
    for ndim, shape in shapes.items():
        trial = _attempt(module, shape)
        if isinstance(trial, Trial) and off(trial, form) is not None:
            ndims.append(ndim)
    shape = shapes[ndims[0]]
    form = replace(form, ndims=tuple(ndims), **_strides(module, shape, form))
    plain, own = _rules(module, shape, form), ()
    if form.offset:
        own = _rules(module, shape, replace(form, offset="own"))
    if own and sum(error for error, *_ in own) < sum(error for error, *_ in plain):
        plain, form = own, replace(form, offset="own")
    autocast = all(_same_under_autocast(module, shape, (dtype, torch.float32)) for dtype in (torch.float32, *_NARROW))
    return replace(form, rules=tuple((pair, rule) for _, pair, rule in plain), autocast=autocast)


def _strides(module, shape, form):
    """How the result lies in memory."""
    if form.axis == 1:
        y = tried(module, shape).found
        return {"moved": y.movedim(1, -1).is_contiguous() and not y.is_contiguous(), "in_order": None}
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    trial = _attempt(module, shape, order=order)
    if not isinstance(trial, Trial):
        return {"in_order": None}
    kept = trial.found.stride() == trial.x.stride()
    return {"in_order": kept or (None if not trial.found.is_contiguous() else False)}


def _rules(module, shape, form):
    """For each pair of dtypes of x and weight that the form holds for: by how much it is off, the pair, and what is
    wanted beside, by the keywords of the functions."""
    found = []
    for x_dtype, own_dtype in _PAIRS:
        trial = _attempt(module, shape, (x_dtype, own_dtype))
        if not isinstance(trial, Trial) or trial.found.dtype not in DTYPES:
            continue
        if form.axis == 1:
            other = _attempt(module, shape, (x_dtype, own_dtype), order=[0, *range(2, len(shape)), 1])
            if not isinstance(other, Trial) or off(other, form) is None or other.found.dtype is not trial.found.dtype:
                continue
        beside = {} if trial.found.dtype is x_dtype else {"out_dtype": str(trial.found.dtype).removeprefix("torch.")}
        narrow = x_dtype.itemsize == 2 and form.op != "batch_norm" and (form.weight or beside)
        errors = {first: off(trial, form, first) for first in (False, True)[: 1 + bool(narrow)]}
        errors = {first: error for first, error in errors.items() if error is not None}
        if errors:
            first = min(errors, key=errors.__getitem__)
            rule = (*beside.items(), *[("round_first", True)] * first)
            found.append((errors[first], (x_dtype, own_dtype), rule))
    return found


def _same_under_autocast(module, shape, dtypes):
    plain = _attempt(module, shape, dtypes)
    with torch.autocast("cpu", torch.bfloat16):
        cast = _attempt(module, shape, dtypes)
    if not isinstance(plain, Trial) or not isinstance(cast, Trial):
        return type(plain) is type(cast)
    return plain.found.dtype is cast.found.dtype and torch.equal(plain.found, cast.found)


# ---- subclasses of torch's ----


def _of_torch(module):
    """The form of a module whose forward method does, to the bit, what that of the class of torch does from which it
    derives, followed by the modules inside one after the other."""
    original = next((cls for cls in _TORCH if isinstance(module, cls)), None)
    if original is None or any(held(child) for child in module.modules() if child is not module):
        return None
    pairs = (torch.float32, torch.float32), *((t, own) for t in _NARROW[:1] for own in (t, torch.float32))
    try:
        first, *others = _shapes_of(module)
        ways = *product((first,), pairs, (True, False), (False, True)), *((s, pairs[0], True, False) for s in others)
        if not all(_alike(module, original, *way) for way in ways):
            return None
    except Exception:
        return None
    return Form("torch", followed=any(True for _ in module.children())), ""


def _alike(module, original, shape, dtypes, training, cast):
    """Whether both compute the same: result, gradients, buffers, and how the result lies in memory."""
    results = []
    for forward in (type(module).forward, original.forward):
        generator = torch.Generator().manual_seed(0)
        tensors = drawn(module, dtypes[1], generator)
        made = twin(module, tensors, training)
        made.eps = 0.3
        x = torch.randn(shape, generator=generator).to(dtypes[0]).requires_grad_()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            torch.default_generator.manual_seed(0)
            y = forward(made, x)
            for child in made.children() if forward is original.forward else ():
                y = child(y)
        leaves = [x, *(t for t in tensors.values() if t.requires_grad)]
        dy = torch.randn(y.shape, generator=generator).to(y.dtype)
        results.append((y, *torch.autograd.grad(y, leaves, dy), *tensors.values()))
    return all(
        a.dtype is b.dtype and a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(*results, strict=True)
    )


def _shapes_of(module):
    """Inputs for a norm of a class of torch."""
    if shape := getattr(module, "normalized_shape", None):
        return (3, *shape), (2, 3, *shape), (2, 3, 4, *shape)
    channels = getattr(module, "num_features", None) or module.num_channels
    sizes = {nn.BatchNorm1d: ((), (5,)), nn.BatchNorm3d: ((2, 3, 2),), nn.GroupNorm: ((5,), (4, 5))}
    found = (size for cls, size in sizes.items() if isinstance(module, cls))
    return tuple((3, channels, *size) for size in next(found, ((4, 5),)))
