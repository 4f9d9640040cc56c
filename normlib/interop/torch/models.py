"""Models whose norms change places.

A module changes its class and nothing else, so that parameters, buffers, hooks, state and whoever holds the module
stay as they are.
"""

import functools
import warnings

import torch
from torch import nn
from torch._guards import TracingContext
from torch.fx.experimental import optimization
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from . import _bridge
from .forms import form_of
from .fusion import Planned, forward_of, places, plans
from .lookalikes import Lazy, Shared, _SyncBatchNorm, mixin_of, names_of
from .modules import Accelerated, _BatchNorm
from .survey import Norm, Report, walk


def accelerate(model, fuse=False, verbose=False, *, sync=False):
    """Let normlib compute the norms of a model, in place, and the activations that follow them in the same pass.

    ``nn.LayerNorm``, ``nn.RMSNorm``, ``nn.BatchNorm1d`` to ``3d``, ``nn.SyncBatchNorm``, ``nn.GroupNorm``,
    ``nn.InstanceNorm1d`` to ``3d`` and their subclasses that keep the forward method; and classes that models bring
    along, with Norm in their name, for what they compute when tried, on a copy with other values than their own, in
    training and in evaluation, gradients included: RMS and layer norms over the last axis or the channels, with
    ``weight`` or ``1 + weight`` (Gemma), a gate (Qwen3-Next, Mamba 2), an activation behind them (timm); batch norms
    that are frozen. Values are read from none of them, so the model may lie on the meta device.
    Dtypes and rounding of results are those of the class: what it makes of each pair of dtypes of input and weight is
    tried too, and where normlib has no such result, as in dtypes that it does not take, the class's own method runs.
    Norms of other kinds are left alone; a warning says which and why, and :func:`report` lists them all.
    A module changes its class and nothing else: parameters, buffers, hooks, training mode and the names in
    ``state_dict()`` stay what they are. What the kernels do not take (another device, another dtype, transforms of
    ``torch.func``, ``torch.jit.trace``) goes through the module's own forward, as before.

    What stands around a norm is found by torch.fx, in the forward method of the module that holds it (a Sequential, a
    block): the module gets a forward method in which norm and activation are one. It holds for calls with tensors and
    nothing else, while the modules inside and the plain attributes that the method read stay the same; otherwise, or
    where forward cannot be traced, the own method runs.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a norm.
    fuse : bool, default False
        Whether to fuse adds too: that of a residual before a norm, and what is added to a norm's output.
    verbose : bool, default False
        Whether to print the :func:`report`, in the place of a warning.
    sync : bool, default False
        Whether the batch norms share their statistics in training among all processes of ``torch.distributed``, as a
        :class:`normlib.SyncBatchNorm` does: with the bits of one process that has the whole batch, accelerated with
        ``sync=True`` too. For a model that DistributedDataParallel takes afterwards. A ``nn.SyncBatchNorm`` does so in
        any case, among its own group.

    Returns
    -------
    torch.nn.Module
        The same `model`. ``print(model)`` marks what is accelerated.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> accelerate(model)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): LayerNorm((4,), eps=1e-05, elementwise_affine=True, ...normlib)
    )
    >>> type(restore(model)[1])
    <class 'torch.nn.modules.normalization.LayerNorm'>
    """
    _checked("accelerate", model)
    _bridge.load(build=True)
    norms = Report()
    for name, module in walk(model):
        if sync:
            _own_class(module)
        cls, why = _place(module, sync)
        norms.append(Norm(name, type(module).__name__, why))
        if cls is not None:
            module.__class__ = cls
    for _, owner in _owners(model):
        _own_class(owner, Planned)
        found, _ = plans(owner, adds=fuse)
        if any(found.values()):
            owner.__class__ = _planned(type(owner), adds=fuse)
            owner.__dict__["_normlib_plans"] = found
    if verbose:
        print(report(model))
    elif summary := norms.summary():
        warnings.warn(f"accelerate: {summary}; normlib.interop.torch.report(model) lists them", stacklevel=2)
    return model


def report(model):
    """List the norms of a model: which are accelerated, with what in the same pass, and why the others are not, or
    would not be.

    Parameters
    ----------
    model : torch.nn.Module
        A model, accelerated or not.

    Returns
    -------
    Report
        A list of norms with ``name``, ``kind`` (the class), ``accelerated`` and ``why`` not, ``fused`` (what is in the
        same pass) and ``apart`` (why more is not); printed as a table.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import accelerate, report
    >>> model = accelerate(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.SiLU()))
    >>> print(report(model))
    module  class
    1       LayerNorm  accelerated, with silu
    """
    _checked("report", model)
    notes = {}
    for name, owner in _owners(model):
        notes |= _notes(name, owner)
    found = Report()
    for name, module in walk(model):
        cls, why = _place(module)
        why = "not accelerated yet" if cls is not None else why
        found.append(Norm(name, type(module).__name__, why, *(() if why else notes.get(name, ()))))
    return found


def _owners(model):
    """The modules that hold norms with which something can be fused."""
    for name, module in model.named_modules():
        inside = (norm for _, place in places(module) for norm in place.values())
        closed = isinstance(module, (nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule))
        if not closed and any(getattr(norm, "takes_fused", False) for norm in inside):
            yield name, module


def _notes(name, owner):
    """What is fused with the norms of a module and why not more, by their names in the model."""
    planned = isinstance(owner, Planned)
    _, notes = plans(owner, **owner._normlib_how) if planned else plans(owner, adds=True)
    if isinstance(notes, str):
        notes = {f"{place}{key}": ("", notes) for place, modules in places(owner) for key in modules}
    elif not planned:
        notes = {key: ("", f"{words}: with fuse=True" if words else why) for key, (words, why) in notes.items()}
    return {f"{name}.{key}" if name else key: words for key, words in notes.items()}


def _own_class(module, of=(Accelerated, Planned)):
    """Give a module its own class back."""
    if isinstance(module, of):
        module.__class__ = _restored(type(module))
        module.__dict__.pop("_normlib_plans", None)


def _place(module, sync=False):
    """The class that takes the place of a norm's own, None where it has it or there is none; and why there is none."""
    if isinstance(module, Accelerated):
        return None, ""
    if cls := _accelerated(type(module), form=None, sync=sync):
        return cls, ""
    if isinstance(module, LazyModuleMixin):
        return None, "it is lazy: accelerate it after its first call"
    form, why = form_of(module)
    return (None, why) if why else (_accelerated(type(module), form=form, sync=sync), "")


def restore(model):
    """Undo :func:`accelerate`: every module gets its own class back.

    Parameters
    ----------
    model : torch.nn.Module
        A model, accelerated or not.

    Returns
    -------
    torch.nn.Module
        The same `model`.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.
    """
    for module in _checked("restore", model).modules():
        _own_class(module)
    return model


def _checked(function, model):
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        words = "whose code is fixed, expected a torch.nn.Module that is not compiled yet"
        raise TypeError(f"{function}: model is a {type(model).__name__}, {words}")
    return model


@functools.cache
def _accelerated(cls, form, sync=False):
    """The class that takes the place of `cls`, or None; `form`: that of a class that is not torch's; `sync`: for batch
    norms over all processes."""
    if issubclass(cls, Accelerated):
        return None
    if issubclass(cls, LazyModuleMixin):
        become = cls.cls_to_become and _accelerated(cls.cls_to_become, form, sync)
        return become and _mixed(Lazy, cls, {"cls_to_become": become}, form=form, sync=sync)
    mixin = mixin_of(cls, form)
    if sync and mixin in (_BatchNorm, _SyncBatchNorm):
        mixin = Shared
    return mixin and _mixed(mixin, cls, names_of(form), form=form, sync=sync)


@functools.cache
def _planned(cls, adds):
    """The class that takes the place of that of a module which holds norms."""
    changed = _mixed(Planned, cls, {}, adds=adds)
    changed.forward = forward_of(cls)
    return changed


class _Equal(type):
    """The class of a class that takes the place of another, and equals it: whoever looks up the type of a module, in a
    table of what can be fused or counted, finds it."""

    def __eq__(cls, other):
        if TracingContext.try_get() is not None:  # torch.compile looks for the class of a super() among the bases
            return cls is other
        return _original(cls) is (_original(other) if isinstance(other, type) else other)

    def __hash__(cls):
        return type.__hash__(_original(cls))


def _original(cls):
    return vars(cls).get("_normlib_original", cls)


def _type(module):
    return _original(type(module))


def _is_parametrized(cls):
    """Whether torch.nn.utils.parametrize made a class, for one module; its base is what it is without."""
    return cls.__module__ == parametrize.__name__ and cls.__name__ == f"Parametrized{cls.__base__.__name__}"


def _mixed(mixin, cls, names, **how):
    names |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    names |= {"_normlib_original": cls, "_normlib_how": how}
    names |= {"__reduce_ex__": _reduce, "__prepare_scriptable__": _prepare_scriptable}
    bases = mixin, cls
    if _is_parametrized(cls):
        names, bases = {**vars(cls), **names}, (_changed(cls.__base__, how),)
    meta = _Equal if type(cls) is type else type(type(cls).__name__, (_Equal, type(cls)), {})
    optimization.type = _type  # torch.fx folds batch norms whose class is that of torch, not one that equals it
    return meta(cls.__name__, bases, names)


def _restored(cls):
    """The class that a module had before."""
    if _is_parametrized(cls) and "_normlib_original" in vars(cls.__base__):  # since then
        return type(cls.__name__, (_original(cls.__base__),), dict(vars(cls)))
    return _original(cls)


def _changed(cls, how):
    return _planned(cls, **how) if "adds" in how else _accelerated(cls, **how)


def _reduce(self, protocol):
    """For pickle and copy: as the original class would, and accelerated again. A plan is made again too."""
    cls = type(self)
    return _remade, (cls._normlib_original, cls._normlib_how), _without_plans(self.__getstate__())


def _remade(cls, how):
    changed = _changed(cls, how)
    return changed.__new__(changed)


def _without_plans(state):
    return {key: value for key, value in state.items() if key != "_normlib_plans"}


def _prepare_scriptable(self):
    """For torch.jit.script, which compiles the source of modules: one of the original class with the same state."""
    words = "torch.jit.script takes torch's own norms, for which it changes the model: accelerate that again"
    warnings.warn(words, stacklevel=2)
    original = type(self)._normlib_original
    module = original.__new__(original)
    module.__dict__ = _without_plans(vars(self)) | {"_modules": dict(self._modules)}
    return module
