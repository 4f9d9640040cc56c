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
import sync_ranks

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SCRIPTS = Path(sync_ranks.__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "PYTHONWARNINGS": "ignore",
}


def ended(processes, timeout=120):
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


# -- torch.distributed ----


@pytest.fixture(scope="module")
def sync_torch():
    pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    import sync_torch

    return sync_torch


@pytest.fixture(scope="module")
def gloo(sync_torch, tmp_path_factory):
    """What two processes have found, the second of which is killed in the end; and what the first was told then."""
    directory = tmp_path_factory.mktemp("gloo")
    script = str(SCRIPTS / "sync_torch.py")
    processes = [start(sys.executable, script, str(rank), "2", str(directory)) for rank in (0, 1)]
    (code, _, err), (killed, _, other) = ended(processes)
    assert code == 0, err[-3000:]
    assert killed == -signal.SIGKILL, other[-3000:]
    found = []
    for rank in (0, 1):
        with np.load(directory / f"rank{rank}.npz") as file:
            found.append(dict(file))
    return found, (directory / "survivor").read_text()


@pytest.fixture
def one_thread(sync_torch):
    """And the same start for all."""
    before = sync_torch.torch.get_num_threads()
    sync_torch.torch.set_num_threads(1)
    yield
    sync_torch.torch.set_num_threads(before)


def part(found, prefix):
    return {name.removeprefix(prefix): array for name, array in found.items() if name.startswith(prefix)}


def compared(ranks, whole, joined=("y", "dx")):
    """Shares put together are the whole; the rest is the same everywhere: to the bit."""
    for name, expected in whole.items():
        found = [rank[name] for rank in ranks]
        for array in [np.concatenate(found)] if name in joined else found:
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape), name
            assert array.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", ["even", "uneven", "empty"])
def test_two_processes_of_torch_give_the_bits_of_one(sizes, dtype, gloo, sync_torch, one_thread):
    """By torch's own SyncBatchNorm, which refuses the CPU without us."""
    whole = sync_torch.module(dtype=sync_torch.DTYPES[dtype])
    assert {"y", "dx", "running_mean", "running_var", "grad_weight", "grad_bias"} <= whole.keys()
    compared([part(rank, f"{sizes}.{dtype}.") for rank in gloo[0]], whole)


@pytest.mark.parametrize("name", ["plain", "without"])
def test_without_parameters_or_running_statistics_too(name, gloo, sync_torch, one_thread):
    compared([part(rank, f"{name}.") for rank in gloo[0]], sync_torch.module(**sync_torch.OPTIONS[name]))


@pytest.mark.parametrize("channels", ["3", "500"])
def test_a_process_group_of_torch_serves_for_arrays(channels, gloo, sync_torch):
    compared([part(rank, f"{channels}.") for rank in gloo[0]], part(sync_torch.arrays(), f"{channels}."))


def test_training_in_two_processes_is_training_in_one(gloo, sync_torch, one_thread):
    """Losses to rounding. A norm whose input no other rounding has touched: to the bit, its output as long as its
    weight was not learned from losses, its running statistics all the way."""
    whole, (first, second) = sync_torch.training(), [part(rank, "training.") for rank in gloo[0]]
    bits = {f"{name}{step}" for name in ("mean", "var") for step in range(4)} | {"normalized"}
    compared((first, second), {name: whole[name] for name in bits}, joined=("normalized",))
    losses = (first["losses"] + second["losses"]) / 2
    np.testing.assert_allclose(losses, whole["losses"], rtol=1e-5)
    for name, expected in whole.items():
        if name.startswith("learned."):
            assert first[name].tobytes() == second[name].tobytes(), name
            np.testing.assert_allclose(first[name], expected, rtol=1e-4, atol=1e-5)


def test_processes_of_torch_that_disagree_are_all_told_so(gloo):
    first, second = (str(rank["disagreement"]) for rank in gloo[0])
    words = "eps is 1e-05 on rank 0 and 0.001 on rank 1, expected the same on all ranks"
    assert first == second == f"sync.batch_norm: {words}"


def test_a_process_of_torch_that_is_killed_ends_the_step_of_the_others(gloo):
    """With an error, and with running statistics as they were, which the process itself has checked."""
    assert "Gloo" in gloo[1] or "Connection" in gloo[1] or "imed out" in gloo[1]


def stepped(model, sync_torch):
    x, _ = sync_torch.images()
    return model(x).detach().numpy().tobytes()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_share_too(again, sync_torch, one_thread):
    torch, nt = sync_torch.torch, pytest.importorskip("normlib.interop.torch")
    torch.manual_seed(0)
    model = nt.accelerate(sync_torch.Model(), sync=True)
    other, state = again(model), {name: t.clone() for name, t in model.state_dict().items()}
    assert type(other.first) is type(model.first)
    assert stepped(other, sync_torch) == stepped(model, sync_torch)
    assert list(other.state_dict()) == list(state)
    model.load_state_dict(state)
    other.load_state_dict(state)
    assert stepped(other, sync_torch) == stepped(model, sync_torch)


def test_restore_and_what_was_accelerated_before(sync_torch, one_thread):
    torch, nt = sync_torch.torch, pytest.importorskip("normlib.interop.torch")
    before = sync_torch.Model()
    plain, state = copy.deepcopy(before), list(before.state_dict())
    model = nt.accelerate(nt.accelerate(before), sync=True)
    shared = stepped(model, sync_torch)
    assert shared == stepped(nt.accelerate(copy.deepcopy(plain), sync=True), sync_torch)
    assert nt.restore(model) is before
    assert type(model.first) is torch.nn.BatchNorm2d
    assert list(model.state_dict()) == state
    model.load_state_dict(plain.state_dict())
    assert stepped(model, sync_torch) == stepped(plain, sync_torch)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_in_one_process_it_is_the_batch_norm_of_torch(options, sync_torch, one_thread):
    torch, nt = sync_torch.torch, pytest.importorskip("normlib.interop.torch")
    own = torch.nn.BatchNorm2d(sync_torch.C, **options)
    norms = own, nt.accelerate(copy.deepcopy(own), sync=True)
    for step in (0, 1):
        (x, _), (dy, _) = sync_torch.images(step), sync_torch.images(2)
        found = []
        for norm in norms:
            x = x.clone().detach().requires_grad_()
            y = norm(x)
            y.backward(dy)
            found.append([y.detach(), x.grad, *norm.state_dict().values(), *(p.grad for p in norm.parameters())])
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=2e-4)  # sums of 300 terms


def test_evaluation_shares_nothing(sync_torch, one_thread):
    """The output is that of a batch norm; a sample gets the same, whoever is beside it."""
    nt = pytest.importorskip("normlib.interop.torch")
    x, _ = sync_torch.images()
    norm = sync_torch.torch.nn.BatchNorm2d(sync_torch.C)
    norm(x)
    expected = norm.eval()(x)
    found = nt.accelerate(norm, sync=True)(x)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-6, atol=1e-6)
    assert found[:1].equal(norm(x[:1]))
