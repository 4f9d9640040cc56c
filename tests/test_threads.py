"""How many threads: the setting and its scopes; and that other Python threads go on."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
