"""Run directories damaged by hand, file by file: told in one message, or put back; never a traceback, and never other
weights or a lost file."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from ftlab.errors import RunDirError
from ftlab.rundir import seals
from ftlab.rundir.checkpoints import checkpoints, flaw, step_of
from ftlab.rundir.directory import RunDir
from tests.fuzz.runs import READERS, STARTS, Runs, make_runs
from tests.runs import final_hash, logged, train_run

FILES = (
    "run.yaml", "manifest.json", "metrics.jsonl", "data/sft.json", "samples/sft-before.json",
    "samples/sft-step-2.json", ".lock", "log.txt",
)  # fmt: skip
FOLDERS = ("data", "samples", "phases", "phases/01-sft", "tensorboard", "final")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("damage"))


def wrong_types(text: str) -> str:
    """Every value of the first object in a file of another type."""
    try:
        first = json.loads(text if text.startswith("{\n") else text.splitlines()[0])
    except (ValueError, IndexError):  # a log, or a lock that is empty
        return "7"
    return json.dumps({key: 7 if isinstance(value, list) else [None] for key, value in first.items()})


def put(path, damage: str) -> None:
    """Damage what is at ``path``; it is a file, a folder or nothing."""
    content = path.read_bytes() if path.is_file() else b"{}"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "nowhere":
        path.symlink_to("nowhere")
    elif damage == "loop":
        path.symlink_to(path)
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "types":
        path.write_text(wrong_types(content.decode()) + "\n" if path.suffix != ".yaml" else "phases: 7\n")
    elif damage != "gone":
        written = {"empty": b"", "half": content[: len(content) // 2], "garbage": b"\xff\x00[[{\n", "list": b"[1]\n",
                   "number": b"7\n", "null": b"null\n", "deep": b"[" * 100_000 + b"\n", "file": b"x"}  # fmt: skip
        path.write_bytes(written[damage])


DAMAGES = ("empty", "half", "garbage", "list", "number", "null", "deep", "types", "folder", "nowhere", "loop", "pipe",
           "gone")  # fmt: skip


@pytest.mark.parametrize("kind", ["finished", pytest.param("stopped", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("file", [file for file in FILES if file not in (".lock", "log.txt")])
def test_what_only_looks_at_a_damaged_run_tells_it(runs, kind, file):
    for damage in DAMAGES:
        run_dir = runs.copy(kind)
        if not (run_dir.path / file).exists() and damage in ("half", "types"):
            continue
        put(run_dir.path / file, damage)
        for command in ("ls", "ls json", "diff"):
            said = runs.told(command)
            if file == "run.yaml" or (file in ("manifest.json", "metrics.jsonl") and damage in ("types", "pipe")):
                assert file in said, (damage, command, said)


def test_lines_that_were_lost_are_put_back_from_the_checkpoint(runs):
    """Shortened, emptied, full of garbage or gone: the lines are those of the run that was left alone."""
    for damage in ("half", "empty", "garbage", "gone"):
        run_dir = runs.copy("stopped")
        put(run_dir.metrics, damage)
        said = " ".join(runs.told("train").split())
        assert said.count("had lost or changed lines: put back from") == 1, (damage, said)
        assert logged(run_dir) == logged(RunDir(runs.finished)), damage
        assert final_hash(run_dir) == runs.hash


def test_what_was_measured_before_training_is_logged_again_where_no_checkpoint_has_it(runs):
    """Torn checkpoints, and metrics of another kind: the run begins anew, and its lines are all there."""
    run_dir = runs.copy("stopped")
    for checkpoint in checkpoints(run_dir.phase("01-sft")):
        (checkpoint / "optimizer.pt").write_bytes(b"half")
    run_dir.metrics.write_text("[]")
    runs.told("train")
    assert final_hash(run_dir) == runs.hash
    assert logged(run_dir) == logged(RunDir(runs.finished))


@pytest.mark.parametrize("change", ["train.learning_rate=0.05", "seed=9", "lora.alpha=64"])
def test_a_run_is_known_by_its_checkpoints_where_its_metrics_are_gone(runs, change):
    run_dir = runs.copy("stopped")
    run_dir.metrics.unlink()
    before = sorted(path for path in runs.folder.rglob("*"))
    with pytest.raises(RunDirError, match="holds another run"):
        train_run(runs.folder, *runs.given[:-1], change)
    assert sorted(path for path in runs.folder.rglob("*")) == before


def test_what_only_looks_like_a_checkpoint_is_passed_over_and_said(runs):
    run_dir = runs.copy("stopped")
    folder = run_dir.phase("01-sft")
    newest = checkpoints(folder)[0]
    (folder / "checkpoint-100").symlink_to(newest.name)
    (folder / "checkpoint-90").write_bytes(b"")
    (folder / "checkpoint-80").symlink_to("checkpoint-80")
    shutil.copytree(newest, folder / "checkpoint-70")
    shutil.copytree(newest, folder / "checkpoint-007")
    said = " ".join(runs.told("resume").split())
    for name, reason in (
        ("100", "is a link, no checkpoint"), ("90", "is a file, no checkpoint"), ("80", "is a link, no checkpoint"),
        ("70", f"is of step {step_of(newest)}"), ("007", "has no name of a checkpoint"),
    ):  # fmt: skip
        assert said.count(f"checkpoint-{name} {reason}") == 1, said
    assert f"continuing from {newest}" in said
    assert {path.name for path in (folder / "set_aside").iterdir()} == {
        f"checkpoint-{step}" for step in (70, 80, 90, 100)
    }
    assert final_hash(run_dir) == runs.hash and logged(run_dir) == logged(RunDir(runs.finished))


@pytest.mark.parametrize("lost", ["optimizer.pt", "rng_state.pth", "scheduler.pt", "counters.pt", "*"])
def test_a_manifest_that_names_less_than_a_run_needs_seals_nothing(runs, lost):
    checkpoint = checkpoints(runs.copy("stopped").phase("01-sft"))[0]
    manifest = checkpoint / "checkpoint.json"
    values = json.loads(manifest.read_text())
    gone = [name for name in values["sha256"] if lost in (name, "*")]
    for name in gone:
        del values["sha256"][name]
    if lost != "*":
        (checkpoint / lost).unlink()
    manifest.write_text(json.dumps(values))
    assert "is torn" in str(flaw(checkpoint, "sft")), "the hash over the list tells"
    manifest.unlink()
    seals.seal_folder(checkpoint, manifest.name)  # with the hashes of what is left: sealed, and still not whole
    if lost == "*":
        for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
            path.unlink()
        seals.seal_folder(checkpoint, manifest.name)
    assert "is not whole (its checkpoint.json names no " in str(flaw(checkpoint, "sft"))


def test_what_stands_in_a_files_or_folders_place_is_told_once_and_left_alone(runs):
    for name, damage in (
        (".lock", "folder"), (".lock", "pipe"), ("log.txt", "folder"), ("log.txt", "nowhere"), ("samples", "file"),
        ("phases", "file"), ("phases/01-sft", "file"), ("tensorboard", "file"), ("data", "loop"),
    ):  # fmt: skip
        run_dir = runs.copy("stopped")
        put(run_dir.path / name, damage)
        for command in ("resume", "train"):
            said = runs.told(command)
            assert said.count(str(run_dir.path / name)) == 1 and "Move it away" in said, (name, damage, said)
            assert "Traceback" not in said and run_dir.run_yaml.is_file()


def test_a_copy_without_links_is_finished(runs):
    """``cp -rL`` makes a folder of ``final``: it gives way to the link, and other weights in it are kept."""
    run_dir = runs.copy("stopped")
    shutil.copytree(RunDir(runs.finished).phase("01-sft") / "final", run_dir.final)
    assert "moved to" not in runs.told("resume")
    assert run_dir.final.is_symlink() and final_hash(run_dir) == runs.hash
    run_dir = runs.copy("stopped")
    run_dir.final.mkdir()
    (run_dir.final / "adapter_model.safetensors").write_bytes(b"other")
    assert f"moved to {runs.folder}/set_aside/final" in " ".join(runs.told("resume").split())
    assert (runs.folder / "set_aside" / "final" / "adapter_model.safetensors").read_bytes() == b"other"
    assert final_hash(run_dir) == runs.hash


def test_final_weights_that_were_changed_are_told_by_the_same_command(runs):
    run_dir = runs.copy("finished")
    (run_dir.final / "adapter_model.safetensors").write_bytes(b"other")
    said = " ".join(runs.told("train").split())
    assert "adapter_model.safetensors has changed since the run finished" in said
    assert f"Put a copy back, or make them again, beside this run: ftlab reproduce {runs.folder}" in said


@pytest.mark.parametrize("damage", ["gone", "loop", "folder"])
def test_what_leads_to_the_final_weights_is_put_back(runs, damage):
    run_dir = runs.copy("finished")
    put(run_dir.final, damage)
    said = " ".join(runs.told("train").split())
    assert said.count(f"{run_dir.final} did not lead to {run_dir.path}/phases/01-sft/final: put back") == 1
    assert run_dir.final.is_symlink() and final_hash(run_dir) == runs.hash
    assert (run_dir.path / "set_aside" / "final").exists() == (damage == "folder")
    assert "put back" not in runs.told("train")


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["stopped", "finished"])
@pytest.mark.parametrize("file", FILES + FOLDERS)
def test_every_command_on_every_damage(runs, kind, file):
    for damage in (*DAMAGES, "file"):
        for command in READERS + STARTS:
            run_dir = runs.copy(kind)
            if not (run_dir.path / file).is_file() and damage in ("half", "types"):
                continue
            put(run_dir.path / file, damage)
            try:
                said = runs.told(command)
            except Exception as error:
                raise AssertionError(f"{kind} {file} {damage} {command}") from error
            if (runs.folder / "final" / "adapter_model.safetensors").is_file():
                assert final_hash(RunDir(runs.folder)) == runs.hash, (kind, file, damage, command, said)
