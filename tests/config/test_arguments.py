"""The command line: its task, its words, and the one order that Hydra accepts."""

from __future__ import annotations

import os
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ftlab.config import command_line
from ftlab.errors import ConfigError


def read(line: str) -> command_line.Arguments:
    return command_line.read(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "task", "for_hydra"),
    [
        ("", "train", []),
        ("train", "train", []),
        ("train lora.r=8", "train", ["lora.r=8"]),
        ("lora.r=8 train", "train", ["lora.r=8"]),
        ("version", "version", ["task=version"]),
        ("task=version", "version", ["task=version"]),
        ("explain lora.r", "explain", ["task=explain", "task.key=lora.r"]),
        ("explain lora.r model=llama2_7b", "explain", ["task=explain", "model=llama2_7b", "task.key=lora.r"]),
        ("explain model=llama2_7b lora.r", "explain", ["task=explain", "model=llama2_7b", "task.key=lora.r"]),
        ("resume outputs/my-run", "resume", ["task=resume", "run.dir=outputs/my-run"]),
        ("task=resume outputs/my-run", "resume", ["task=resume", "run.dir=outputs/my-run"]),
    ],
)
def test_the_first_bare_word_is_the_task_and_the_others_are_its_words(line, task, for_hydra):
    given = read(line)
    assert (given.task, given.for_hydra) == (task, for_hydra)


@pytest.mark.parametrize(
    "line",
    ["env format=json", "format=json env", "task=env format=json", "env task.format=json", "env env.format=json"],
)
def test_a_key_of_the_tasks_own_may_be_bare(line):
    assert sorted(read(line).for_hydra) == ["task.format=json", "task=env"]


def test_a_group_of_the_name_of_a_task_keeps_its_keys():
    """``train`` is a task and a group."""
    assert read("train.epochs=2").for_hydra == ["train.epochs=2"]


def test_a_registered_set_is_chosen_like_one_with_a_file(tmp_path):
    registry = tmp_path / "dataset_info.json"
    registry.write_text('{"faq": {"file_name": "faq.json"}, "instructions": {"file_name": "other.json"}}')
    assert read(f"data=faq data.registry={registry}").for_hydra == [
        "data=registered", "data.name=faq", f"data.registry={registry}",
    ]  # fmt: skip
    assert read(f"data=fap data.registry={registry}").for_hydra[0] == "data=fap"
    assert read(f"data=instructions data.registry={registry}").for_hydra[0] == "data=instructions"
    assert read(f"data=faq data.registry={tmp_path}/none.yaml").for_hydra[0] == "data=faq"
    own = tmp_path / "conf" / "data"
    own.mkdir(parents=True)
    (own / "faq.yaml").write_text("name: other\n")
    assert read(f"--config-dir {own.parent} data=faq data.registry={registry}").for_hydra[2] == "data=faq"


def test_a_key_of_another_task_is_left_alone():
    """``sort`` belongs to ``ls``; beside ``explain`` it stays as it was typed, and is refused later."""
    assert read("explain lora.r sort=name").for_hydra == ["task=explain", "sort=name", "task.key=lora.r"]


def test_a_group_that_only_starts_like_a_tasks_key_is_left_alone():
    assert read("env formatting=json").for_hydra == ["task=env", "formatting=json"]


@pytest.mark.parametrize(
    "line",
    [
        "-m seed=1,2 hydra/launcher=basic",
        "seed=1,2 -m hydra/launcher=basic",
        "seed=1,2 hydra/launcher=basic -m",
    ],
)
def test_flags_come_first_wherever_they_were(line):
    given = read(line)
    assert given.for_hydra == ["-m", "seed=1,2", "hydra/launcher=basic"]
    assert given.is_multirun


def test_overrides_keep_their_order_when_a_flag_stands_between():
    """As in ``ftlab hydra/launcher=basic -m a=1,2``, which Hydra alone would refuse."""
    assert read("hydra/launcher=basic -m seed=1,2").for_hydra == ["-m", "hydra/launcher=basic", "seed=1,2"]


@pytest.mark.parametrize(
    ("line", "flags", "overrides"),
    [
        ("--config-dir mine lora.r=8", ("--config-dir", "mine"), ("lora.r=8",)),
        ("lora.r=8 --config-dir mine", ("--config-dir", "mine"), ("lora.r=8",)),
        ("--config-dir=mine", ("--config-dir=mine",), ()),
        ("-cd mine -m seed=1,2", ("-cd", "mine", "-m"), ("seed=1,2",)),
        ("--cfg job -p train", ("--cfg", "job", "-p", "train"), ()),
        ("~lora.alpha", (), ("~lora.alpha",)),
        ("+train.x=1 ++lora.r=2", (), ("+train.x=1", "++lora.r=2")),
    ],
)
def test_a_flags_value_is_no_bare_word(line, flags, overrides):
    given = read(line)
    assert (given.task, given.flags, given.overrides) == ("train", flags, overrides)


def test_the_value_of_a_flag():
    for line in ("--config-dir mine", "--config-dir=mine", "-cd mine", "-m --cfg job -cd mine"):
        assert read(line).flag("--config-dir", "-cd") == "mine"
    assert read("-m --cfg job").flag("--config-dir", "-cd") is None


@pytest.mark.parametrize(
    ("line", "multirun", "shows_job"),
    [
        ("-m", True, False),
        ("--multirun --cfg=job", True, True),
        ("-c job", False, True),
        ("--cfg hydra", False, False),
        ("seed=1", False, False),
    ],
)
def test_what_the_flags_ask_for(line, multirun, shows_job):
    given = read(line)
    assert (given.is_multirun, given.shows_job) == (multirun, shows_job)


@pytest.mark.parametrize(
    "folder", ["outputs/my run", "it's", 'a "b" c', "a,b", "[x]", "a:b", "${x}", "a\\b c", "ünï", "x\\"]
)
def test_a_word_arrives_as_it_was_typed(folder):
    """Spaces, quotes and commas in a folder's name are neither a sweep nor an error."""
    override = command_line.read(["resume", folder]).overrides[-1]
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    assert parsed.key_or_group == "run.dir"
    assert OmegaConf.create({"value": parsed.value()}).value == folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "trian: is no task. Tasks: "),
        ("trian", " Did you mean train?"),
        ("task=resum", "resum: is no task. "),
        ("task=resum", " Did you mean resume"),
        ("zzz", ", version."),
        ("version now", "now: ftlab version takes no bare words; a value is given as key=value."),
        (
            "explain lora.r lora.alpha",
            "lora.r lora.alpha: ftlab explain takes <task.key>; a value is given as key=value.",
        ),
        ("resume a b", "a b: ftlab resume takes <run.dir>; a value is given as key=value."),
    ],
)
def test_a_wrong_word_is_refused_with_what_there_is(line, message):
    with pytest.raises(ConfigError) as caught:
        read(line)
    assert message in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_every_task_is_listed_when_none_fits():
    with pytest.raises(ConfigError) as caught:
        read("zzz")
    from ftlab.main import TASKS

    assert str(caught.value.mistakes[0]) == f"zzz: is no task. Tasks: {', '.join(sorted(TASKS))}."


@pytest.mark.parametrize("word", ["data.path=", "inspect data.path=", "init ", "ls ", "model.path=", "run.name="])
def test_what_is_not_utf_8_is_shown_with_what_to_do(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"\xff.jsonl")
    *before, last = f"{word}{name}".split(" ")
    with pytest.raises(ConfigError) as caught:
        command_line.read([*before, last])
    shown = last.replace(name, r"\xff.jsonl")
    assert f"  - {shown}: is not UTF-8. Give a name that is." in str(caught.value)
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"is not UTF-8\. Rename it: mv -- \$'\\xff\.jsonl' _\.jsonl"):
        command_line.read([*before, last])


def test_a_folder_that_is_not_utf_8_is_no_place_to_start_from(tmp_path, monkeypatch):
    here = tmp_path / os.fsdecode(b"\xfe")
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(ConfigError, match=r"the folder that the command is given in has a name that is not UTF-8\."):
        command_line.read(["seed=1"])
