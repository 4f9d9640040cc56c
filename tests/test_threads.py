"""How many threads: the setting and its scopes; and that other Python threads go on."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

import normlib

pytestmark = pytest.mark.thread_unsafe(reason="sets the threads of the process")
COMPILED = "cython" in normlib.backends.available()
compiled = pytest.mark.skipif(not COMPILED, reason="without compiled kernels there are no threads")


@pytest.fixture(autouse=True)
def restored():
    before = normlib.get_num_threads()
    yield
    normlib.set_num_threads(before)


def python(code, **environment):
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "NORMLIB_NUM_THREADS")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True, check=False, timeout=120)


class TestSetting:
    def test_for_the_process(self):
        normlib.set_num_threads(3)
        assert normlib.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(normlib.get_num_threads).result() == 3

    def test_for_a_block(self):
        normlib.set_num_threads(3)
        with normlib.num_threads(2):
            with normlib.num_threads(np.int64(5)):
                assert normlib.get_num_threads() == 5
            assert normlib.get_num_threads() == 2
            normlib.set_num_threads(4)  # reaches whoever is in no block
            assert normlib.get_num_threads() == 2
        assert normlib.get_num_threads() == 4

    def test_an_error_ends_the_block(self):
        normlib.set_num_threads(3)
        with pytest.raises(RuntimeError, match="inside"), normlib.num_threads(2):
            raise RuntimeError("inside")
        assert normlib.get_num_threads() == 3

    def test_a_block_is_of_its_thread(self):
        normlib.set_num_threads(3)
        with normlib.num_threads(2), ThreadPoolExecutor(1) as pool:
            assert pool.submit(normlib.get_num_threads).result() == 3

    def test_a_block_is_of_its_task(self):
        async def work(n):
            with normlib.num_threads(n):
                await asyncio.sleep(0)
                return normlib.get_num_threads()

        async def all_at_once():
            return await asyncio.gather(*map(work, (1, 2, 3)))

        assert asyncio.run(all_at_once()) == [1, 2, 3]

    @pytest.mark.parametrize("function", ["set_num_threads", "num_threads"])
    @pytest.mark.parametrize(
        ("n", "error", "text"),
        [
            (0, ValueError, "n is 0, expected 1 to 4096"),
            (-1, ValueError, "n is -1, expected 1 to 4096"),
            (10**30, ValueError, f"n is {10**30}, expected 1 to 4096"),
            (2.0, TypeError, "n is 2.0, expected a whole number of at least 1"),
            ("2", TypeError, "n is '2', expected a whole number of at least 1"),
            (None, TypeError, "n is None, expected a whole number of at least 1"),
            (True, TypeError, "n is True, expected a whole number of at least 1"),
        ],
    )
    def test_what_is_no_number_of_threads(self, function, n, error, text):
        before = normlib.get_num_threads()
        with pytest.raises(error, match=f"^{function}: {text}$"):
            getattr(normlib, function)(n).__enter__()
        assert normlib.get_num_threads() == before


@compiled
class TestStart:
    CODE = "import normlib; print(normlib.get_num_threads())"

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({"NORMLIB_NUM_THREADS": "3"}, "3"),
            ({"OMP_NUM_THREADS": "5"}, "5"),
            ({"NORMLIB_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, "2"),
            ({"NORMLIB_NUM_THREADS": " "}, None),
        ],
    )
    def test_variables(self, environment, expected):
        if normlib.show_config("dicts")["openmp"] is None and "NORMLIB_NUM_THREADS" not in environment:
            pytest.skip("built without OpenMP")
        assert python(self.CODE, **environment).stdout.strip() == (expected or python(self.CODE).stdout.strip())

    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
    def test_a_variable_that_is_no_number(self, value):
        text = f"NORMLIB_NUM_THREADS is '{value}', expected a whole number from 1 to 4096"
        assert text in python(self.CODE, NORMLIB_NUM_THREADS=value).stderr

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
    def test_affinity(self):
        code = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {self.CODE}"
        assert python(code).stdout.strip() == "1"


@pytest.fixture
def guard():
    from normlib._kernels import parallel

    parallel.guard(True)
    yield parallel
    parallel.guard(False)


@compiled
class TestTeamsThatAreHeldUp:
    """A team that takes longer than one thread would have is followed by a pause on one thread."""

    def test_at_first_there_is_no_pause(self, guard):
        assert guard.pause() == (0, 0)

    @pytest.mark.parametrize(("took", "alone"), [(5e-6, 10e-6), (110e-6, 100e-6), (12e-3, 10e-3)])
    def test_a_team_that_pays_or_nearly_so_causes_none(self, guard, took, alone):
        guard.judge(took, alone)
        assert guard.pause() == (0, 0)

    def test_one_that_does_not_causes_one_of_a_few_times_what_was_lost(self, guard):
        guard.judge(0.108, 0.008)
        seconds, steps = guard.pause()
        assert 0.3 < seconds <= 0.4
        assert steps == 4

    def test_the_pause_grows_while_teams_are_held_up_again(self, guard):
        found = []
        for _ in range(6):
            guard.judge(0.0101, 0.0001)
            found.append(guard.pause())
        assert [steps for _, steps in found] == [4, 16, 64, 256, 1024, 1024]
        assert all(b > 3 * a for (a, _), (b, _) in pairwise(found[:4]))
        assert max(seconds for seconds, _ in found) <= 2

    def test_and_is_short_again_after_many_that_were_not(self, guard):
        for _ in range(3):
            guard.judge(0.0101, 0.0001)
        for _ in range(20):
            guard.judge(0.0001, 0.0001)
        guard.judge(0.0101, 0.0001)
        assert guard.pause()[1] == 4

    def test_in_a_pause_no_thread_is_started(self):
        code = """
import os
import numpy as np, normlib
from normlib._kernels import parallel
x = np.ones((4096, 512), np.float32)
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
parallel.judge(1, 1e-6)
with normlib.num_threads(2):
    y = normlib.layer_norm(x)
assert threads() == before
parallel.guard(False)
with normlib.num_threads(2):
    assert normlib.layer_norm(x).tobytes() == y.tobytes()
assert threads() == before + 1
"""
        if not os.path.exists("/proc/self/task") or normlib.show_config("dicts")["openmp"] is None:
            pytest.skip("threads are counted on Linux, with OpenMP")
        found = python(code)
        assert found.returncode == 0, found.stderr

    def test_a_pause_ends_after_its_steps_and_its_time(self, guard):
        x = np.ones((4096, 512), np.float32)
        guard.judge(300e-6, 200e-6)
        with normlib.num_threads(2):
            for left in (3, 2, 1, 0):
                normlib.layer_norm(x)
                assert guard.pause()[1] == left


@compiled
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the size of the process is read on Linux")
def test_a_system_that_refuses_threads_gives_one():
    code = """
import resource
import numpy as np, normlib
x = np.ones((2048, 1024), np.float32)
out = np.empty_like(x)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20),) * 2)  # less than a stack
with normlib.num_threads(8):
    normlib.layer_norm(x, out=out)
assert not out.any()
"""
    found = python(code)
    assert found.returncode == 0, found.stderr


@compiled
def test_other_threads_go_on_while_kernels_run():
    x = np.ones((4096, 2048), np.float32)
    out = np.empty_like(x)

    def other_thread_ran():
        started, ended, found = threading.Event(), threading.Event(), []

        def watch():
            started.wait()
            found.append(not ended.is_set())

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = sys.getswitchinterval()
        sys.setswitchinterval(100)  # from here on the GIL changes hands only where it is released
        try:
            started.set()
            normlib.layer_norm(x, out=out)
            ended.set()
        finally:
            sys.setswitchinterval(before)
        watcher.join()
        return found == [True]

    with normlib.backends.use("cython", strict=True), normlib.num_threads(1):
        assert any(other_thread_ran() for _ in range(50))  # a busy machine may be late to wake a thread
