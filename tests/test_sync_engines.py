"""Batch norm over real processes: MPI's and those of torch.distributed."""

import ast
import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support
import sync_ranks

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SCRIPTS = Path(sync_ranks.__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "PYTHONWARNINGS": "ignore",
}


def ended(processes, timeout=60):
    """(exit code, output, errors) of each process; fails if one hangs, and ends it."""
    try:
        found = [(*process.communicate(timeout=timeout), process.returncode) for process in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end after {timeout} s") from None
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    return [(code, out, err) for out, err, code in found]


def start(*command):
    return subprocess.Popen(
        command, env=os.environ | ENVIRONMENT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# -- MPI ----


def mpi(count, *arguments):
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("there is no mpiexec")
    script = [sys.executable, "-m", "mpi4py", str(SCRIPTS / "sync_ranks.py"), *map(str, arguments)]
    return ended([start(str(MPIEXEC), "-n", str(count), *script)])[0]


def test_any_number_of_ranks_of_mpi_gives_the_bits_of_one_process():
    expected = sync_ranks.digest()
    for count in (1, 2, 3, 4):
        code, out, err = mpi(count, "digest")
        assert code == 0, err[-3000:]
        assert out.split() == [expected], count


def test_ranks_of_mpi_that_disagree_are_all_told_so():
    code, out, err = mpi(3, "errors")
    assert code == 0, err[-3000:]
    first, second, third = ast.literal_eval(out)
    assert first == second
    assert third[:3] == first[:3]
    place = "sync.batch_norm: "
    assert first == [
        place + "eps is 1e-05 on rank 0 and 0.001 on rank 2, expected the same on all ranks",
        place + "channels is 3 on rank 0 and 2 on rank 2, expected the same on all ranks",
        place + "dtype is float64 on rank 0 and float32 on rank 2, expected the same on all ranks",
        place + f"rank 2 has failed: {third[3]}",
    ]
    assert third[3] == "batch_norm: x has shape (2,), expected at least 2 axes"


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_rank_of_mpi_that_falls_ends_the_others(how, tmp_path):
    code, _, err = mpi(2, how, tmp_path)
    assert code != 0
    assert how == "kill" or "this rank raises" in err
    x, *_ = sync_ranks.batch(np.float32)
    moved = np.float32(0.1) * x.astype(np.float64).mean(axis=(0, 2))
    for rank in (0, 1):  # as the first step has left it
        np.testing.assert_allclose(np.fromfile(tmp_path / f"mean{rank}", np.float32), moved, rtol=1e-6)
