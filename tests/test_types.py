"""The annotations, by the eyes of type checkers: typed_program.py says what each expression is."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests/scripts/typed_program.py"
CHECKERS = {
    "mypy": ["--strict", "--warn-unused-ignores", "--follow-imports=silent", "--config-file="],
    "pyright": ["--pythonpath", sys.executable],  # wants Node.js, and comes where somebody has installed it
}


@pytest.mark.parametrize("checker", [name for name in CHECKERS if find_spec(name)])
def test_a_typed_program(checker, tmp_path):
    program = tmp_path / PROGRAM.name  # away from the settings and sources of this repository
    program.write_text(f"# pyright: strict\n{PROGRAM.read_text()}")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], program.name]
    # Checkers follow no import hooks, by which an editable install is found.
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    env = os.environ | {"MYPYPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
