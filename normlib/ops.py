"""The ten public functions: five norms, forward and backward; and :data:`OPS`, which describes them.

What holds for all of them:

- Arrays are anything that :func:`numpy.asarray` takes, in float64, float32, float16 or bfloat16 (of
  ``ml_dtypes``), in any memory layout. The output has the dtype of ``x`` and, as with ufuncs, its memory
  layout. Where ``x`` is a CPU tensor of torch, a CPU array of JAX or another array with ``__dlpack__`` and
  ``__array_namespace__``, results are of its kind, else NumPy arrays.
- Integers and booleans are taken as float32, integers of 32 and 64 bits (lists of ints among them) as float64,
  as NumPy promotes them beside a float32. Parameters of any of the four dtypes are cast to that of ``x``, or to
  float32 where ``x`` has 16 bits.
- With ``eps=0`` a constant row is 0 / 0: NaN, with what :func:`numpy.errstate` says, by default a RuntimeWarning.
- ``out`` may be ``x`` (or ``dy``); memory that overlaps in another way gives the result that no overlap
  would give. No other input is written to, running statistics aside.
- Statistics are float64: ``mean`` and ``rstd = 1 / sqrt(var + eps)`` with the biased variance. Backward
  functions take them in float64 or float32.
- Gradients of parameters come for ``weight_grads=True``, or None where a weight is given; they have the
  dtype of ``weight`` (of ``x`` without one) and are None otherwise.
- What stands around a norm is computed in the same pass:
  y = activation(norm(x + residual) + add) * gate_activation(gate). The sum, rounded to the dtype of ``x``, is
  returned after ``y``, where a ``residual`` is given. With ``gate_first=True`` it is the sum that is gated:
  y = activation(norm((x + residual) * gate_activation(gate)) + add), the product rounded to the dtype of ``x``.
- ``round_first=True`` rounds the normalized values to the 16 bits of ``x`` before the weight, as in the reference
  code of Llama; in other dtypes it changes nothing.
- ``out_dtype`` gives the output in another of the four dtypes, rounded once.
- ``quantize="int8"`` gives int8 and a scale a row, ``q, scale``, in the place of ``y``; :func:`normlib.dequantize`
  goes back.
- The backward functions take the sum as ``x``, and as ``dsum`` the gradient that reaches it from elsewhere; what
  follows the norm too, with ``bias`` where that is an activation or a gate. They return the gradients of ``add`` and
  ``gate`` last.
- An array without elements gives results without elements, gradients of zero and statistics of NaN.
- A wrong argument is a ValueError or TypeError that names function, argument, expectation and finding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from . import _arguments, _general, _kernels, description
from .backends import active as _active

__all__ = [
    "OPS",
    "Op",
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _public(function):
    """Ordinary calls of it are computed without a frame of Python, where there are compiled kernels."""
    return _kernels.without_frame(_arguments.fusible(function), _active.__self__)


@_public
def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, out=None, return_stats=False, **fused):
    r"""Layer normalization: each row of `x` to mean 0 and variance 1.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Mean and (biased) variance are those of the elements along `axis`.

    Parameters
    ----------
    x : array_like
        What to normalize: floats, or integers, which are taken as floats.
    weight, bias : array_like, optional
        Of the shape of `x` over `axis`, in any of the float dtypes. Axes before these broadcast to the others of `x`:
        rows with parameters of their own.
    axis : int, or tuple or list of int, default -1
        The axes that are normalized over, in any order; parameters have them in the order of `x`.
    eps : float, default 1e-5
        Added to the variance.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return the statistics, for :func:`layer_norm_backward`.

    Returns
    -------
    y : ndarray
        The normalized array, of the shape, dtype and memory layout of `x`; `out` if that was given.
    mean, rstd : ndarray
        Only with `return_stats`; float64, of the shape of `x` without `axis`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import normlib
    >>> normlib.layer_norm([[1.0, 3.0], [10.0, 30.0]], eps=0)
    array([[-1.,  1.],
           [-1.,  1.]])
    >>> y, mean, rstd = normlib.layer_norm([[1.0, 3.0], [10.0, 30.0]], eps=0, return_stats=True)
    >>> mean, rstd
    (array([ 2., 20.]), array([1. , 0.1]))
    """
    result = _active().layer_norm_direct(x, weight, bias, axis, eps, out, return_stats, fused)
    if result is NotImplemented:
        return _general.call("layer_norm", x, weight, bias, axis, eps, out, return_stats, **fused)
    return result


@_public
def layer_norm_backward(dy, x, weight=None, *, mean, rstd, axis=-1, weight_grads=None, out=None, **fused):
    r"""Gradients of :func:`layer_norm`.

    With z = (x - mean) * rstd and g = dy * weight, means taken along `axis` and sums over the rest:

    .. math:: dx = \mathrm{rstd} \cdot (g - \overline{g} - z \cdot \overline{g z}), \qquad
              d\mathrm{weight} = \sum dy \cdot z, \qquad d\mathrm{bias} = \sum dy

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the output, of the shape and dtype of `x`.
    x, weight : array_like
        As given to :func:`layer_norm`.
    mean, rstd : array_like
        The statistics that it returned, in float64 or float32.
    axis : int or tuple of int, default -1
        As given to :func:`layer_norm`.
    weight_grads : bool, optional
        Whether to compute `dweight` and `dbias`; by default where `weight` is given.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight, dbias : ndarray or None
        The gradients with respect to the parameters, in their shape and the dtype of `weight` (of `x` without one).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import normlib
    >>> x = [[1.0, 2.0, 3.0]]
    >>> y, mean, rstd = normlib.layer_norm(x, eps=0, return_stats=True)
    >>> dx, dweight, dbias = normlib.layer_norm_backward(
    ...     [[1.0, 0.0, 0.0]], x, [1.0, 1.0, 1.0], mean=mean, rstd=rstd)
    >>> dx.round(4)
    array([[ 0.2041, -0.4082,  0.2041]])
    >>> dweight.round(4), dbias
    (array([-1.2247,  0.    ,  0.    ]), array([1., 0., 0.]))
    """
    result = _active().layer_norm_backward_direct(dy, x, weight, mean, rstd, axis, weight_grads, out, fused)
    if result is NotImplemented:
        return _general.call("layer_norm_backward", dy, x, weight, mean, rstd, axis, weight_grads, out, **fused)
    return result


@_public
def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, out=None, return_stats=False, **fused):
    r"""Root mean square normalization: each row of `x` to mean square 1.

    .. math:: y = x \cdot \mathrm{rstd} \cdot \mathrm{weight}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\overline{x^2} + \mathrm{eps}}

    Parameters
    ----------
    x : array_like
        What to normalize: floats, or integers, which are taken as floats.
    weight : array_like, optional
        Of the shape of `x` over `axis`, in any of the float dtypes. Axes before these broadcast to the others of `x`:
        rows with parameters of their own.
    axis : int, or tuple or list of int, default -1
        The axes that are normalized over, in any order; `weight` has them in the order of `x`.
    eps : float, default 1e-6
        Added to the mean square.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return `rstd`, for :func:`rms_norm_backward`.

    Returns
    -------
    y : ndarray
        The normalized array, of the shape, dtype and memory layout of `x`; `out` if that was given.
    rstd : ndarray
        Only with `return_stats`; float64, of the shape of `x` without `axis`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import normlib
    >>> normlib.rms_norm([[1.0, 7.0], [-5.0, 5.0]], eps=0)
    array([[ 0.2,  1.4],
           [-1. ,  1. ]])
    """
    result = _active().rms_norm_direct(x, weight, axis, eps, out, return_stats, fused)
    if result is NotImplemented:
        return _general.call("rms_norm", x, weight, axis, eps, out, return_stats, **fused)
    return result


@_public
def rms_norm_backward(dy, x, weight=None, *, rstd, axis=-1, weight_grads=None, out=None, **fused):
    r"""Gradients of :func:`rms_norm`.

    With z = x * rstd and g = dy * weight, the mean taken along `axis` and the sum over the rest:

    .. math:: dx = \mathrm{rstd} \cdot (g - z \cdot \overline{g z}), \qquad d\mathrm{weight} = \sum dy \cdot z

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the output, of the shape and dtype of `x`.
    x, weight : array_like
        As given to :func:`rms_norm`.
    rstd : array_like
        The statistics that it returned, in float64 or float32.
    axis : int or tuple of int, default -1
        As given to :func:`rms_norm`.
    weight_grads : bool, optional
        Whether to compute `dweight`; by default where `weight` is given.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight : ndarray or None
        The gradient with respect to `weight`, in its shape and dtype (that of `x` without one).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import normlib
    >>> x = [[1.0, 7.0]]
    >>> y, rstd = normlib.rms_norm(x, eps=0, return_stats=True)
    >>> dx, dweight = normlib.rms_norm_backward([[1.0, 0.0]], x, [1.0, 1.0], rstd=rstd)
    >>> dx.round(4), dweight
    (array([[ 0.196, -0.028]]), array([0.2, 0. ]))
    """
    result = _active().rms_norm_backward_direct(dy, x, weight, rstd, axis, weight_grads, out, fused)
    if result is NotImplemented:
        return _general.call("rms_norm_backward", dy, x, weight, rstd, axis, weight_grads, out, **fused)
    return result


@_public
def batch_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    out=None,
    return_stats=False,
    **fused,
):
    r"""Batch normalization: each channel of `x` to mean 0 and variance 1.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Mean and (biased) variance are those of all elements of a channel. With ``training=False`` the running
    statistics take their place, where given. In training these are updated in place, the variance by the
    unbiased one: ``running = (1 - momentum) * running + momentum * batch``.

    Parameters
    ----------
    x : array_like
        What to normalize: floats, or integers, which are taken as floats; of two or more axes.
    weight, bias : array_like, optional
        One value a channel, in any of the float dtypes; or one a sample and channel, of shape (N, C). By name alone:
        in torch the running statistics come first.
    running_mean, running_var : array_like, optional
        One value a channel in any of the float dtypes; writeable arrays if `training`.
    training : bool, default False
        Whether to use the statistics of `x` and update the running ones.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return the statistics that were used, for :func:`batch_norm_backward`.

    Returns
    -------
    y : ndarray
        The normalized array, of the shape, dtype and memory layout of `x`; `out` if that was given.
    mean, rstd : ndarray
        Only with `return_stats`; float64, one value a channel.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came. Also if `training`
        has only one value a channel.

    References
    ----------
    .. [1] S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
       Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> normlib.batch_norm([[1.0, 10.0], [3.0, 30.0]], running_mean=running_mean,
    ...                    running_var=running_var, training=True, momentum=0.5, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> running_mean, running_var
    (array([ 1., 10.]), array([  1.5, 100.5]))
    >>> normlib.batch_norm([[4.0, 10.0]], running_mean=[1.0, 10.0], running_var=[9.0, 1.0], eps=0)
    array([[1., 0.]])
    """
    if positional:
        raise _arguments.misplaced("batch_norm", len(positional))
    result = _active().batch_norm_direct(
        x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out, return_stats,
        fused
    )
    if result is NotImplemented:
        return _general.call(
            "batch_norm", x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out,
            return_stats, **fused
        )
    return result


@_public
def batch_norm_backward(
    dy, x, weight=None, *, mean, rstd, training=True, channel_axis=1, weight_grads=None, out=None, **fused
):
    r"""Gradients of :func:`batch_norm`.

    With z = (x - mean) * rstd and g = dy * weight, means and sums taken over a channel:

    .. math:: dx = \mathrm{rstd} \cdot (g - \overline{g} - z \cdot \overline{g z}), \qquad
              d\mathrm{weight} = \sum dy \cdot z, \qquad d\mathrm{bias} = \sum dy

    With ``training=False`` the statistics were constants: dx = rstd * g.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the output, of the shape and dtype of `x`.
    x, weight : array_like
        As given to :func:`batch_norm`.
    mean, rstd : array_like
        The statistics that it returned, in float64 or float32.
    training : bool, default True
        Whether they were those of `x`.
    channel_axis : int, default 1
        As given to :func:`batch_norm`.
    weight_grads : bool, optional
        Whether to compute `dweight` and `dbias`; by default where `weight` is given.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight, dbias : ndarray or None
        The gradients with respect to the parameters, in their shape and the dtype of `weight` (of `x` without one).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import normlib
    >>> x, dy = [[1.0], [2.0], [3.0]], [[1.0], [0.0], [0.0]]
    >>> y, mean, rstd = normlib.batch_norm(x, training=True, eps=0, return_stats=True)
    >>> dx, dweight, dbias = normlib.batch_norm_backward(dy, x, [1.0], mean=mean, rstd=rstd)
    >>> dx.ravel().round(4), dweight.round(4), dbias
    (array([ 0.2041, -0.4082,  0.2041]), array([-1.2247]), array([1.]))
    """
    result = _active().batch_norm_backward_direct(
        dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out, fused
    )
    if result is NotImplemented:
        return _general.call(
            "batch_norm_backward", dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out, **fused
        )
    return result


@_public
def group_norm(
    x, num_groups, weight=None, bias=None, *, eps=1e-5, channel_axis=1, out=None, return_stats=False, **fused
):
    r"""Group normalization: each group of channels of a sample to mean 0 and variance 1.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Mean and (biased) variance are those of the ``C / num_groups`` neighboring channels of a group in one
    sample. The samples lie along the first axis other than `channel_axis`; one image goes as ``x[np.newaxis]``,
    and where an `x` of 3 axes may be one, a warning says so once.

    Parameters
    ----------
    x : array_like
        What to normalize: floats, or integers, which are taken as floats; of two or more axes.
    num_groups : int
        A divisor of the number of channels.
    weight, bias : array_like, optional
        One value a channel, in any of the float dtypes; or one a sample and channel, of shape (N, C).
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return the statistics, for :func:`group_norm_backward`.

    Returns
    -------
    y : ndarray
        The normalized array, of the shape, dtype and memory layout of `x`; `out` if that was given.
    mean, rstd : ndarray
        Only with `return_stats`; float64, of shape ``(N, num_groups)``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] Y. Wu, K. He, "Group Normalization", 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import normlib
    >>> normlib.group_norm([[1.0, 3.0, 10.0, 30.0]], 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """
    result = _active().group_norm_direct(x, num_groups, weight, bias, eps, channel_axis, out, return_stats, fused)
    if result is NotImplemented:
        result = _general.call("group_norm", x, num_groups, weight, bias, eps, channel_axis, out, return_stats, **fused)
    if channel_axis != 1 and getattr(x, "ndim", 3) == 3:
        _arguments.warn_of_rows("group_norm", x, channel_axis)
    return result


@_public
def group_norm_backward(
    dy, x, num_groups, weight=None, *, mean, rstd, channel_axis=1, weight_grads=None, out=None, **fused
):
    r"""Gradients of :func:`group_norm`.

    With z = (x - mean) * rstd and g = dy * weight, means taken over a group and sums over a channel:

    .. math:: dx = \mathrm{rstd} \cdot (g - \overline{g} - z \cdot \overline{g z}), \qquad
              d\mathrm{weight} = \sum dy \cdot z, \qquad d\mathrm{bias} = \sum dy

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the output, of the shape and dtype of `x`.
    x, num_groups, weight
        As given to :func:`group_norm`.
    mean, rstd : array_like
        The statistics that it returned, in float64 or float32.
    channel_axis : int, default 1
        As given to :func:`group_norm`.
    weight_grads : bool, optional
        Whether to compute `dweight` and `dbias`; by default where `weight` is given.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight, dbias : ndarray or None
        The gradients with respect to the parameters, in their shape and the dtype of `weight` (of `x` without one).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import normlib
    >>> x, dy = [[1.0, 2.0, 3.0]], [[1.0, 0.0, 0.0]]
    >>> y, mean, rstd = normlib.group_norm(x, 1, eps=0, return_stats=True)
    >>> dx, dweight, dbias = normlib.group_norm_backward(dy, x, 1, mean=mean, rstd=rstd)
    >>> dx.round(4), dweight, dbias
    (array([[ 0.2041, -0.4082,  0.2041]]), None, None)
    """
    result = _active().group_norm_backward_direct(
        dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out, fused
    )
    if result is NotImplemented:
        return _general.call(
            "group_norm_backward", dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out, **fused
        )
    return result


@_public
def instance_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    out=None,
    return_stats=False,
    **fused,
):
    r"""Instance normalization: each channel of each sample to mean 0 and variance 1.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Mean and (biased) variance are those of one channel of one sample; with ``use_input_stats=False`` the
    running statistics take their place. Else these, where given, are updated in place by the mean over
    the samples of the means and unbiased variances: ``running = (1 - momentum) * running + momentum * mean``.
    The samples lie along the first axis other than `channel_axis`; one image goes as ``x[np.newaxis]``, and where
    an `x` of 3 axes may be one, a warning says so once.

    Parameters
    ----------
    x : array_like
        What to normalize: floats, or integers, which are taken as floats; of two or more axes.
    weight, bias : array_like, optional
        One value a channel, in any of the float dtypes; or one a sample and channel, of shape (N, C). By name alone:
        in torch the running statistics come first.
    running_mean, running_var : array_like, optional
        One value a channel in any of the float dtypes; writeable arrays if `use_input_stats`.
    use_input_stats : bool, default True
        Whether to use the statistics of `x` and update the running ones.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return the statistics that were used, for :func:`instance_norm_backward`.

    Returns
    -------
    y : ndarray
        The normalized array, of the shape, dtype and memory layout of `x`; `out` if that was given.
    mean, rstd : ndarray
        Only with `return_stats`; float64, of shape ``(N, C)``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came. Also if statistics
        are to be taken of one value a sample and channel, or are missing.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
       Stylization", 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import normlib
    >>> normlib.instance_norm([[[1.0, 3.0], [10.0, 30.0]]], eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]])

    One image of height, width and channels:

    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((48, 64, 3))
    >>> y = normlib.instance_norm(image[np.newaxis], channel_axis=-1)[0]
    >>> y.shape, y.std(axis=(0, 1)).round(3)
    ((48, 64, 3), array([1., 1., 1.]))
    """
    if positional:
        raise _arguments.misplaced("instance_norm", len(positional))
    result = _active().instance_norm_direct(
        x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, out, return_stats,
        fused
    )
    if result is NotImplemented:
        result = _general.call(
            "instance_norm", x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis,
            out, return_stats, **fused
        )
    if channel_axis != 1 and getattr(x, "ndim", 3) == 3:
        _arguments.warn_of_rows("instance_norm", x, channel_axis)
    return result


@_public
def instance_norm_backward(
    dy, x, weight=None, *, mean, rstd, use_input_stats=True, channel_axis=1, weight_grads=None, out=None, **fused
):
    r"""Gradients of :func:`instance_norm`.

    With z = (x - mean) * rstd and g = dy * weight, means taken over one channel of one sample and sums
    over a channel:

    .. math:: dx = \mathrm{rstd} \cdot (g - \overline{g} - z \cdot \overline{g z}), \qquad
              d\mathrm{weight} = \sum dy \cdot z, \qquad d\mathrm{bias} = \sum dy

    With ``use_input_stats=False`` the statistics were constants: dx = rstd * g.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the output, of the shape and dtype of `x`.
    x, weight : array_like
        As given to :func:`instance_norm`.
    mean, rstd : array_like
        The statistics that it returned, in float64 or float32.
    use_input_stats : bool, default True
        Whether they were those of `x`.
    channel_axis : int, default 1
        As given to :func:`instance_norm`.
    weight_grads : bool, optional
        Whether to compute `dweight` and `dbias`; by default where `weight` is given.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight, dbias : ndarray or None
        The gradients with respect to the parameters, in their shape and the dtype of `weight` (of `x` without one).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import normlib
    >>> x, dy = [[[1.0, 2.0, 3.0]]], [[[1.0, 0.0, 0.0]]]
    >>> y, mean, rstd = normlib.instance_norm(x, eps=0, return_stats=True)
    >>> dx, dweight, dbias = normlib.instance_norm_backward(dy, x, mean=mean, rstd=rstd, weight_grads=True)
    >>> dx.round(4), dweight.round(4), dbias
    (array([[[ 0.2041, -0.4082,  0.2041]]]), array([-1.2247]), array([1.]))
    """
    result = _active().instance_norm_backward_direct(
        dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out, fused
    )
    if result is NotImplemented:
        return _general.call(
            "instance_norm_backward", dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out,
            **fused
        )
    return result


@dataclass(frozen=True)
class Op(description.Op):
    """A norm: its description, :class:`normlib.description.Op`, and its two functions.

    Attributes
    ----------
    forward, backward : callable
        The two public functions.
    """

    forward: Callable = field(kw_only=True)
    backward: Callable = field(kw_only=True)


OPS = {
    name: Op(
        **{field.name: getattr(op, field.name) for field in fields(op)},
        forward=globals()[name],
        backward=globals()[f"{name}_backward"],
    )
    for name, op in description.OPS.items()
}
