"""scikit-learn's StandardScaler by the kernels: the same estimator, exact far from zero, and faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn import get_config, preprocessing
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import ops
from .._pairs import Pair
from ..moments import Moments, _Node, statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["StandardScaler"]

_FLOATS = (np.float64, np.float32, np.float16)


class StandardScaler(preprocessing.StandardScaler):
    """Each column to mean 0 and variance 1: :class:`sklearn.preprocessing.StandardScaler`, computed by
    :func:`normlib.batch_norm`.

    Parameters, attributes and methods are those of scikit-learn's class, of which this is a subclass. Three things
    differ. A column is exact to its own dtype wherever it lies: the mean is not rounded to that dtype before it is
    subtracted. The chunks of :meth:`partial_fit` are merged by :class:`normlib.Moments`. And it takes a fraction of the
    time.

    NaN is left out of the statistics, and stays. Scikit-learn computes what the kernels do not take: sparse matrices,
    arrays of other libraries under ``array_api_dispatch``, and statistics with a `sample_weight` or callbacks.

    Parameters
    ----------
    copy : bool, default True
        If False, arrays of floats are scaled in place.
    with_mean : bool, default True
        Whether to subtract the means.
    with_std : bool, default True
        Whether to divide by the standard deviations; by 1 where a column is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.interop.sklearn import StandardScaler
    >>> x = np.array([[100001.0, 7.0], [100003.0, 7.0]], dtype=np.float32)
    >>> scaler = StandardScaler().fit(x)
    >>> scaler.transform(x).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    >>> scaler.mean_.tolist(), scaler.scale_.tolist()
    ([100002.0, 7.0], [1.0, 1.0])
    """

    mean_: Any
    var_: Any
    scale_: Any
    _moments: Any  # of all chunks; None where scikit-learn has taken in one

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take in a chunk of rows.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            The rows; NaN is left out.
        y : None
            Ignored.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the rows. From the first weights on, scikit-learn computes the statistics.

        Returns
        -------
        self : StandardScaler
        """
        lost = hasattr(self, "n_samples_seen_") and getattr(self, "_moments", None) is None
        if lost or sample_weight is not None or self._is_theirs(X) or self._has_callbacks():
            self._moments = None
            return super().partial_fit(X, y, sample_weight)
        self._take(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Take in all rows, and scale them.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            The rows.
        y : None
            Ignored.
        **fit_params
            `sample_weight`, as of :meth:`partial_fit`.

        Returns
        -------
        X_new : ndarray, or as `set_output` says
        """
        if fit_params or self._is_theirs(X) or self._has_callbacks():
            return super().fit_transform(X, y, **fit_params)
        self._reset()
        x, free = self._take(X, writes=not self.copy)
        return self._scaled(x, free if self.copy else x)

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        """Scale rows.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            The rows.
        copy : bool, optional
            In the place of the parameter of the class.

        Returns
        -------
        X_new : ndarray, or as `set_output` says
        """
        if self._is_theirs(X):
            return super().transform(X, copy)
        check_is_fitted(self)
        copy = self.copy if copy is None else copy
        x = validate_data(self, X, reset=False, dtype=_FLOATS, force_writeable=not copy, ensure_all_finite="allow-nan")
        return self._scaled(x, None if copy else x)

    def inverse_transform(self, X: Any, copy: bool | None = None) -> Any:
        """Scale rows back.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Rows that were scaled.
        copy : bool, optional
            In the place of the parameter of the class.

        Returns
        -------
        X_original : ndarray
        """
        if self._is_theirs(X):
            return super().inverse_transform(X, copy)
        check_is_fitted(self)
        copy = self.copy if copy is None else copy
        x = check_array(X, dtype=_FLOATS, force_writeable=not copy, ensure_all_finite="allow-nan")
        mean, scale = self._mean_and_scale(x)
        unit: dict[str, Any] = {"running_mean": np.zeros_like(mean), "running_var": np.ones_like(scale)}
        return ops.batch_norm(x, **unit, weight=scale, bias=mean, eps=0, out=None if copy else x)

    # -- how ----

    def _is_theirs(self, X: Any) -> bool:
        """Whether scikit-learn computes: where there is nothing to, or the kernels cannot."""
        elsewhere = get_config()["array_api_dispatch"] and not isinstance(X, np.ndarray)
        return elsewhere or issparse(X) or not (self.with_mean or self.with_std)

    def _has_callbacks(self) -> bool:
        return bool(getattr(self, "_skl_callbacks", None))

    def _take(self, X: Any, writes: bool = False) -> tuple[Array, Array | None]:
        """Update the statistics; returns the rows, and what memory of their shape and dtype is free."""
        self._validate_params()
        first = not hasattr(self, "n_samples_seen_")
        x = validate_data(self, X, reset=first, dtype=_FLOATS, force_writeable=writes, ensure_all_finite=False)
        free, leaf = _moments_of(x, type(self).__name__)
        if first:
            self._moments = Moments(channel_axis=1)
        self._moments._put({(0, self._moments._next): leaf}, "StandardScaler.partial_fit")
        count, self.mean_, var = self._moments._total().results()
        self.n_samples_seen_ = count[0] if (count == count[0]).all() else count
        self.var_ = var if self.with_std else None
        self.scale_ = self._scale(count) if self.with_std else None
        return x, free

    def _scale(self, count: Array) -> Array:
        """The standard deviations; 1 where, by the bound that scikit-learn takes, a column may be constant."""
        eps = np.finfo(np.float64).eps
        bound = count * eps * self.var_ + (count * self.mean_ * eps) ** 2
        return np.where(self.var_ <= bound, 1.0, np.sqrt(self.var_))

    def _mean_and_scale(self, x: Array) -> tuple[Array, Array]:
        mean = self.mean_ if self.with_mean else np.zeros(x.shape[1])
        return mean, self.scale_ if self.with_std else np.ones(x.shape[1])

    def _scaled(self, x: Array, out: Array | None) -> Array:
        mean, scale = self._mean_and_scale(x)
        return ops.batch_norm(x, running_mean=mean, running_var=scale**2, eps=0, out=out)  # sqrt(scale**2) is scale


def _moments_of(x: Array, name: str) -> tuple[Array | None, _Node]:
    """Memory of the shape and dtype of `x`, and the moments of its columns, in one pass of the kernel.

    Moments that are not finite tell where NaN is, and what is no number at all: no other pass looks for them.
    """
    n, columns = x.shape
    free, mean, var = None, x[0].astype(np.float64), np.zeros(columns)
    if n > 1:
        free, mean, var = statistics(x, 1, {})
    rest = ~np.isfinite(mean + var)
    node = _Node(np.full(columns, n), Pair(mean, np.zeros(columns)), Pair(var * (n - 1), np.zeros(columns)))
    if rest.any():
        some = x[:, rest]
        assert_all_finite(some, allow_nan=True, estimator_name=name, input_name="X")
        few = Moments(channel_axis=1).update(some, where=~np.isnan(some))._total()
        node.n[rest] = few.n
        for whole, part in ((node.mean, few.mean), (node.squares, few.squares)):
            whole.head[rest], whole.tail[rest] = part
    return free, node
