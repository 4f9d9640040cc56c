"""What the examples share: a watch for norms, a table of the times of whole models, a text, a file for a picture."""

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import normlib
from normlib._progress import Progress

__all__ = ["Progress", "Watch", "difference", "help_texts", "on_backends", "picture", "race", "stand_ins"]


class Watch:
    """Adds up the time spent inside ``with watch:`` or inside modules of torch that it is attached to."""

    seconds = 0.0

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *error):
        self.seconds += time.perf_counter() - self.start

    def attach(self, modules):
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self.__enter__())
            module.register_forward_hook(lambda *_: self.__exit__())


@contextmanager
def stand_ins(modules):
    """Let `modules`, by name, stand in for packages while something is imported that names them and needs them not."""
    hidden = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:  # what else was imported meanwhile stays
        for name in modules:
            del sys.modules[name]
        sys.modules.update(hidden)


def on_backends(run):
    """`run` on each of normlib's own backends that is installed, by name."""

    def on(name):
        def chosen():
            with normlib.backends.use(name):
                return run()

        return chosen

    return {f"normlib, {name}": on(name) for name in ("cython", "numpy") if name in normlib.backends.available()}


def race(runs, watch, rounds=5):
    """Call the functions `runs` in turn, print the fastest round of each, and return what they returned, by name."""
    fastest, results = {}, {}
    with Progress(rounds * len(runs)) as progress:
        for done, (name, run) in enumerate(rounds * list(runs.items())):
            progress.show(done, name)
            watch.seconds, start = 0.0, time.perf_counter()
            results[name] = run()
            took = time.perf_counter() - start, watch.seconds
            fastest[name] = min(fastest.get(name, took), took)
    print(f"{'':16}  whole model     the norms    their share")
    for name, (whole, norms) in fastest.items():
        seen = f"{norms * 1e3:10.2f} ms {norms / whole:13.1%}" if norms else "not seen apart".rjust(27)
        print(f"{name:16} {whole * 1e3:9.1f} ms {seen}")
    (first, (_, norms)), *others = fastest.items()
    ratios = [f"{other / norms:.1f} times as fast as with {name}" for name, (_, other) in others if other]
    print(f"The norms with {first} are {', '.join(ratios) or 'timed alone'}.")
    return results


def difference(ours, expected, reference):
    """Print and return the largest difference between two arrays."""
    largest, scale = float(np.abs(ours - expected).max()), np.abs(expected).max()
    print(f"\nLargest difference from {reference}: {largest:.1e}, where the largest value is {scale:.3g}")
    return largest


def help_texts():
    """English that every machine has: the help texts of Python. A paragraph that stands in several is taken once."""
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def picture(text):
    """A path, as an option, that can be drawn to when the training is over."""
    path = Path(text)
    if not path.parent.is_dir() or path.suffix not in (".pdf", ".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a .pdf, .png or .svg in a folder that there is")
    return path
