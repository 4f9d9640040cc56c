"""normlib's OpenMP beside that of another library, each with threads of its own: the bits stay, and nothing hangs.

    python openmp_runtimes.py (torch | sklearn) (before | after)

The library is imported before normlib, or after its first team of threads. Both then compute in turns, in a fork and in
threads. A wheel of normlib brings its own libgomp, as those of torch and scikit-learn do; what is loaded is printed.
"""

import os
import sys
import threading
from pathlib import Path

import numpy as np

if sys.argv[2] == "before":
    __import__(sys.argv[1])

import normlib

ROUNDS = 5
x = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)  # enough for several threads


def bits():
    """What normlib computes, by a team of threads where it may have one."""
    y, mean, rstd = normlib.layer_norm(x, return_stats=True)
    return y.tobytes() + normlib.layer_norm_backward(x, y, mean=mean, rstd=rstd)[0].tobytes()


def of_torch():
    import torch

    torch.set_num_threads(2)
    return torch.nn.functional.layer_norm(torch.from_numpy(x), (512,)).numpy()


def of_sklearn():
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(x[:, :16], x[:64, :16])


def in_a_child():
    """Whether a forked child computes the same; the other library is left alone there."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if bits() == expected else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def in_threads():
    """Whether four threads that take turns with both libraries all compute the same."""
    good = []

    def work():
        good.extend(bits() == expected and np.array_equal(theirs(), wanted) for _ in range(ROUNDS))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(good) == 4 * ROUNDS and all(good)


def runtimes():
    """The OpenMP runtimes in this process: paths of files."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in lines if "/" in line}
    return sorted(path for path in paths if any(name in Path(path).name for name in ("libgomp", "libomp", "libiomp")))


if __name__ == "__main__":
    normlib.set_num_threads(4)
    expected = bits()  # from here on there is a team of threads
    library, when = sys.argv[1:]
    theirs = {"torch": of_torch, "sklearn": of_sklearn}[library]
    wanted = theirs()
    checks = {
        "in turns": lambda: all(bits() == expected and np.array_equal(theirs(), wanted) for _ in range(ROUNDS)),
        "in a child": in_a_child,
        "in threads": in_threads,
        "in a child of one with threads": in_a_child,
    }
    failed = [name for name, check in checks.items() if not check()]
    print(f"{normlib.__file__} beside {library}, {when}: {', '.join(runtimes()) or 'no OpenMP'}")
    sys.exit(f"other bits {', '.join(failed)}" if failed else 0)
