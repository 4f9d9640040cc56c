"""A SciPy callback that is normlib: scipy.LowLevelCallable takes the stripes off a scanned image, Python aside.

Each detector of a scanner has a gain and an offset of its own, seen as stripes along the scan; standardizing each line
along the scan takes them off. The callback is in lines.pyx: `python setup.py build_ext --inplace` compiles it.
"""

from ctypes import byref, c_double, c_void_p, cast

import lines
import numpy as np
from scipy import LowLevelCallable
from scipy.ndimage import generic_filter1d

import normlib


def main():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(300, 200))  # along the scan, across the detectors
    striped = image * rng.uniform(0.5, 2, 200) + rng.uniform(-5, 5, 200)

    eps = c_double(1e-12)
    callback = LowLevelCallable.from_cython(lines, "standardize", cast(byref(eps), c_void_p))
    clean = generic_filter1d(striped, callback, filter_size=1, axis=0)

    lines_first = np.ascontiguousarray(striped.T)  # as SciPy hands them to the callback
    assert np.array_equal(clean, normlib.layer_norm(lines_first, eps=eps.value).T)
    print("stripes before:", striped.mean(axis=0).std().round(2), "after:", clean.mean(axis=0).std().round(12))


if __name__ == "__main__":
    main()
