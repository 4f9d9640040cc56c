"""Ctrl-C at any time: answered soon, also during a long call, and no running statistic is left half-updated."""

import gc
import json
import signal
import sys
import threading

import numpy as np
import pytest
from support import LONG, effort, memory, python

import normlib

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")


class Stubborn(np.ndarray):
    """An array whose first assignments work and the next is interrupted."""

    left = 0

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        Stubborn.left -= 1
        if Stubborn.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("op", [op for op in normlib.ops.OPS.values() if op.mode], ids=lambda op: op.name)
@pytest.mark.parametrize("assignment", [1, 2])
def test_between_two_updates(op, assignment):
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    running = {name: np.ones(3).view(Stubborn) for name in ("running_mean", "running_var")}
    Stubborn.left = assignment
    with pytest.raises(KeyboardInterrupt):
        op.forward(x, **running, **{op.mode: True})
    for array in running.values():
        assert (np.asarray(array) == 1).all()


def test_between_the_updates_of_a_layer():
    """The count of batches belongs to the statistics: it says what the next batch weighs."""
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    norm = normlib.BatchNorm(3, momentum=None)
    norm(x)
    before = norm.state_dict()
    norm.num_batches_tracked = norm.num_batches_tracked.view(Stubborn)
    Stubborn.left = 1
    with pytest.raises(KeyboardInterrupt):
        norm(x)
    for name, value in before.items():
        assert np.array_equal(norm.state_dict()[name], value), name
    norm(x)
    assert norm.num_batches_tracked == 2


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread")
def test_at_random_moments(backend, record_property):
    """Signals from another thread while a layer trains: the state is always that of a whole number of batches."""
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    error_state = np.geterr()
    states, norm = {0: normlib.BatchNorm(3, momentum=None).state_dict()}, normlib.BatchNorm(3, momentum=None)
    count, times = 20_000, effort(300, 20_000)
    with normlib.backends.use(backend):
        seen, fell, waits = 0, [], np.random.default_rng(1).uniform(1e-5, 3e-4, times)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        gc.disable()  # JAX has a callback in the collector, and what is raised in a callback is lost
        try:
            for wait in waits:
                norm = normlib.BatchNorm(3, momentum=None)
                try:
                    signal.setitimer(signal.ITIMER_REAL, wait)
                    for _ in range(count):
                        norm(x)
                except KeyboardInterrupt:
                    seen += 1
                batches = int(norm.num_batches_tracked)
                expected = states.get(batches)
                if expected is None:
                    expected = states[batches] = after(x, batches)
                if any(not np.array_equal(value, expected[name]) for name, value in norm.state_dict().items()):
                    fell.append(batches)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gc.enable()
    record_property("tried", times)
    assert seen == times
    assert not fell
    assert np.geterr() == error_state


def after(x, batches):
    norm = normlib.BatchNorm(3, momentum=None)
    for _ in range(batches):
        norm(x)
    return norm.state_dict()


LARGE = """
import json, os, signal, sys, threading, time
import numpy as np
import normlib

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
megabytes, backend = int(sys.argv[1]), sys.argv[2]
normlib.backends.use(backend)
normlib.set_num_threads(1)
rows = megabytes << 8
x = np.full((rows, 1024), 1.5, np.float32)
x[::2] = -1
four = x.reshape(rows >> 4, 16, 32, 32)
running = {"running_mean": np.zeros(16), "running_var": np.ones(16)}
ones = np.ones(1024, np.float32)
mean, rstd = np.zeros(rows), np.ones(rows)
calls = {
    "layer_norm": lambda: normlib.layer_norm(x),
    "layer_norm axis 0": lambda: normlib.layer_norm(x, axis=0),
    "layer_norm reversed": lambda: normlib.layer_norm(x[:, ::-1]),
    "layer_norm_backward": lambda: normlib.layer_norm_backward(x, x, ones, mean=mean, rstd=rstd),
    "rms_norm in place": lambda: normlib.rms_norm(x, out=x),
    "batch_norm": lambda: normlib.batch_norm(four, training=True, **running),
    "batch_norm nhwc": lambda: normlib.batch_norm(four.transpose(0, 2, 3, 1), training=True, channel_axis=3, **running),
    "group_norm mixed axes": lambda: normlib.group_norm(four.transpose(2, 1, 0, 3), 4),
    "instance_norm": lambda: normlib.instance_norm(four),
}
found = {}
for name, call in calls.items():
    for part in (0.1, 0.6):
        before = {n: r.copy() for n, r in running.items()}
        sent = []
        def interrupt():
            sent.append(time.process_time())
            os.kill(os.getpid(), signal.SIGINT)
        timer = threading.Timer(part * float(sys.argv[3]), interrupt)
        timer.start()
        try:
            while True:
                call()
        except KeyboardInterrupt:
            waited = time.process_time() - sent[0]
        timer.join()
        found[name] = max(found.get(name, 0), waited)
        moved = [not np.array_equal(before[n], running[n]) for n in running]
        assert moved[0] == moved[1] and moved[0] <= name.startswith("batch_norm"), (name, moved)
print(json.dumps(found))
"""


def large(megabytes, backend, scale):
    return json.loads(python("-c", LARGE, str(megabytes), backend, str(scale), timeout=1500))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the memory in /proc")
def test_during_a_long_call(record_property):
    """Answered within a second: 1 GB in the campaign, a part of it in the suite."""
    megabytes = effort(128, 1024)
    if LONG and memory() < 10 << 30:
        pytest.skip("needs 10 GB of memory")
    for backend in normlib.backends.available():
        found = large(megabytes // (4 if backend == "numpy" else 1), backend, effort(0.2, 2))
        record_property("tried", 2 * len(found))
        slow = {name: round(seconds, 2) for name, seconds in found.items() if seconds > 1}
        assert not slow, f"{backend}: seconds until Ctrl-C is answered: {slow}"
