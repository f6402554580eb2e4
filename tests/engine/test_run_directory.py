"""What a finished run leaves behind, looked at as its user would."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.config.paths import shipped
from ftlab.engine import starts
from ftlab.errors import RunDirError
from ftlab.measure.generate import generate
from ftlab.planning import make_plan
from ftlab.rundir.checkpoints import is_whole
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.manifest import Manifest
from tests.conftest import ROOT
from tests.runs import (
    FAST,
    FEW,
    create_run,
    final_hash,
    held_out,
    interrupted_run,
    logged,
    make_run,
    metrics,
    resume_run,
    train_run,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("run") / "r", *FAST, FEW, "train.save_steps=2", "eval.steps=3", "seed=7")


def test_run_yaml_holds_every_value(run_dir):
    plan = yaml.safe_load(run_dir.run_yaml.read_text())
    config = plan["phases"][0]["config"]
    assert (config["seed"], config["train"]["learning_rate"], config["lora"]["r"]) == (7, 0.001, 16)
    assert "${" not in run_dir.run_yaml.read_text()


def test_manifest_says_what_was_done_and_how_to_do_it_again(run_dir):
    manifest = run_dir.manifest()
    assert manifest["status"] == "finished"
    assert manifest["rerun"].startswith("ftlab eval.golden_rows=4")
    assert manifest["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in manifest["packages"]["torch"]
    result = manifest["phases"]["sft"]
    assert result["steps"] == 6
    assert result["parameters"]["trainable"] < result["parameters"]["total"]
    assert result["sha256"]["adapter_model.safetensors"] == sha256(run_dir.final / "adapter_model.safetensors")


def test_manifest_says_where_when_and_on_what(run_dir):
    manifest = run_dir.manifest()
    began = datetime.fromisoformat(manifest["began"])
    assert began.timestamp() <= next(run_dir.read_metrics())["time"] and began.tzinfo is not None
    assert manifest["starts"] == [{"time": manifest["began"]}], "resuming what is finished is no start"
    machine = manifest["machine"]
    assert machine["cpus"] == os.cpu_count() and machine["threads"] == torch.get_num_threads()
    assert machine["cpu"] and machine["memory_gb"] > 0.5
    assert manifest["folder"] == str(Path.cwd())
    ledger = json.loads((run_dir.path / manifest["data"]["sft"]["ledger"]).read_text())
    hashes = "\n".join(sorted(ledger["sha256"].values()))
    assert manifest["data"]["sft"]["sha256"] == hashlib.sha256(hashes.encode()).hexdigest()
    assert manifest["data"]["sft"]["files"] == len(ledger["sha256"])


# ------------------------------------------------------------------------------------------------ code and starts


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder under git, in which a run is started; ``git("commit", ...)``."""
    here = tmp_path / "repository"
    here.mkdir()
    monkeypatch.chdir(here)
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)

    def git(*words):
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q")
    Path("rewards.py").write_text("one = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git


@pytest.fixture(scope="module")
def plan():
    return make_plan(make_run("run.name=mine"), ("run.name=mine",))


def started(plan):
    run_dir = create_run(plan)
    starts.record_start(run_dir, plan, Manifest(run_dir))
    return run_dir


def test_a_clean_tree_is_its_commit(repository, plan):
    run_dir = started(plan)
    assert run_dir.manifest()["git"] == {"commit": repository("rev-parse", "HEAD"), "dirty": False}
    assert not (run_dir.path / "git.diff").exists()
    own = run_dir.manifest()["ftlab_git"]
    if own is not None:
        assert re.fullmatch("[0-9a-f]{40}", own["commit"]) and own["commit"] != repository("rev-parse", "HEAD")


def test_changes_are_kept_without_secrets_and_can_be_applied(repository, plan):
    key = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
    Path("rewards.py").write_text("one = 2\n")
    Path("notes.txt").write_text("not tracked")
    run_dir = started(plan)
    diff = (run_dir.path / "git.diff").read_text()
    found = run_dir.manifest()["git"]
    assert (found["dirty"], found["diff"]) == (True, "git.diff")
    assert "-one = 1\n+one = 2\n" in diff and "# not tracked: notes.txt\n" in diff
    assert "outputs/mine" not in repository("status", "--short", "--untracked-files=no"), "a run writes no tracked file"
    repository("checkout", "-q", "rewards.py")
    repository("apply", str(run_dir.path / "git.diff"))
    assert Path("rewards.py").read_text() == "one = 2\n"
    Path("rewards.py").write_text(f"one = 2\ntoken = '{key}'\nthree = 3\n")
    later = started(make_plan(make_run("run.name=other"), ()))
    diff = (later.path / "git.diff").read_text()
    assert key[5:] not in diff and "+<redacted: Hugging Face token>\n+three = 3\n" in diff
    assert later.manifest()["git"]["diff_sha256"] != found["diff_sha256"]


def test_long_changes_are_cut_and_that_is_said(repository, plan, monkeypatch):
    monkeypatch.setattr(starts, "DIFF_BYTES", 2000)
    Path("rewards.py").write_text("".join(f"line {n}\n" for n in range(1000)))
    diff = (started(plan).path / "git.diff").read_text()
    assert 1500 < len(diff.encode()) < 2200
    assert re.search(r"\n# cut here: [\d,]+ bytes in all, of which 2,000 are kept\n$", diff)


def test_each_start_has_its_time_and_what_differs_from_the_first(repository, plan, monkeypatch):
    first = started(plan).manifest()
    assert started(plan).manifest()["starts"][1].keys() == {"time"}
    Path("rewards.py").write_text("one = 2\n")
    monkeypatch.setattr(starts, "__version__", "9.9")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run_dir = started(plan)
    finally:
        torch.set_num_threads(threads)
    manifest = run_dir.manifest()
    times = [start.pop("time") for start in manifest["starts"]]
    assert manifest["began"] == first["began"] == times[0] and times == sorted(times) and len(times) == 3
    assert {key: manifest[key] for key in first if key != "starts"} == {k: v for k, v in first.items() if k != "starts"}
    differs = manifest["starts"][2]
    assert differs.pop("git").keys() == {"dirty", "diff_sha256", "diff"}
    assert differs == {"ftlab": "9.9", "machine": {"threads": threads + 1}}
    assert "+one = 2" in (run_dir.path / "git-3.diff").read_text() and not (run_dir.path / "git.diff").exists()


def test_without_a_repository(tmp_path, plan, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert started(plan).manifest()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert started(plan).manifest()["git"] is None


# ------------------------------------------------------------------------------------------------ the newest run


def test_latest_is_the_run_that_was_started_last(tmp_path, plan, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latest = tmp_path / "outputs" / "latest"
    mine = started(plan)
    assert latest.readlink() == Path("mine")
    other = started(make_plan(make_run("run.name=other"), ()))
    assert latest.resolve() == other.path.resolve()
    started(make_plan(make_run("run.dir=outputs/own"), ()))
    assert latest.readlink() == Path("other"), "a folder of one's own is nobody's latest"
    assert RunDir.open(Path("outputs/latest")).path == Path("outputs/other"), "by the name that stays"
    other.remove()
    assert not latest.is_symlink() and not other.path.exists()
    starts.record_start(mine, plan, Manifest(mine))
    assert latest.readlink() == Path("mine")
    assert sorted(path.name for path in latest.parent.iterdir()) == ["latest", "mine", "own"]
    with pytest.raises(RunDirError, match="outputs/latest is a link to the run that was started last"):
        create_run(make_plan(make_run("run.name=latest"), ()))


def test_latest_leaves_what_is_somebodys_and_file_systems_without_links_alone(tmp_path, plan, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(*_):
        raise PermissionError("no links here")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        started(plan)
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["mine"]
    (tmp_path / "outputs" / "latest").mkdir()
    started(plan)
    assert not (tmp_path / "outputs" / "latest").is_symlink()


def test_metrics_have_every_step_once_and_in_order(run_dir):
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 3, 6]
    assert [line["step"] for line in lines if "golden_exact_match" in line] == [0, 6]
    tokens = [line["tokens"] for line in lines if "loss" in line]
    assert tokens == sorted(set(tokens))


def test_tensorboard_has_the_losses_of_metrics_jsonl(run_dir):
    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    seen = {event.step: event.value for event in events.Scalars("train/loss")}
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    assert list(seen.values()) == pytest.approx(metrics(run_dir, "loss"), rel=1e-6)


def test_ledger_adds_up_and_names_its_files_by_hash(run_dir):
    ledger = json.loads(run_dir.ledger("sft").read_text())
    train = ledger["splits"]["train"]
    assert train["rows"]["in"] == train["rows"]["kept"] + train["rows"]["dropped"]
    tokens = train["tokens"]
    assert tokens["in"] == tokens["trained"] + tokens["masked"] + tokens["cut"]
    assert tokens["trained"] > 0
    file = shipped("dataset/instructions/train.jsonl")
    assert ledger["sha256"][file] == sha256(Path(file))
    assert ledger["files"]["train"] == [file]


def test_only_the_newest_checkpoints_stay_and_each_is_whole(run_dir):
    kept = sorted(path.name for path in run_dir.phase("01-sft").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6"]
    assert all(is_whole(run_dir.phase("01-sft") / name) for name in kept)


def test_final_weights_answer_as_the_samples_say_with_what_was_saved_beside_them(run_dir):
    """Only the final folder and the base: template, tokenizer and stop tokens travel with it."""
    tokenizer = AutoTokenizer.from_pretrained(run_dir.final)
    base = AutoModelForCausalLM.from_pretrained(shipped("models/tiny"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run_dir.final)
    after = json.loads((run_dir.samples / "sft-after.json").read_text())
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": s["prompt"]}], add_generation_prompt=True, tokenize=False
        )
        for s in after["samples"]
    ]
    generation = json.loads((run_dir.final / "generation_config.json").read_text())
    stop = generation["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stop
    assert generation["pad_token_id"] not in stop
    answers = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4, max_tokens=4096, stop=stop)
    assert answers == [s["answer"] for s in after["samples"]]


def test_before_and_after_were_measured_on_the_same_prompts(run_dir):
    before, after = (json.loads((run_dir.samples / f"sft-{when}.json").read_text()) for when in ("before", "after"))
    assert [s["prompt"] for s in before["samples"]] == [s["prompt"] for s in after["samples"]]
    assert after["values"]["validation loss"] < before["values"]["validation loss"]


def test_a_finished_run_is_not_run_again(run_dir, capsys):
    written = run_dir.metrics.read_text()
    resume_run(run_dir.path)
    assert "is finished already" in capsys.readouterr().out
    assert run_dir.metrics.read_text() == written


def test_log_keeps_what_was_said(run_dir):
    log = run_dir.log.read_text()
    assert "parameters train" in log
    assert "attention: by segments" in log
    assert "\x1b[" not in log


@pytest.mark.matrix
def test_a_sweep_makes_a_run_directory_for_each_config(tmp_path):
    """Each can be run again alone, by the command in its manifest, and would give the same weights."""
    command = [sys.executable, "-m", "ftlab", "-m", "seed=1,2", "eval.golden_rows=0", "eval.samples=0",
               "data.max_samples=24", "tracker=none", "train.max_steps=1",
               held_out(tmp_path, "instructions"), f"hydra.sweep.dir={tmp_path}"]  # fmt: skip
    assert subprocess.run(command, capture_output=True).returncode == 0
    first, second = (RunDir.open(tmp_path / name) for name in ("0", "1"))
    assert first.manifest()["rerun"].startswith("ftlab seed=1 ")
    assert second.manifest()["rerun"].startswith("ftlab seed=2 ")
    assert metrics(first, "eval_loss")[0] == metrics(second, "eval_loss")[0]
    assert final_hash(first) != final_hash(second)


@pytest.mark.kill
def test_a_reader_who_goes_away_does_not_stop_training(tmp_path):
    given = ("tracker=none", *FAST, FEW, "train.max_steps=2", f"run.dir={tmp_path / 'r'}", "data.max_samples=24")
    command = shlex.join([sys.executable, "-m", "ftlab", *given])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert len(done.stdout.splitlines()) == 1
    run = RunDir.open(tmp_path / "r")
    assert run.manifest()["status"] == "finished"
    assert "Finished" in run.log.read_text() and "tensorboard" not in run.log.read_text()


# ------------------------------------------------------------------------------------------------ weights that are kept

GIVEN = (*FAST, FEW, "train.save_steps=2", "eval.steps=3", "seed=7")  # of the run above


@pytest.fixture
def unfinished(run_dir, tmp_path):
    """A copy of the run above, as it was before it was measured after training."""
    shutil.copytree(run_dir.path, tmp_path / "r", symlinks=True)
    copy = RunDir.open(tmp_path / "r")
    Manifest(copy).record(phases={}, status="interrupted")
    return copy


def weights_of(run_dir):
    return {path: sha256(path) for path in run_dir.path.rglob("*.safetensors") if path.is_file()}


@pytest.mark.parametrize("left", ["checkpoint-4", "torn", "final", "base"])
def test_a_failed_start_removes_no_weights(left, unfinished):
    """Also where the file is gone that says that the run has begun."""
    folder, kept = unfinished.phase("01-sft"), "checkpoint-6" if left == "torn" else left
    (folder / "final").rename(folder / ("base" if left == "base" else "final"))
    for path in [path for path in folder.iterdir() if path.name != kept]:
        shutil.rmtree(path)
    if left == "torn":
        (folder / kept / "checkpoint.json").unlink()
    unfinished.metrics.unlink()
    ledger = json.loads(unfinished.ledger("sft").read_text())
    ledger["sha256"] = dict.fromkeys(ledger["sha256"], "0" * 64)  # the files were others then
    unfinished.ledger("sft").write_text(json.dumps(ledger))
    before = weights_of(unfinished)
    assert before
    with pytest.raises(RunDirError, match="has changed since"):
        resume_run(unfinished.path)
    assert weights_of(unfinished) == before
    assert unfinished.manifest()["status"] == "failed" and unfinished.run_yaml.is_file()


def test_a_torn_checkpoint_that_was_asked_for_stays(unfinished, capsys):
    weights = unfinished.phase("01-sft") / "checkpoint-4" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = weights_of(unfinished)
    with pytest.raises(RunDirError, match=r"run\.checkpoint=4: .*torn.* It has: 6\."):
        train_run(unfinished.path, *GIVEN, "run.checkpoint=4")
    assert weights_of(unfinished) == before


def test_a_damaged_checkpoint_is_set_aside_and_a_half_written_one_removed(unfinished, run_dir, capsys):
    folder = unfinished.phase("01-sft")
    for step, lost in ((8, ["checkpoint.json", "trainer_state.json"]), (7, ["checkpoint.json"])):
        shutil.copytree(folder / "checkpoint-6", folder / f"checkpoint-{step}")
        for name in lost:
            (folder / f"checkpoint-{step}" / name).unlink()
    weights = folder / "checkpoint-6" / "adapter_model.safetensors"
    weights.write_bytes(damaged := weights.read_bytes()[:-1])
    finished = resume_run(unfinished.path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{folder}/checkpoint-6 is torn (a file is missing or changed); passed over and moved to {folder}/" in said
    assert f"{folder}/checkpoint-8 is torn (a file is missing or changed); passed over and removed" in said
    assert (folder / "set_aside" / "checkpoint-6" / "adapter_model.safetensors").read_bytes() == damaged
    assert (folder / "set_aside" / "checkpoint-7" / "adapter_model.safetensors").is_file()
    assert not (folder / "checkpoint-8").exists() and is_whole(folder / "checkpoint-6")
    assert final_hash(finished) == final_hash(run_dir) and logged(finished) == logged(run_dir)


def test_final_weights_give_way_only_to_the_same(unfinished, run_dir):
    """The manifest and the checkpoints were lost, and somebody has put something into final/."""
    final = unfinished.phase("01-sft") / "final"
    assert final_hash(resume_run(unfinished.path)) == final_hash(run_dir)
    assert not (final.parent / "set_aside").exists()
    (final / "adapter_model.safetensors").write_bytes(b"other weights")
    Manifest(unfinished).record(phases={}, status="interrupted")
    assert final_hash(resume_run(unfinished.path)) == final_hash(run_dir)
    assert (final.parent / "set_aside" / "final" / "adapter_model.safetensors").read_bytes() == b"other weights"


def test_a_copy_of_a_checkpoint_is_nobody_elses(tmp_path):
    """train.save_total_limit counts checkpoints, and removes nothing else."""
    copy = RunDir(tmp_path / "r").phase("01-sft") / "checkpoint-2-good"
    copy.mkdir(parents=True)
    (copy / "adapter_model.safetensors").write_bytes(b"mine")
    few = ("eval.golden_rows=0", "eval.samples=0", "data.max_samples=24", "data.split.validation=none")
    given = (*few, "train.max_steps=4", "train.save_steps=1", "train.save_total_limit=2")
    make = make_plan(make_run(*given, f"run.dir={tmp_path / 'other'}"), ())
    create_run(make).path.joinpath("run.yaml").rename(tmp_path / "r" / "run.yaml")
    run = resume_run(tmp_path / "r")
    assert (copy / "adapter_model.safetensors").read_bytes() == b"mine"
    assert sorted(path.name for path in copy.parent.glob("checkpoint-*")) == [
        "checkpoint-2-good", "checkpoint-3", "checkpoint-4",
    ]  # fmt: skip
    assert run.manifest()["status"] == "finished"


# ------------------------------------------------------------------------------------------------ run.checkpoint

LONGER = ("eval.golden_rows=0", "eval.samples=0", "data.split.validation=none", "data.max_samples=60", "tracker=none",
          "train.logging_steps=1", "train.max_steps=12", "train.micro_batch_size=1", "lora.dropout=0.1",
          "train.save_total_limit=null")  # fmt: skip


def test_going_back_to_a_checkpoint_leaves_the_later_ones_out_of_all_later_starts(tmp_path, capsys):
    """A start from step 2 that is stopped again is continued from where it was stopped, not from what came before."""
    whole = train_run(tmp_path / "whole", *LONGER, "train.save_steps=100")
    run = interrupted_run(tmp_path / "r", 8, *LONGER, "train.save_steps=2")
    folder = run.phase("01-sft")
    earlier = {path.name for path in folder.iterdir() if int(path.name.split("-")[1]) > 2}
    assert {"checkpoint-4", "checkpoint-6"} < earlier
    capsys.readouterr()
    interrupted_run(tmp_path / "r", 3, *LONGER, "train.save_steps=100", "run.checkpoint=2")
    said = " ".join(capsys.readouterr().out.split())
    assert f"continuing from {folder}/checkpoint-2" in said and f"moved to {folder}/set_aside" in said
    assert {path.name for path in (folder / "set_aside").iterdir()} == earlier
    assert all(is_whole(path) for path in (folder / "set_aside").iterdir())
    stopped = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert [line["step"] for line in run.read_metrics() if "loss" in line] == [*range(1, stopped + 1)]
    assert "run.checkpoint" not in run.manifest()["rerun"]
    finished = resume_run(tmp_path / "r")
    assert f"continuing from {folder}/checkpoint-{stopped}" in " ".join(capsys.readouterr().out.split())
    assert logged(finished) == logged(whole)
    assert final_hash(finished) == final_hash(whole)


def test_a_package_that_is_missing_has_no_version_in_the_manifest(repository, plan, monkeypatch):
    monkeypatch.setattr(starts, "PACKAGES", ("torch", "no-package-of-this-name"))
    packages = started(plan).manifest()["packages"]
    assert packages["torch"] is not None and packages["no-package-of-this-name"] is None


def test_final_weights_are_on_the_disk_before_they_count(tmp_path, on_disk):
    final = train_run(tmp_path / "r", *FAST, FEW, "train.max_steps=1").final.resolve()
    files = [file for file in final.rglob("*") if file.is_file()]
    assert any(file.suffix == ".safetensors" for file in files)
    assert [file.name for file in files if not on_disk(file)] == []
