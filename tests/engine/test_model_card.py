"""final/README.md: what is known of the weights, in the hub's form."""

from __future__ import annotations

import re

import pytest
import yaml

from ftlab.base.numbers import readable
from ftlab.rundir.directory import RunDir
from tests.conftest import ROOT
from tests.runs import FAST, held_out, train_run


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
    assert front["base_model"] == "tiny"
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


def test_the_code_of_the_card_answers(card, monkeypatch, capsys):
    run_dir, text = card
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(run_dir.final)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()
