"""The compiled bridge to torch: no Python in a call, torch's own operators, and what happens where it is missing."""

import copy
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import python

import normlib

torch = pytest.importorskip("torch")
if not normlib._kernels.backend:
    pytest.skip("needs the compiled kernels", allow_module_level=True)

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop.torch import _bridge  # noqa: E402

if _bridge.load(build=True) is None:
    pytest.skip(_bridge.reason, allow_module_level=True)

PACKAGE = str(Path(normlib.__file__).parent)
NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 4, 5, 6)),
    "LayerNorm of two axes": (lambda: nn.LayerNorm((5, 6), bias=False), (2, 4, 5, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, 4, 5, 6)),
    "RMSNorm without weight": (lambda: nn.RMSNorm(6, elementwise_affine=False, eps=1e-3), (7, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5, 6)),
    "BatchNorm": (lambda: nn.BatchNorm2d(4), (3, 4, 5, 6)),
    "BatchNorm of one axis": (lambda: nn.BatchNorm1d(4, momentum=None), (9, 4)),
    "BatchNorm without statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False, affine=False), (3, 4, 5, 6)),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (3, 4, 5, 6)),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    yield
    nt.uninstall()


def made(name, dtype=torch.float32):
    make, shape = NORMS[name]
    module = make().to(dtype)
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            t.data.uniform_(0.5, 1.5)
    return module, torch.randn(shape).to(dtype)


def step(module, x, dy):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    return y, torch.autograd.grad(y, [x, *module.parameters()], dy)


# ---- torch's own operators ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_torchs_modules_compute_what_accelerated_ones_do(name, dtype):
    module, x = made(name, dtype)
    accelerated = nt.accelerate(copy.deepcopy(module))
    for training in (True, False):
        module.train(training), accelerated.train(training)
        dy = torch.randn_like(x)
        expected, gradients = step(accelerated, x, dy)
        with nt.install():
            y, found = step(module, x, dy)
        assert torch.equal(y, expected)
        assert "Normlib" not in y.grad_fn.name()
        for a, b in zip(found, gradients, strict=True):  # those of statistics in float32
            eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps if dtype is not torch.float64 else 0)
            torch.testing.assert_close(a, b, rtol=8 * eps, atol=40 * eps)
        for a, b in zip(module.buffers(), accelerated.buffers(), strict=True):
            torch.testing.assert_close(a, b)
        module.load_state_dict(accelerated.state_dict())


@pytest.mark.parametrize("name", NORMS)
def test_what_is_uninstalled_is_as_before(name):
    module, x = made(name)
    x = 100 * x + 1e3
    module.eval()
    before = module(x)
    with nt.install() as outer:
        with nt.install():
            assert not torch.equal(module(x), before) or name.startswith(("BatchNorm", "InstanceNorm"))
        assert "not" not in repr(outer)
        inside = module(x)
    assert torch.equal(module(x), before)
    nt.install()
    assert torch.equal(module(x), inside)
    nt.uninstall()
    assert torch.equal(module(x), before)


@pytest.mark.parametrize("name", NORMS)
def test_strides_and_dtypes_are_those_of_torch(name):
    module, x = made(name)
    layouts = [x, torch.stack([x, x], -1)[..., 0], x.transpose(0, 1).contiguous().transpose(0, 1)]
    layouts += [x.to(memory_format=torch.channels_last)] if x.ndim == 4 else []
    for given in layouts:
        expected = torch.empty(0), *step(module, given, torch.ones_like(x))[1]
        like = module(given)
        with nt.install():
            y, found = step(module, given, torch.ones_like(x))
        assert y.stride() == like.stride()
        for a, b in zip(found, expected[1:], strict=True):
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())


def test_statistics_are_those_that_torch_keeps():
    x = torch.randn(3, 4, 6)
    for operator, arguments in (
        (torch.native_layer_norm, (x, (6,), None, None, 1e-5)),
        (torch.native_group_norm, (x, None, None, 3, 4, 6, 2, 1e-5)),
        (torch.native_batch_norm, (x, None, None, None, None, True, 0.1, 1e-5)),
    ):
        expected = operator(*arguments)
        with nt.install():
            found = operator(*arguments)
        for a, b in zip(found, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            torch.testing.assert_close(a, b)


def test_second_derivatives_are_those_of_torch():
    x, w, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4, 5), (5,), (5,)))
    c = torch.randn(4, dtype=torch.float64, requires_grad=True)
    with nt.install():
        assert torch.autograd.gradgradcheck(lambda x, w, b: F.layer_norm(x, (5,), w, b), (x, w, b))
        assert torch.autograd.gradgradcheck(lambda x, w: F.rms_norm(x, (5,), w), (x, w))
        assert torch.autograd.gradgradcheck(lambda x, c: F.group_norm(x, 2, c), (x, c))
        assert torch.autograd.gradgradcheck(lambda x, c: F.batch_norm(x, None, None, c, training=True), (x, c))


def test_what_the_kernels_do_not_take_goes_to_torch():
    def calls():
        many = torch.randn(*[2] * 10, requires_grad=True)
        empty = torch.randn(0, 4, 6, requires_grad=True)
        other = torch.randn(4).double()
        for x in (many, empty):
            yield lambda x=x: F.layer_norm(x, x.shape[-1:]), x
            yield lambda x=x: F.rms_norm(x, x.shape[-1:], torch.ones(x.shape[-1:])), x
        yield lambda: F.group_norm(many, 2), many
        yield lambda: F.batch_norm(empty.detach(), torch.zeros(4), torch.ones(4)), None
        yield lambda: F.layer_norm(torch.randn(3, 4), (4,), other), None
        yield lambda: F.layer_norm(torch.randn(3, 4), (5,)), None
        yield lambda: F.layer_norm(torch.ones(3, 4, dtype=torch.int64), (4,)), None
        yield lambda: F.batch_norm(torch.randn(1, 4), None, None, training=True), None
        yield lambda: F.layer_norm(torch.randn(3, 4, device="meta"), (4,)), None

    def outcome(call, x):
        torch.manual_seed(1)
        try:
            y = call()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            return type(error), str(error).splitlines()[0]
        return y, torch.autograd.grad(y.sum(), x) if x is not None else ()

    torch.manual_seed(2)
    cases = list(calls())
    before = [outcome(*case) for case in cases]
    with nt.install():
        after = [outcome(*case) for case in cases]
    for found, expected in zip(after, before, strict=True):
        if isinstance(expected[0], type):
            assert found == expected
        elif not expected[0].is_meta:
            torch.testing.assert_close(found, expected)


def test_a_model_gains_without_a_change():
    """Exported programs and the eager parts of compiled ones too."""
    model, x = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6)), torch.randn(5, 6) + 100
    program = torch.export.export(model, (x,)).module()
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    own = model(x)
    with nt.install():
        expected = model(x)
        assert torch.equal(program(x), expected)
        assert torch.equal(compiled(x), expected)
        differentiated = torch.compile(copy.deepcopy(model), backend="aot_eager")
        torch.testing.assert_close(differentiated(x), expected)
        differentiated(x).sum().backward()
    assert not torch.equal(own, expected)
    torch.testing.assert_close(own, expected)


def test_a_weight_of_another_shape_is_seen():
    """Also where it has as many elements."""
    x, weight = torch.randn(2, 5, 6), torch.randn(6, 5)
    with pytest.raises(ValueError, match=r"layer_norm: weight has shape \(6, 5\)"):
        nt.layer_norm(x, weight, axis=(-2, -1))
    with nt.install(), pytest.raises(RuntimeError, match="weight"):
        F.layer_norm(x, (5, 6), weight)


# ---- without Python in between ----


def test_no_python_between_torch_and_the_kernels():
    """Of normlib's functions, the forward method of a module is all that runs."""
    names = ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm")
    model = nt.accelerate(nn.Sequential(*(made(name)[0] for name in names)))
    x, seen = torch.randn(3, 4, 5, 6, requires_grad=True), []

    def watch(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            seen.append(frame.f_code.co_name)

    def calls(function):
        seen.clear()
        sys.setprofile(watch)
        try:
            result = function()
        finally:
            sys.setprofile(None)
        return result, list(seen)

    model(x)  # the first call finds out which backend is in use
    y, during = calls(lambda: model(x))
    assert during == ["forward", "_computed"] * 4
    _, during = calls(lambda: y.sum().backward())
    assert during == []
    with nt.install():
        plain = nn.LayerNorm(6)
        assert calls(lambda: plain(x).sum().backward())[1] == []


def test_the_backend_in_use_is_obeyed():
    x = torch.randn(3, 4, 5)
    seen = []

    def rms_norm(x, *args, **kwargs):
        seen.append(x)
        return NotImplemented

    normlib.backends.register("spy", SimpleNamespace(rms_norm=rms_norm))
    try:
        with normlib.backends.use("spy"):
            nt.rms_norm(x), nt.accelerate(nn.RMSNorm(5))(x)
    finally:
        normlib.backends.unregister("spy")
    assert len(seen) == 2


THREADS = """
import os, sys, torch
from torch import nn
import normlib, normlib.interop.torch as nt
torch.set_num_threads({torch})
normlib.set_num_threads({own})
x = torch.randn(4096, 1024)
model = nt.accelerate(nn.LayerNorm(1024))
with normlib.num_threads({scoped}), torch.no_grad():
    model(x)
if {scoped} == {own}:
    model(x.requires_grad_()).sum().backward()
    if os.environ.get("NORMLIB_TORCH_BRIDGE") != "0":
        with nt.install():
            torch.rms_norm(x, [1024]).sum().backward()
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_torchs_number_of_threads_is_obeyed():
    def threads(own, torchs, bridge="1", scoped=None):
        code = THREADS.format(own=own, torch=torchs, scoped=scoped or own)
        return int(python("-c", code, OMP_NUM_THREADS="4", NORMLIB_TORCH_BRIDGE=bridge))

    alone = threads(1, 1)
    assert threads(4, 1) == alone
    assert threads(4, 1, bridge="0") == alone
    assert alone < threads(4, 4, scoped=1) < threads(4, 4)  # torch starts its own


# ---- where it is missing ----

MISSING = """
import torch, normlib, normlib.interop.torch as nt
model = nt.accelerate(torch.nn.LayerNorm(4))
x = torch.randn(3, 4, requires_grad=True)
model(x).sum().backward()
assert torch.equal(model(x), nt.layer_norm(x, model.weight, model.bias))
try:
    nt.install()
except RuntimeError as error:
    print(error)
print(normlib.show_config("dicts")["torch"])
"""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NORMLIB_TORCH_BRIDGE": "0"}, "NORMLIB_TORCH_BRIDGE is 0"),
        ({"CXX": "no-such-compiler"}, "there is no C++ compiler"),
        ({"CXX": "false"}, "the compiler failed, see "),
    ],
    ids=["turned off", "no compiler", "compiler fails"],
)
def test_without_the_bridge_operators_in_python_do(environment, words, tmp_path):
    said = python("-W", "ignore", "-c", MISSING, **environment, NORMLIB_CACHE=str(tmp_path)).splitlines()
    assert said[0].startswith("install: ")
    assert words in said[0]
    assert said[1].startswith("operators in Python: ")
    assert words in said[1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    said = python("-W", "ignore", "-c", MISSING, NORMLIB_CACHE=str(tmp_path / "file" / "folder"))
    assert f"it cannot be written to {tmp_path / 'file' / 'folder'}" in said
    assert os.listdir(tmp_path) == ["file"]
