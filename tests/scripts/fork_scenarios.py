"""What test_forks.py runs, each in a process of its own: what fails here hangs.

python fork_scenarios.py SCENARIO [torch before | torch after]
"""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

if sys.argv[2:] == ["torch before"]:
    import torch

import numpy as np

import normlib

x = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)  # enough for four threads


def digest(_=None):
    """The bits of a forward and a backward call that use threads where they may."""
    normlib.set_num_threads(4)
    y, mean, rstd = normlib.layer_norm(x, return_stats=True)
    dx, *_ = normlib.layer_norm_backward(x, y, mean=mean, rstd=rstd)
    return hash((y.tobytes(), dx.tobytes(), normlib.batch_norm(x).tobytes()))


def child(work):
    """Whether `work` is true in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def same():
    return digest() == expected


def grandchildren():
    return all(child(lambda: same() and child(lambda: same() and child(same))) and same() for _ in range(3))


def pool(method):
    """The hash of bytes differs from process to process, unless PYTHONHASHSEED says otherwise."""
    context = multiprocessing.get_context(method)
    with context.Pool(2) as workers:
        good = set(workers.map(digest, range(6))) == {expected}
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        return good and set(workers.map(digest, range(4))) == {expected}


def meanwhile(work):
    """Fork while other threads do `work`, over and over."""
    ended = threading.Event()

    def loop():
        while not ended.is_set():
            work()

    threads = [threading.Thread(target=loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    good = all(child(lambda: same() and child(same)) for _ in range(5))
    ended.set()
    for thread in threads:
        thread.join()
    return good and same()


def choose():
    with normlib.backends.use("numpy"), normlib.num_threads(2):
        normlib.backends.available()


def chosen():
    choose()
    return True


def locked():
    """Fork while another thread holds the lock of the registry."""
    held, ended = threading.Event(), threading.Event()

    def hold():
        with normlib.backends._lock:
            held.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    good = child(lambda: chosen() and child(chosen))
    ended.set()
    thread.join()
    return good and chosen()


SCENARIOS = {
    "grandchildren": grandchildren,
    "pool by fork": lambda: pool("fork"),
    "pool by spawn": lambda: pool("spawn"),
    "pool by forkserver": lambda: pool("forkserver"),
    "fork inside a call": lambda: meanwhile(digest),
    "fork inside a choice": lambda: meanwhile(choose),
    "fork with the lock held": locked,
}

if __name__ == "__main__":
    expected = digest()  # from here on there is a team of threads
    if sys.argv[2:] == ["torch after"]:
        import torch
    if sys.argv[2:]:  # torch has threads of its own, from an OpenMP library of its own
        torch.set_num_threads(2)
        torch.nn.functional.layer_norm(torch.ones(1024, 512), (512,))
    sys.exit(0 if SCENARIOS[sys.argv[1]]() else "a child failed, or its bits differ")
