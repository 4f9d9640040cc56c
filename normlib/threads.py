"""The number of threads: one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]

try:
    from ._kernels.parallel import get_num_threads as _get
    from ._kernels.parallel import scoped as _scoped
    from ._kernels.parallel import set_num_threads as _set
except ModuleNotFoundError:  # nothing compiled: NumPy runs as it does
    from contextvars import ContextVar

    _scoped = ContextVar("normlib_num_threads", default=0)
    _process = 1

    def _get() -> int:
        return _scoped.get() or _process

    def _set(n: int) -> None:
        global _process
        _process = n


def _checked(function: str, n: SupportsIndex) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"{function}: n is {n!r}, expected a whole number of at least 1")
    n = n.__index__()
    if not 1 <= n <= 4096:
        raise ValueError(f"{function}: n is {n}, expected 1 to 4096")
    return n


def get_num_threads() -> int:
    """How many threads a call may use.

    At the start: the variable ``NORMLIB_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the cores that this
    process may use (affinity and control group included). Without the compiled kernels it starts at 1, and NumPy
    runs as it does.

    Returns
    -------
    int

    Examples
    --------
    >>> import normlib
    >>> normlib.get_num_threads() >= 1
    True
    """
    return _get()


def set_num_threads(n: SupportsIndex) -> None:
    """Let calls use up to `n` threads, in the whole process. Small arrays take fewer; results are the same bits.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is no whole number, or out of range.

    Examples
    --------
    >>> import normlib
    >>> before = normlib.get_num_threads()
    >>> normlib.set_num_threads(2)
    >>> normlib.get_num_threads()
    2
    >>> normlib.set_num_threads(before)
    """
    _set(_checked("set_num_threads", n))


@contextmanager
def num_threads(n: SupportsIndex) -> Iterator[None]:
    """Let calls in this thread or task use up to `n` threads, until the end of the ``with`` block.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is no whole number, or out of range.

    Examples
    --------
    >>> import normlib
    >>> with normlib.num_threads(1):
    ...     normlib.get_num_threads()
    1
    """
    token = _scoped.set(_checked("num_threads", n))
    try:
        yield
    finally:
        _scoped.reset(token)
