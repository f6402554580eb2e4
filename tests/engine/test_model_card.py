"""final/README.md: what is known of the weights, in the hub's form."""

from __future__ import annotations

import re

import pytest
import yaml

from ftlab.base.numbers import readable
from ftlab.rundir.directory import RunDir
from ftlab.rundir.model_card import front_matter
from tests.conftest import ROOT
from tests.runs import BARE, FAST, held_out, make_run, train_run


@pytest.fixture(scope="module", params=["lora", "full"])
def card(request, tmp_path_factory) -> tuple[RunDir, str]:
    folder = tmp_path_factory.mktemp(request.param)
    given = (f"method={request.param}", *FAST, "train.max_steps=3", "data.max_samples=24", "tracker=none",
             held_out(folder, "instructions"))  # fmt: skip
    run_dir = train_run(folder / "r", *given)
    return run_dir, (run_dir.final / "README.md").read_text(encoding="utf-8")


def test_the_front_matter_is_what_the_hub_reads(card):
    run_dir, text = card
    front = yaml.safe_load(text.split("---\n")[1])
    method = run_dir.plan().phases[0].config.method.name
    assert "base_model" not in front  # the hub would link to a stranger of that name
    assert "`tiny`, trained by stage `sft`" in text
    assert front["library_name"] == {"lora": "peft", "full": "transformers"}[method]
    assert front["tags"] == ["ftlab", "sft", method] and front["pipeline_tag"] == "text-generation"
    assert "license" not in front and "datasets" not in front


def test_numbers_are_those_of_the_run(card):
    run_dir, text = card
    result = run_dir.manifest()["phases"]["sft"]
    for measure, label in (("validation loss", ""), ("golden exact match", " (4 prompts)")):
        values = " | ".join(readable(result[when][measure], measure) for when in ("before", "after"))
        assert f"| {measure}{label} | {values} |" in text
    assert "| golden prompts |" not in text and "| golden answers |" not in text
    losses = [line["loss"] for line in run_dir.read_metrics() if "loss" in line]
    assert f"| {readable(losses[0])} | {readable(losses[-1])} |" in text
    assert f"3 steps, {result['tokens']:,} tokens" in text
    assert re.search(r"^\| train \| [\d,]+ \| 24 \|", text, re.MULTILINE)
    assert "`train.learning_rate`" in text and "torch 2" in text and "ftlab method=" in text
    assert all(sha256 in text for sha256 in run_dir.data_files("sft").values())


def test_nothing_of_this_machine_and_no_form_to_fill_in(card):
    run_dir, text = card
    assert "More Information Needed" not in text
    assert str(ROOT) not in text and str(run_dir.path.parent) not in text


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("model.path=org/Model-1.5", {"base_model": "org/Model-1.5", "base_model_relation": "adapter"}),
        ("model.path=org/Model-1.5 method=full", {"base_model": "org/Model-1.5", "base_model_relation": "finetune"}),
        ("model.path=org/Model-1.5 model.init=random method=full", {}),
        ("model.path=./org/Model", {}),
    ],
)
def test_a_base_model_is_named_to_the_hub_where_it_is_one_of_the_hubs(given, wanted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = make_run(*given.split())
    front = front_matter(run, {"sha256": {}}, is_adapter=run.method.name == "lora")
    assert {key: front[key] for key in front if key.startswith("base_model")} == wanted


@pytest.mark.matrix
@pytest.mark.parametrize(("stage", "kind"), [("pt", str), ("rm", float)])
def test_the_code_of_the_card_does_what_the_stage_trains_for(stage, kind, tmp_path, monkeypatch, capsys):
    given = (f"stage={stage}", *BARE, "train.max_steps=2", "data.max_samples=8")
    run_dir = train_run(tmp_path / "r", *given)
    text = (run_dir.final / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(run_dir.final)
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    assert kind(capsys.readouterr().out.strip())
    assert "The chat template" not in text


def test_the_code_of_the_card_answers(card, monkeypatch, capsys):
    run_dir, text = card
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(run_dir.final)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()
