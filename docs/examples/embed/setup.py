"""Builds the two extension modules of this folder in place: python setup.py build_ext --inplace"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import normlib

include = [normlib.get_include()]
setup(
    name="embed",
    py_modules=[],
    ext_modules=[
        Extension("extension", ["extension.c"], include_dirs=include),
        *cythonize([Extension("lines", ["lines.pyx"], include_dirs=include)]),
    ],
)
