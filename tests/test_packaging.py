"""The wheel and the editable install, each in an empty environment, used from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("train.max_steps=2", "eval.golden_rows=4", "eval.samples=2", "run.name=first")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def call(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def installed(folder: Path, *what: str) -> Path:
    """An environment with nothing but ``what`` and its dependencies; returns its folder of programs."""
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    call(*pip, "torch", cwd=folder)  # first and alone, so that nothing else chooses its build
    call(*pip, *what, cwd=folder)
    return folder / "bin"


def trains(programs: Path, elsewhere: Path) -> RunDir:
    elsewhere.mkdir()
    assert "validation loss" in call(programs / "ftlab", *SHORT, cwd=elsewhere)
    run_dir = RunDir.open(elsewhere / "outputs" / "first")
    assert run_dir.manifest()["status"] == "finished"
    assert (run_dir.final / "adapter_model.safetensors").is_file()
    return run_dir


def completes(programs: Path, line: str, cwd: Path) -> list[str]:
    """What bash offers for ``line`` after ``eval "$(ftlab -sc install=bash)"``."""
    script = f"""
        export PATH="{programs}:$PATH"
        eval "$(ftlab -sc install=bash)"
        COMP_LINE="{line}" COMP_POINT={len(line)} COMP_WORDS=({line}) COMP_CWORD=1
        $(complete -p ftlab | sed 's/.*-F \\([^ ]*\\).*/\\1/') ftlab
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return call("bash", "-c", script, cwd=cwd).split()


def test_wheel_trains_from_another_folder_and_completes(tmp_path):
    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    programs = installed(tmp_path / "env", str(wheel))
    call(programs / "python", "-c", "import hydra_plugins.ftlab_launchers.slurm", cwd=tmp_path)
    run_dir = trains(programs, tmp_path / "elsewhere")
    config = run_dir.plan().phases[0].config
    assert str(tmp_path / "env") in config.model.path
    assert str(tmp_path / "env") in config.data.registry
    assert completes(programs, "ftlab method=ql", tmp_path) == ["method=qlora"]
    assert "train.learning_rate=" in completes(programs, "ftlab train.learn", tmp_path)


def test_editable_install_trains_from_another_folder(tmp_path):
    programs = installed(tmp_path / "env", "-e", str(ROOT))
    call(programs / "python", "-c", "import hydra_plugins.ftlab_launchers.slurm", cwd=tmp_path)
    run_dir = trains(programs, tmp_path / "elsewhere")
    assert run_dir.plan().phases[0].config.model.path == str(ROOT / "models" / "tiny")
