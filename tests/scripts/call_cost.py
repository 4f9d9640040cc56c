"""What a call of the C functions costs beside the bare kernel: builds call_cost.pyx, prints the table of the docs."""

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

import normlib
from normlib import _kernels

ROOT = Path(__file__).resolve().parents[2]  # whose plan.pxd is not installed
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("call_cost", [{source!r}], include_dirs=[{include!r}],
                      extra_compile_args=["-O3", "-march=native"])
setup(name="call_cost", py_modules=[], ext_modules=cythonize([extension], include_path=[{root!r}], build_dir="."))
"""
SHAPES = [(1, 64), (1, 128), (1, 768), (1, 4096), (4, 768), (16, 768), (16, 4096)]


def built():
    folder = tempfile.mkdtemp()
    source = str(Path(__file__).with_name("call_cost.pyx"))
    script = SETUP.format(source=source, include=normlib.get_include(), root=str(ROOT))
    Path(folder, "setup.py").write_text(script)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder], cwd=folder, check=True)
    sys.path.insert(0, folder)
    return import_module("call_cost")


def main():
    costs = built().costs
    kernels = import_module(f"normlib._kernels.isa_{_kernels.info()['isa']}").kernels()
    print("| norm | rows | kernel alone | `..._rows` | on arrays | with strides | loop in C |")
    print("|---|---|---|---|---|---|---|")
    for rows, cols in SHAPES:
        x = np.random.default_rng(0).normal(size=(rows, cols)).astype(np.float32)
        weight, y = x[0].copy(), np.empty_like(x)
        for name in ("layer_norm", "rms_norm"):
            rounds = [costs(kernels, name == "layer_norm", x, weight, y, 500) for _ in range(4)]
            bare, *calls = np.min(rounds, axis=0)
            texts = [f"{cost:.0f} ns ({cost / bare:.2f})" for cost in calls]
            print(f"| `{name}` | {rows} x {cols} | {bare:.0f} ns | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
