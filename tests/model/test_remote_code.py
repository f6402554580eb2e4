"""Python that a model's folder brings runs only where the user says so, and never for a command that reads a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.errors import FtlabError, NotReadyError
from ftlab.model.tokenizer import load_tokenizer
from ftlab.policy.from_run import load_policy
from ftlab.use.inspect.command import inspect
from tests.conftest import ROOT
from tests.runs import BARE, make_run, train_run

CODE = """
from pathlib import Path
from transformers import {base}
{also}
Path({trace!r}).touch()
class {name}({base}):
    {body}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The embedded model as one whose family only its own code knows: each file leaves a trace where it runs."""
    folder = tmp_path_factory.mktemp("remote") / "model"
    shutil.copytree(ROOT / "models" / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"].title()
    for name, base, also, body in (
        ("OwnConfig", f"{family}Config", "", "model_type = 'of_its_own'"),
        ("OwnModel", f"{family}ForCausalLM", "from .ownconfig import OwnConfig", "config_class = OwnConfig"),
    ):
        trace = str(folder / f"{name}.trace")
        code = CODE.format(base=base, also=also, trace=trace, name=name, body=body)
        (folder / f"{name.lower()}.py").write_text(code)
    config |= {
        "model_type": "of_its_own",
        "auto_map": {"AutoConfig": "ownconfig.OwnConfig", "AutoModelForCausalLM": "ownmodel.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def modules(tmp_path_factory, monkeypatch):
    """A folder of its own for the modules that transformers copies."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))


def traces(model: Path) -> list[str]:
    found = sorted(path.name for path in model.glob("*.trace"))
    for name in found:
        (model / name).unlink()
    return found


def test_code_of_a_folder_is_refused_before_torch_is_imported(model, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "ftlab", "model=local", f"model.path={model}", "run.name=x"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1
    assert f"model.path={model} brings its own code (ownconfig.py, ownmodel.py), which would run as you" in done.stderr
    assert "model.trust_remote_code=true" in done.stderr
    assert "| torch\n" not in done.stderr
    assert traces(model) == []


def test_typed_it_runs_and_is_told_once_and_commands_that_read_the_run_leave_it_alone(model, tmp_path, capsys):
    given = ("model=local", f"model.path={model}", "model.trust_remote_code=true", *BARE)
    given = (*given, "train.max_steps=1", "data.max_samples=8", "data.max_length=256")
    run_dir = train_run(tmp_path / "run", *given)
    assert traces(model) == ["OwnConfig.trace", "OwnModel.trace"]
    told = [line for line in run_dir.log.read_text().splitlines() if "trust_remote_code" in line]
    assert told == [f"model.trust_remote_code=true: runs ownconfig.py, ownmodel.py of {model}"]
    overrides = ("task=inspect", f"run.dir={run_dir.path}")
    for read in (lambda: inspect(make_run(*overrides), overrides), lambda: load_policy(run_dir.path)):
        for module in [name for name in sys.modules if name.startswith("transformers_modules")]:
            del sys.modules[module]
        try:
            read()
        except FtlabError as error:
            assert "brings its own code (ownconfig.py, ownmodel.py)" in str(error)
        assert traces(model) == []


def test_code_is_not_needed_where_transformers_knows_the_family(model, tmp_path):
    known = tmp_path / "known"
    shutil.copytree(model, known)
    config = json.loads((known / "config.json").read_text())
    config["model_type"] = json.loads((ROOT / "models" / "tiny" / "config.json").read_text())["model_type"]
    (known / "config.json").write_text(json.dumps(config))
    train_run(tmp_path / "run", f"model.path={known}", *BARE, "train.max_steps=1", "data.max_samples=8")
    assert traces(model) == traces(known) == []


def test_code_of_a_tokenizer_is_refused_in_words(model, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(ROOT / "models" / "tiny", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    trace = folder / "ran.trace"
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    try:
        load_tokenizer(make_run(f"model.path={folder}").model)  # the fast one that tokenizer.json holds
    except NotReadyError as error:
        assert "brings its own code (own.py)" in str(error)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["baichuan2_7b", "chatglm3_6b", "internlm2_7b"])
def test_no_recipe_trusts_a_repository(name):
    assert make_run(f"model={name}").model.trust_remote_code is False
