"""The libraries that normlib is measured beside, each optional and imported when asked for."""

import importlib
from typing import Protocol

from normlib.bench.calls import Contender
from normlib.bench.cases import Case

__all__ = ["PEERS", "Peer", "load"]

# name -> (module, whether it takes part without being asked for)
PEERS = {
    "torch": ("pytorch", True),
    "torch.compile": ("pytorch_compile", False),
    "onnxruntime": ("onnx_runtime", True),
    "jax": ("jax_jit", True),
    "numpy": ("numpy_backend", True),
    "separate": ("separate", True),
    "vllm": ("vllm_cpu", True),
}


class Peer(Protocol):
    """One library: a module of this package has a class of this form by the name ``Peer``."""

    version: str

    def __init__(self, threads: int): ...

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the library's best way to compute the case, None where it has none."""


def load(names: tuple[str, ...] | None, threads: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Import peers.

    Parameters
    ----------
    names : tuple of str or None
        The peers wanted; None for all that are installed but those that must be asked for.
    threads : int
        The number of threads each may use.

    Returns
    -------
    peers : dict
        Peers by name.
    missing : dict
        Why the others do not take part.
    """
    peers, missing = {}, {}
    if names is None:
        names = tuple(name for name, (_, default) in PEERS.items() if default)
    for name in names:
        if name not in PEERS:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
        try:
            peers[name] = importlib.import_module(f"{__name__}.{PEERS[name][0]}").Peer(threads)
        except ImportError as error:
            missing[name] = str(error)
    return peers, missing
