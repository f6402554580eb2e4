"""``ftlab reproduce RUN``: the same again, or where it parts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.engine import reproduce as module
from ftlab.engine.reproduce import reproduce, verdict
from ftlab.errors import ConfigError, NotReproducedError, RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from tests.runs import BARE, logged, make_run, train_run

SMALL = (
    "train.max_steps=4", "train.logging_steps=1", "data.max_samples=40", "eval.golden_rows=2", "eval.samples=1",
    "eval.max_new_tokens=4", "train.save_steps=3",
)  # fmt: skip


def again(*words: str) -> None:
    given = ("task=reproduce", f"run.dir={words[0]}", *(f"task.{word}" for word in words[1:]))
    reproduce(make_run(*given), given)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[RunDir, RunDir]:
    """A run with packing and dropout, and the same again."""
    folder = tmp_path_factory.mktemp("reproduce")
    train_run(folder / "a", *SMALL, "lora.dropout=0.2")
    again(str(folder / "a"))
    return RunDir.open(folder / "a"), RunDir.open(folder / "a-reproduced")


@pytest.fixture
def copies(pair, tmp_path) -> tuple[RunDir, RunDir]:
    for one in pair:
        shutil.copytree(one.path, tmp_path / one.path.name, symlinks=True)
    return RunDir.open(tmp_path / "a"), RunDir.open(tmp_path / "a-reproduced")


def change(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def tamper(run_dir: RunDir, step: int, key: str, value: float) -> None:
    lines = list(run_dir.read_metrics())
    next(line for line in lines if line["step"] == step and key in line)[key] = value
    run_dir.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_packed_run_with_dropout_comes_to_the_same(pair):
    first, second = pair
    assert logged(first) == logged(second) and len(logged(first)) > 6
    name = "adapter_model.safetensors"
    assert sha256(first.final / name) == sha256(second.final / name)
    is_equal, lines = verdict(first, second)
    assert is_equal
    assert lines[0].startswith(f"{second.path} is the same as {first.path}, in its weights and in its metrics")
    assert lines[1] == f"  sft: {name} {sha256(first.final / name)[:12]}; {len(logged(first))} logged lines"
    assert lines[-1] == "environment: no difference"
    manifest = second.manifest()
    assert manifest["reproduces"] == {"run": str(first.path), "equal": True}
    assert manifest["rerun"].endswith(f" run.dir={second.path}") and manifest["rerun"].count("run.") == 1
    assert second.log.read_text().endswith("\n".join(lines) + "\n")


@pytest.mark.matrix
def test_a_curriculum_comes_to_the_same(tmp_path, capsys):
    """Of sft and dpo: the second phase starts from what the first one came to in its own run."""
    phases = "phases=[{name: instruct, stage: sft}, {name: prefer, stage: dpo}]"
    given = (phases, *SMALL, *BARE, "train.max_steps=3")
    run_dir = train_run(tmp_path / "b", *given, "run.phases=[instruct]")
    with pytest.raises(
        RunDirError, match=r"is not finished \(its status is stopped\)\. Resume it first: ftlab resume /"
    ):
        again(str(run_dir.path))
    train_run(tmp_path / "b", *given)
    capsys.readouterr()
    again(str(run_dir.path), f"out={tmp_path}/other")
    second = RunDir.open(tmp_path / "other")
    assert list(second.manifest()["phases"]) == ["instruct", "prefer"]
    assert logged(second) == logged(run_dir)
    said = capsys.readouterr().out
    assert re.search(r"  instruct: adapter_model.safetensors [0-9a-f]{12}; \d+ logged lines\n  prefer: adapter_", said)
    adapters = [RunDir.open(tmp_path / name).phase("02-prefer") / "final" for name in ("b", "other")]
    assert len({sha256(folder / "adapter_model.safetensors") for folder in adapters}) == 1
    assert not (tmp_path / "b-reproduced").exists()


def test_what_was_changed_afterwards_is_where_they_part(copies, capsys):
    first, second = copies
    shutil.rmtree(second.path)
    was = next(line["loss"] for line in first.read_metrics() if line["step"] == 3 and "loss" in line)
    tamper(first, 3, "loss", 1.5)
    weights = first.phase("01-sft") / "final" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(NotReproducedError) as caught:
        again(str(first.path))
    assert caught.value.exit_code == 1
    error, out = str(caught.value), " ".join(capsys.readouterr().out.split())
    assert (
        f"{second.path} is not the same as {first.path}:\n  sft: step 3: loss was 1.5 and is {was:.6g} now\n" in error
    )
    assert f"{weights} has changed since the run finished: it was " in error
    assert f"{weights} has changed since the run finished: it was " in out, "said before the work too"
    assert "final weights:" not in error, "those that were trained are equal"
    assert second.manifest()["reproduces"]["equal"] is False


def test_the_first_step_with_all_that_parts_there(copies):
    first, second = copies
    for step, key, value in ((2, "grad_norm", 9.0), (2, "loss", 8.0), (4, "learning_rate", 7.0)):
        tamper(first, step, key, value)
    is_equal, lines = verdict(first, second)
    found = [line for line in lines if line.startswith("  sft: ")]
    assert not is_equal
    assert [re.sub(r"is \S+ now", "is * now", line) for line in found] == [
        "  sft: step 2: loss was 8 and is * now",
        "  sft: step 2: grad_norm was 9 and is * now",
        "  sft: 1 more value parts after step 2",
    ]
    assert lines[-1] == f"More: ftlab diff {first.path} {second.path}"


def test_weights_and_environment_that_differ(copies):
    first, second = copies

    def edit(manifest: dict[str, Any]) -> None:
        manifest["phases"]["sft"]["sha256"]["adapter_model.safetensors"] = "0" * 64
        manifest["packages"]["torch"], manifest["machine"]["threads"] = "1.0", 64
        manifest["starts"].append({"time": "2026-01-02T03:04:05+00:00", "packages": {"peft": "0.1"}})

    change(second.manifest_json, edit)
    is_equal, lines = verdict(first, second)
    real = sha256(first.final / "adapter_model.safetensors")[:12]
    assert not is_equal
    assert f"  sft: final weights: adapter_model.safetensors was {real} and is 000000000000 now" in lines
    assert any(re.fullmatch(r"  packages\.torch was 2\S* and is 1\.0 now", line) for line in lines)
    assert any(re.fullmatch(r"  machine\.threads was \d+ and is 64 now", line) for line in lines)
    assert "  the second run was continued at 2026-01-02T03:04:05+00:00 with another packages.peft" in lines


def test_a_run_that_logged_more_or_ended_earlier(copies):
    first, second = copies
    lines = [line for line in second.read_metrics() if line["step"] < 4]
    lines[-1]["new"] = 1.0
    second.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    is_equal, said = verdict(first, second)
    assert not is_equal
    assert "  sft: it ended at step 4, and at step 3 now" in said
    assert f"  sft: step {lines[-1]['step']}: new was logged only now" in said


# ------------------------------------------------------------------------------------------------ where it runs


def test_one_that_was_stopped_goes_on_and_one_that_is_done_stays(copies, monkeypatch):
    first, _ = copies
    started: list[Path] = []

    def executed(run_dir: RunDir) -> None:
        started.append(run_dir.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_execute", executed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            again(str(first.path))
    third = first.path.with_name("a-reproduced-2")
    assert started == [third, third], "the finished one is passed over; of what has begun no other is made"
    with pytest.raises(RunDirError, match=r"out=.* exists and holds something else"):
        again(str(first.path), f"out={first.path}")


def test_data_that_has_changed(tmp_path, monkeypatch):
    file = tmp_path / "my.jsonl"
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("train.max_steps=1", "eval.samples=0", "data.split.validation=none", f"data.path={file}")
    run_dir = train_run(tmp_path / "run", *given, "data.format=alpaca")
    file.write_text(file.read_text().replace("Say 7.", "Say seven."))
    with pytest.raises(RunDirError, match=rf"{file} has changed since .*/run was trained, .* with force=true"):
        again(str(run_dir.path))
    assert not (tmp_path / "run-reproduced").exists()
    with pytest.raises(NotReproducedError, match="is not the same as"):
        again(str(run_dir.path), "force=true")


def test_a_run_must_be_named_and_keeps_its_config(tmp_path):
    with pytest.raises(ConfigError, match="ftlab reproduce needs a run directory"):
        reproduce(make_run("task=reproduce"), ("task=reproduce",))
    given = ("task=reproduce", "run.dir=x", "seed=3")
    with pytest.raises(ConfigError, match=r"seed=3: ftlab reproduce takes everything from the run's own"):
        reproduce(make_run(*given), given)
    with pytest.raises(RunDirError, match="x is no run directory"):
        again(f"{tmp_path}/x")
