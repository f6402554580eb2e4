"""Experiments that are elsewhere, written otherwise, or another tool's: each gets the line that helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.errors import ConfigError

GOOD = "# @package _global_\ntrain:\n  epochs: 1\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("conf/experiment").mkdir(parents=True)


def write(name: str, text: str) -> None:
    Path("conf/experiment", f"{name}.yaml").write_text(text)


def test_keys_without_the_line_that_puts_them_at_the_top(mistakes):
    write("mine", "seed: 3\ntrain:\n  epochs: 1\n")
    assert mistakes("--config-dir=conf experiment=mine") == [
        "experiment: its file needs the first line '# @package _global_', or its keys are read below 'experiment'"
    ]


def test_a_file_of_another_tool(mistakes):
    write("theirs", "model_name_or_path: x\nstage: sft\nfinetuning_type: lora\ncutoff_len: 512\n")
    [told] = mistakes("--config-dir=conf experiment=theirs")
    for line in ("'# @package _global_'", "model_name_or_path: that is model.path=x here", "that is method=lora here",
                 "cutoff_len: that is data.max_length=512 here"):  # fmt: skip
        assert line in told
    write("theirs", "# @package _global_\nmodel_name_or_path: x\nstage: sft\ncutoff_len: 512\n")
    assert mistakes("--config-dir=conf experiment=theirs") == [
        "stage=sft: is a group: choose from it, on the command line stage=sft, in an experiment "
        "'defaults: [override /stage: sft]'",
        "model_name_or_path=x: that is model.path=x here.",
        "cutoff_len=512: that is data.max_length=512 here.",
    ]


@pytest.mark.parametrize("given", ["chats", "conf/experiment/chats.yaml"])
def test_where_init_wrote_it(given, mistakes):
    write("chats", GOOD)
    told = "conf/experiment/chats.yaml is chosen with --config-dir=conf experiment=chats"
    assert mistakes(f"experiment={given}") == [f"experiment={given}: {told}"]
    assert mistakes("--config-dir=conf experiment=chats") == []


@pytest.mark.parametrize("line", ["my.yaml", "train my.yaml", "my.yaml lora.r=4"])
def test_a_file_in_the_place_of_a_task(line):
    Path("my.yaml").write_text(GOOD)
    with pytest.raises(ConfigError) as error:
        command_line.read(line.split())
    assert (
        "my.yaml: a file of values is an experiment: put it into conf/experiment/my.yaml, with the first line "
        "'# @package _global_', and choose it with --config-dir=conf experiment=my" in str(error.value)
    )


def test_names_of_ones_own_registry_are_choices(mistakes):
    Path("sets.json").write_text(json.dumps({"minutes": {"file_name": "a.json"}}))
    [told] = mistakes("data=minuets data.registry=sets.json")
    assert "minutes" in told.partition("Choices: ")[2]
    assert told.endswith("Did you mean minutes?")
