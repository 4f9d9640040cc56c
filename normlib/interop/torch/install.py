"""torch's own operators for the norms on normlib's kernels."""

from . import _bridge

_installed = False


class Installed:
    """What :func:`install` returns: as a context manager, it undoes the call at the end of its block."""

    def __init__(self, ends: bool) -> None:
        self._ends = ends

    def __enter__(self) -> "Installed":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ends:
            uninstall()

    def __repr__(self) -> str:
        return f"<normlib kernels are {'' if _installed else 'not '}installed in torch>"


def install() -> Installed:
    """Let torch's own operators for the norms run normlib's kernels on tensors of the CPU, in the whole process.

    ``native_layer_norm``, ``native_group_norm``, ``native_batch_norm``, ``_fused_rms_norm``, what decompositions of
    exported programs make of them, and their backward operators. So every model gains without a change: modules,
    functions, gradients, eager parts of compiled graphs, exported programs. What normlib does not take goes to torch's
    kernel. Strides, dtypes and errors are torch's.

    Operators of torch keep the mean and 1/std of a float32 or 16-bit input in float32 for the backward pass: at a
    mean of 10,000 standard deviations gradients are right to three digits then. :func:`accelerate` and normlib's own
    functions keep float64. What torch.compile makes code of itself (inductor) does not call these operators.

    Returns
    -------
    Installed
        A context manager, for ``with install():``; at the end of the block torch's kernels are back.

    Raises
    ------
    RuntimeError
        If there is no compiled bridge; the message says why.

    See Also
    --------
    uninstall : torch's kernels again.
    accelerate : for one model, with what follows its norms in the same pass.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import install
    >>> x = torch.tensor([[1.0, 3.0]])
    >>> with install():
    ...     torch.nn.functional.layer_norm(x, [2], eps=0)
    tensor([[-1.,  1.]])
    """
    global _installed
    bridge = _bridge.load(build=True)
    if bridge is None:
        raise RuntimeError(f"install: torch's operators need the compiled bridge, and there is none: {_bridge.reason}")
    ends, _installed = not _installed, True
    if ends:
        bridge.install()
    return Installed(ends)


def uninstall() -> None:
    """Give torch's own operators their kernels back.

    See Also
    --------
    install : what this undoes.
    """
    global _installed
    if _installed and _bridge.compiled is not None:
        _bridge.compiled.uninstall()
    _installed = False
