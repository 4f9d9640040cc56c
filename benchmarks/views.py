"""A thousand calls of normlib.views from a loop in Cython, which is compiled for each commit."""

import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import normlib

from .common import normal

BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("views", ["views.pyx"], include_dirs=[{include!r}])
setup(name="views", py_modules=[], ext_modules=cythonize([extension], include_path=[{root!r}]))
"""
CALLS = 1000


class Views:
    """Rows of 768 values in memory that is there, on one thread."""

    params = (("layer_norm", "rms_norm"), (1, 16))
    param_names = ("norm", "rows")

    def setup_cache(self):
        """Compile views.pyx; returns the folder, or None where the commit has no views."""
        if not Path(normlib.__file__).with_name("views.pxd").exists():
            return None
        folder, root = tempfile.mkdtemp(dir="."), str(Path(normlib.__file__).resolve().parents[1])
        # Beside this file Cython would take views.pxd from the checkout, not from the commit that is installed.
        shutil.copy(Path(__file__).with_suffix(".pyx"), folder)
        Path(folder, "setup.py").write_text(BUILD.format(include=normlib.get_include(), root=root))
        command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "."]
        subprocess.run(command, cwd=folder, check=True)
        return str(Path(folder).resolve())

    setup_cache.timeout = 300

    def setup(self, folder, norm, rows):
        if folder is None:
            raise NotImplementedError("this commit has no views")
        sys.path.insert(0, folder)
        try:
            self.calls = import_module("views").calls
        finally:
            sys.path.remove(folder)
        self.x, self.weight = normal((rows, 768), "float32"), normal((768,), "float32", 1)
        self.y = self.x.copy()

    def time_calls(self, folder, norm, rows):
        self.calls(norm, self.x, self.weight, self.y, CALLS)

    time_calls.pretty_name = "A thousand calls through views"
