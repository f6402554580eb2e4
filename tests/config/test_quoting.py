"""Paths on the command line: whatever is in their names, they are what was typed; what is advised survives a shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ftlab.config import command_line
from ftlab.config.quoting import path_override, shell_word
from ftlab.errors import ConfigError

NAMES = (
    "my file=1.jsonl", "a=b.jsonl", "a,b.jsonl", "a[1].jsonl", "[a].jsonl", "a(1).jsonl", "a{b}.jsonl", "it's.jsonl",
    'a"b.jsonl', "'quoted'", "a$b.jsonl", "a${b}.jsonl", "$HOME", "é 漢字.jsonl", "a#b;c&d!e.jsonl", "a\\b.jsonl",
    "end\\", "2024", "1e5", "true", "a'b'c,d=[e] (f) ${g}\\${h}.jsonl", "~a.jsonl", "a<b>|c.jsonl", "100%.jsonl",
    " spaced ",
)  # fmt: skip


def value_of(override: str) -> object:
    """What the config would hold."""
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    return OmegaConf.create({"value": parsed.value()}).value


def shell_arguments(typed: str) -> list[str]:
    out = subprocess.run(["bash", "-c", f"printf '%s\\0' {typed}"], check=True, capture_output=True, text=True).stdout
    return out.split("\0")[:-1]


@pytest.mark.parametrize("key", ["data.path", "model.path", "data.split.golden", "+phases.prefer.data.path"])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_there_is_what_was_typed(name, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert value_of(path_override(f"{key}={name}")) == name


@pytest.mark.parametrize("name", ["my=file.jsonl", "a (1)", "[a", "it's", "é", "a#b;c&d!e", "end\\", "~nobody's"])
def test_a_path_that_is_not_there_yet_may_be_what_hydra_has_no_meaning_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert value_of(path_override(f"data.cache={name}")) == name


@pytest.mark.parametrize(
    "override",
    ["data.path=null", "data.path=rows.jsonl", "data.path=a,b", "data.path='a b'", "data.path=${oc.env:X}",
     "lora.r=8,16", "lora.target_modules=[q,k]", "data.columns={a: b}"],
)  # fmt: skip
def test_what_hydra_understands_stays_as_it_is(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_override(override) == override


def test_a_sweep_over_files_of_any_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("é.jsonl", "b=1.jsonl"):
        (tmp_path / name).touch()
    parsed = OverridesParser.create().parse_override(path_override("data.path=é.jsonl,b=1.jsonl"))
    assert [str(value).strip("'") for value in parsed.sweep_string_iterator()] == ["é.jsonl", "b=1.jsonl"]


def test_a_word_with_an_equals_sign_is_a_file_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jsonl").touch()
    (tmp_path / "lora.r=8").touch()
    assert command_line.read(["init", "a=b.jsonl"]).overrides == ("task=init", "task.file='a=b.jsonl'")
    assert command_line.read(["lora.r=8"]).overrides == ("lora.r=8",)


def test_a_path_that_the_shell_has_taken_apart_is_told_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it's my file.jsonl").touch()
    with pytest.raises(ConfigError) as caught:
        command_line.read(["data.path=it's", "my", "file.jsonl", "data.format=alpaca"])
    said = str(caught.value)
    assert "data.path=it's my file.jsonl: the shell has taken it apart. Type " in said
    (typed,) = shell_arguments(said.partition("Type ")[2].splitlines()[0])
    assert value_of(path_override(typed)) == "it's my file.jsonl"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_advised_survives_the_shell(name):
    (typed,) = shell_arguments(shell_word("data.path", name))
    if "${" not in name:
        assert value_of(typed) == name


def test_the_advice_for_a_path_with_a_comma_is_what_to_type(tmp_path):
    wide = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # lines are whole
    command = [sys.executable, "-m", "ftlab", "data.path=a,b $x.jsonl", "train.epochs=(1"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=wide).stderr
    assert "data.path=a,b $x.jsonl: several values are a sweep: add -m, or quote the value: 'data.path=" in said
    lines = said.splitlines()
    (sweep,) = [line.partition("quote the value: ")[2] for line in lines if "quote the value: " in line]
    assert value_of(*shell_arguments(sweep)) == "a,b $x.jsonl"
    (other,) = [line.partition("quote special characters: ")[2] for line in lines if "quote special" in line]
    assert value_of(*shell_arguments(other)) == "(1"
