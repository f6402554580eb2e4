"""``ftlab diff A B``: each part of two runs, and the first step at which their metrics part."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.errors import ConfigError, RunDirError
from ftlab.planning import make_plan
from ftlab.rundir.directory import RunDir
from ftlab.schema import DiffTask
from ftlab.use.diff import diff
from tests.runs import FAST, FEW, create_run, make_run, train_run

composed = functools.cache(make_run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two real runs, which differ in the rank of their adapters and in when they save."""
    folder = tmp_path_factory.mktemp("diff")
    train_run(folder / "a", *FAST, FEW, "train.max_steps=4")
    train_run(folder / "b", *FAST, FEW, "train.max_steps=4", "lora.r=8", "train.save_steps=3")
    return folder


@pytest.fixture
def both(here, trained) -> Path:
    """``a``, ``b``, and ``again``: ``a`` copied."""
    for name, source in (("a", "a"), ("b", "b"), ("again", "a")):
        shutil.copytree(trained / source, here / name, symlinks=True)
    return here


@pytest.fixture
def compared(capsys) -> Callable[..., str]:
    """What ``ftlab diff ...`` prints."""

    def run(first: str, second: str, **keys: Any) -> str:
        base = composed("task=diff")
        task = DiffTask.model_validate({**vars(base.task), "first": first, "second": second, **keys})
        diff(base.model_copy(update={"task": task}), ())
        return capsys.readouterr().out

    return run


def as_json(compared, first: str, second: str, **keys: Any) -> dict[str, Any]:
    return json.loads(compared(first, second, format="json", **keys), parse_constant=pytest.fail)


def logged(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def rewrite(run_dir: Path, lines: list[dict[str, Any]]) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def part(text: str, title: str) -> list[str]:
    """The lines of a part, from its title to the next empty line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    stop = next((i for i, line in enumerate(lines) if i > start and not line), len(lines))
    return [line.rstrip() for line in lines[start:stop]]


# ------------------------------------------------------------------------------------------------ two real runs


def test_two_real_runs(both, compared):
    text = compared("a", "b")
    first, second = text.splitlines()[:2]
    assert first.startswith("A  a  finished  ftlab ") and second.startswith("B  b  finished  ftlab ")
    identity = part(text, "config: what makes a run what it is")
    assert [line.split() for line in identity[1:]] == [["A", "B"], ["lora.r", "16", "8"]]
    operational = [line.split()[0] for line in part(text, "config: what may differ")[2:]]
    assert operational == ["run.dir", "train.save_steps"], "identity keys come first, and these by themselves"
    assert part(text, "data") == ["data: no difference"]
    assert part(text, "environment") == ["environment: no difference"]
    results = "\n".join(part(text, "results"))
    assert re.search(r"^  parameters.trainable +163840 +81920$", results, re.MULTILINE)
    assert re.search(r"^  sha256.adapter_model.safetensors +[0-9a-f]{12} +[0-9a-f]{12}$", results, re.MULTILINE)
    assert "before.validation loss" not in results, "they begin from one model"
    assert results.splitlines()[-1] == "  final weights of sft: they differ"


def test_where_the_metrics_of_two_real_runs_part(both, compared):
    """Both adapters begin as nothing, so the first loss is one; its gradient is not."""
    a, b = ({line["step"]: line for line in logged(both / name) if "loss" in line} for name in "ab")
    assert a[1]["loss"] == b[1]["loss"] and a[1]["grad_norm"] != b[1]["grad_norm"]
    found = as_json(compared, "a", "b")["metrics"]["sft"]
    assert found["first_step"] == 1 and found["equal"] is False
    grad = next(one for one in found["parts"] if one["key"] == "grad_norm")
    assert (grad["step"], grad["a"], grad["b"]) == (1, a[1]["grad_norm"], b[1]["grad_norm"])
    differences = {step: abs(a[step]["grad_norm"] - b[step]["grad_norm"]) for step in a}
    assert grad["largest"] == max(differences.values())
    assert differences[grad["largest_step"]] == grad["largest"]
    loss = next(one for one in found["parts"] if one["key"] == "loss")
    assert loss["step"] == next(step for step in sorted(a) if a[step]["loss"] != b[step]["loss"]) > 1
    assert {"learning_rate", "epoch", "tokens", "time"} & {one["key"] for one in found["parts"]} == set()
    said = "\n".join(part(compared("a", "b"), "metrics: the first step at which they part"))
    assert "  sft: step 1, in grad_norm\n" in said
    assert f"{a[1]['grad_norm']:.6g}  " in said and f"{b[1]['grad_norm']:.6g}  " in said
    assert f"{grad['largest']:.6g} at step {grad['largest_step']}" in said


def test_equal_runs(both, compared):
    """Copied, and logged at other times."""
    lines = [{**line, "time": line["time"] + 5, "seconds": line["seconds"] + 5} for line in logged(both / "again")]
    rewrite(both / "again", lines)
    text = compared("a", "again")
    assert text.count(": no difference") == 5
    assert f"  sft: equal in all {len(lines)} logged lines" in text.splitlines()
    digest = RunDir.open(both / "a").manifest()["phases"]["sft"]["sha256"]["adapter_model.safetensors"]
    assert f"  final weights of sft: equal (adapter_model.safetensors {digest[:12]})" in text.splitlines()
    assert as_json(compared, "a", "again")["equal"] is True
    assert as_json(compared, "a", "b")["equal"] is False


# ------------------------------------------------------------------------------------------------ metrics


def test_one_value_that_differs_is_found(both, compared):
    lines = logged(both / "again")
    changed = next(line for line in lines if line["step"] == 3 and "loss" in line)
    changed["loss"] += 0.25
    rewrite(both / "again", lines)
    found = as_json(compared, "a", "again")
    (only,) = found["metrics"]["sft"]["parts"]
    assert (only["key"], only["step"], only["largest_step"]) == ("loss", 3, 3)
    assert only["largest"] == pytest.approx(0.25) and found["equal"] is False
    assert "  sft: step 3, in loss" in compared("a", "again").splitlines()


def test_a_tolerance_and_its_edge(both, compared):
    lines = logged(both / "again")
    next(line for line in lines if line["step"] == 3 and "loss" in line)["loss"] += 0.25
    rewrite(both / "again", lines)
    assert as_json(compared, "a", "again", tolerance=0.26)["equal"] is True
    assert as_json(compared, "a", "again", tolerance=0.24)["equal"] is False


def test_no_number_is_equal_to_itself_alone(both, compared):
    for name, value in (("a", float("nan")), ("again", float("nan"))):
        lines = logged(both / name)
        lines[-3]["grad_norm"] = value
        rewrite(both / name, lines)
    assert as_json(compared, "a", "again")["equal"] is True
    lines[-3]["grad_norm"] = 1.5
    rewrite(both / "again", lines)
    (only,) = as_json(compared, "a", "again")["metrics"]["sft"]["parts"]
    assert (only["key"], only["a"], only["b"], only["largest"]) == ("grad_norm", "nan", 1.5, None)


def test_a_run_that_ended_sooner_is_compared_as_far_as_it_came(both, compared):
    rewrite(both / "again", [line for line in logged(both / "again") if line["step"] <= 2])
    text = compared("a", "again")
    lines = [len(logged(both / name)) for name in ("a", "again")]
    assert f"  sft: equal where both logged ({lines[0]} lines in A, {lines[1]} in B)" in text.splitlines()
    assert "  A ends at step 4, B at step 2; the rest of the longer one is left out" in text.splitlines()
    assert as_json(compared, "a", "again")["equal"] is False


def test_what_one_run_alone_logged_is_named(both, compared):
    rewrite(both / "again", [line for line in logged(both / "again") if line["step"] == 4 or "loss" not in line])
    text = compared("a", "again")
    assert "  logged by A alone 3 times, first at step 1: epoch, loss, grad_norm, learning_rate, tokens" in text
    assert "logged by B" not in text


def test_other_logging_steps_are_pointed_out(here, compared):
    for name, steps in (("a", 1), ("b", 2)):
        crafted(here / name, f"train.logging_steps={steps}")
    assert "train.logging_steps differs: what is logged is a mean over other steps" in compared("a", "b")
    assert "nothing to compare: 0 lines logged in A, 0 in B" in compared("a", "b")


def test_a_run_that_logged_nothing(both, compared):
    rewrite(both / "again", [])
    text = "\n".join(part(compared("a", "again"), "metrics"))
    assert text.endswith(f"  sft: nothing to compare: {len(logged(both / 'a'))} lines logged in A, 0 in B")
    assert as_json(compared, "a", "again")["metrics"]["sft"]["ends"] == {"a": 4, "b": None}
    assert as_json(compared, "a", "again")["equal"] is False


# ------------------------------------------------------------------------------------------------ phases


def crafted(path: Path, *overrides: str) -> RunDir:
    """A run directory that was made and not begun."""
    run = composed(*overrides)
    return create_run(make_plan(run.model_copy(update={"run": run.run.model_copy(update={"dir": str(path)})}), ()))


def test_phases_are_matched_by_name(here, compared):
    crafted(here / "a", "phase=align", "seed=1")
    crafted(here / "b", "phase=rlhf", "seed=2")
    a, b = ([phase.name for phase in RunDir.open(here / name).plan().phases] for name in "ab")
    shared = [name for name in a if name in b]
    assert shared and a != shared and b != shared, "the shipped curricula share some phases"
    text = compared("a", "b")
    assert f"phases in A alone: {', '.join(name for name in a if name not in b)}" in text.splitlines()
    assert f"phases in B alone: {', '.join(name for name in b if name not in a)}" in text.splitlines()
    assert as_json(compared, "a", "b")["phases"]["both"] == [{"a": name, "b": name} for name in shared]


def test_a_key_says_in_which_phases_it_differs(here, compared):
    crafted(here / "a", "phase=align", "seed=1")
    crafted(here / "b", "phase=align", "seed=2")
    path = here / "b" / "run.yaml"
    first, second, third = [phase.name for phase in RunDir.open(here / "b").plan().phases]
    head, tail = path.read_text().split(f"- name: {third}\n")
    path.write_text(f"{head}- name: {third}\n" + tail.replace("weight_decay: 0.0\n", "weight_decay: 0.5\n"))
    lines = [line.split() for line in part(compared("a", "b"), "config: what makes a run what it is")]
    assert ["phases", "A", "B"] in lines
    assert ["seed", "all", "1", "2"] in lines
    assert ["train.weight_decay", third, "0", "0.5"] in lines
    keys = {one["key"]: one["phases"] for one in as_json(compared, "a", "b")["config"]["identity"]}
    assert keys == {"seed": [first, second, third], "train.weight_decay": [third]}


def test_metrics_of_each_phase(here, compared):
    for name, last in (("a", 1.0), ("b", 3.0)):
        run_dir = crafted(here / name, "phase=align")
        first, second, _ = [phase.name for phase in run_dir.plan().phases]
        values = [(first, 1, 1, 5.0), (second, 1, last + 1, 2.0), (second, 2, last + 2, last)]
        keys = ("phase", "step", "global_step", "loss")
        rewrite(run_dir.path, [{"time": 1000.0, **dict(zip(keys, line))} for line in values])
    text = compared("a", "b")
    assert f"  {first}: equal in all 1 logged lines" in text.splitlines()
    assert f"  {second}: step 2, in loss" in text.splitlines()


def test_the_only_phases_of_two_stages_are_compared_anyway(here, compared):
    crafted(here / "a")
    crafted(here / "b", "stage=dpo")
    found = as_json(compared, "a", "b")
    assert found["phases"] == {"both": [{"a": "sft", "b": "dpo"}], "a": [], "b": []}
    by_key = {one["key"]: one for one in found["config"]["identity"]}
    assert (by_key["stage.name"]["a"], by_key["stage.name"]["b"]) == ("sft", "dpo")
    assert "a" not in by_key["stage.beta"], "what the one side does not have has no value there"
    assert re.search(r"^  stage.beta +\(none\) +0.1$", "\n".join(part(compared("a", "b"), "config: what makes")), re.M)


# ------------------------------------------------------------------------------------------------ data and environment


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def test_another_file_and_other_counts(both, compared):
    def edit(ledger: dict[str, Any]) -> None:
        file = next(name for name in ledger["sha256"] if name.endswith("train.jsonl"))
        ledger["sha256"][file] = "0" * 64
        ledger["splits"]["train"]["rows"]["kept"] = 1700
        ledger["splits"]["train"]["dropped"] = {"empty answer": {"rows": 100, "first": ["x:1"]}}

    change(both / "again" / "data" / "sft.json", edit)
    lines = part(compared("a", "again"), "data")
    assert any(re.match(r"  sha256 of /.*train.jsonl +[0-9a-f]{12}  0{12}$", line) for line in lines)
    assert any(line.split() == ["train.rows.kept", "1800", "1700"] for line in lines)
    assert any(re.match(r"  train.dropped.empty answer.rows +\(none\) +100$", line) for line in lines)
    assert len(lines) == 5, "and nothing else"
    assert as_json(compared, "a", "again")["equal"] is False


def test_a_file_that_only_moved_is_the_same(both, compared):
    def edit(ledger: dict[str, Any]) -> None:
        ledger["sha256"] = {f"/elsewhere/{Path(name).name}": value for name, value in ledger["sha256"].items()}

    change(both / "again" / "data" / "sft.json", edit)
    assert part(compared("a", "again"), "data") == ["data: no difference"]


def test_a_run_that_did_not_come_to_its_data(both, compared):
    (both / "again" / "data" / "sft.json").unlink()
    assert part(compared("a", "again"), "data")[2].split() == ["ledger", "written", "not", "written"]


def test_the_environment_but_not_its_clock(both, compared):
    def edit(manifest: dict[str, Any]) -> None:
        manifest["packages"]["torch"] = "1.0"
        manifest["git"] = {"commit": "f" * 40, "dirty": "unknown"}
        manifest["seconds"] = 1e6

    change(both / "again" / "manifest.json", edit)
    found = {one["key"]: one for one in as_json(compared, "a", "again")["environment"]}
    assert found["packages.torch"]["b"] == "1.0"
    assert found["git.dirty"]["b"] == "unknown" and found["git.commit"]["b"] == "f" * 40
    assert "seconds" not in found and "packages.peft" not in found
    assert as_json(compared, "a", "again")["equal"] is True, "it is around the runs, and what they did is equal"


def test_a_phase_that_is_not_done(both, compared):
    change(both / "again" / "manifest.json", lambda manifest: manifest.update(status="interrupted", phases={}))
    text = compared("a", "again")
    assert part(text, "results")[2].split() == ["phase", "done", "not", "done"]
    assert text.splitlines()[1].startswith("B  again  interrupted  ")


# ------------------------------------------------------------------------------------------------ mistakes


def test_two_runs_must_be_named(each):
    said = "ftlab diff compares two runs: ftlab diff outputs/my-run outputs/my-other-run"
    ended = each(["diff", "diff a"])
    assert [(done.returncode, done.stdout) for done in ended.values()] == [(1, "")] * 2
    assert f"  - task.first: {said}" in ended["diff"].stderr and f"  - task.second: {said}" in ended["diff a"].stderr


def test_three_are_too_many():
    with pytest.raises(ConfigError, match=r"a b c: ftlab diff takes <task\.first> <task\.second>"):
        make_run("diff", "a", "b", "c")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.yaml", None, "again is no run directory: it has no run.yaml"),
        ("run.yaml", "phases: 3", "again/run.yaml is not what a run writes: phases: "),
        ("manifest.json", "{", "again/manifest.json is no JSON: "),
        ("data/sft.json", "{", "again/data/sft.json is no JSON: "),
        ("metrics.jsonl", '{"step": 1\n{}\n', 'again/metrics.jsonl:1 is no JSON object: {"step": 1'),
    ],
)
def test_a_broken_file_is_named(file, content, said, both, compared):
    path = both / "again" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunDirError, match=re.escape(said)):
        compared("a", "again")


def test_it_ends_with_zero_whether_or_not_they_differ(both, each):
    """The command itself."""
    ended = each([f"diff a {second} format=json" for second in ("again", "b")])
    assert [(done.returncode, done.stderr) for done in ended.values()] == [(0, "")] * 2
    assert [json.loads(done.stdout)["equal"] for done in ended.values()] == [True, False]
