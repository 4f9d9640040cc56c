"""What the tests of endurance share: how hard they try, and processes of their own for what may hang or crash."""

import os
import signal
import subprocess
import sys

LONG = os.environ.get("NORMLIB_EFFORT") == "long"  # as the campaign sets it, `python tests/trust`


def effort(short, long):
    """How often to try: a little as part of the suite, much in the campaign."""
    return long if LONG else short


def python(*arguments, timeout=120, **environment):
    """Run Python on a script or, after "-c", on code; its output. Fails if it fails or hangs."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments], env=os.environ | environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the children too, which hold the pipes
        process.communicate()
        raise AssertionError(f"no end after {timeout} s: {arguments}") from None
    assert process.returncode == 0, err[-5000:]
    return out


def memory():
    """Bytes of memory that are free to be used."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
