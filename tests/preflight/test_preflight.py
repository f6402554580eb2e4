"""What is missing is said before anything is loaded, all at once, with what would do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftlab.data.sources import resolve
from ftlab.data.sources.files import Files
from ftlab.distributed.world import may_have_accelerator
from ftlab.errors import ConfigError, DataError, NotReadyError
from ftlab.preflight import check
from ftlab.schema import StageName

DATASET = Path(__file__).resolve().parents[2] / "dataset"


@pytest.fixture
def refused(make_run):
    """The lines that say why the run of a command line cannot start."""

    def run(*overrides: str) -> list[str]:
        with pytest.raises(NotReadyError) as caught:
            check.check(make_run(*overrides))
        head, *lines = str(caught.value).splitlines()
        assert head == "This run cannot start here:"
        return [line.removeprefix("  - ") for line in lines]

    return run


def test_a_run_on_what_is_shipped_can_start(make_run):
    assert check.check(make_run()) is None


def test_everything_that_is_missing_is_listed_at_once(refused):
    lines = refused("model.path=/nowhere/x", "data.path=nope.json", "data.format=alpaca")
    assert sorted(lines) == [
        "data.path: nope.json does not exist. Relative paths start from the current folder.",
        "model.path=/nowhere/x does not exist",
    ]


def test_an_empty_file(refused, tmp_path):
    (tmp_path / "empty.json").touch()
    path = tmp_path / "empty.json"
    assert refused(f"data.path={path}", "data.format=alpaca") == [f"data.path: {path} is empty."]


def test_a_split_that_is_not_there(refused):
    (line,) = refused("data.split.golden=mine.jsonl")
    assert line == (
        "data instructions, golden: mine.jsonl does not exist. Relative paths start from the current folder."
    )


def test_a_folder_that_is_no_model(refused, tmp_path):
    (line,) = refused(f"model.path={tmp_path}")
    assert line == f"model.path={tmp_path} is an empty folder; it must be a folder in Hugging Face format"
    (tmp_path / "notes.txt").touch()
    (line,) = refused(f"model.path={tmp_path}")
    assert line == f"model.path={tmp_path} has no config.json; it must be a folder in Hugging Face format"


def test_a_path_that_is_neither_folder_nor_id(refused):
    (line,) = refused("model.path=not/an/id")
    assert line == "model.path=not/an/id is neither a folder nor the id of a model on the hub (owner/name)"


# ------------------------------------------------------------------------------------------------------ the registry


def test_an_unknown_name_is_answered_with_the_nearest(make_run):
    with pytest.raises(ConfigError) as caught:
        check.check(make_run("data.name=instruction"))
    (mistake,) = caught.value.mistakes
    assert str(mistake).startswith(
        f"data.name=instruction: not in the registry {DATASET / 'dataset_info.yaml'}. Known: "
    )
    assert str(mistake).endswith(" Did you mean instructions?")
    known = str(mistake).partition("Known: ")[2].partition(". Did")[0].split(", ")
    assert known == sorted(yaml.safe_load((DATASET / "dataset_info.yaml").read_text()))


NEEDS = {
    "pt": "plain text (data.format=text)",
    "sft": "conversations, or instructions with their answers (data.format=alpaca or sharegpt or messages or "
    "instruction or prompt_completion)",
    **dict.fromkeys(("rm", "dpo", "orpo"), "pairs, a prompt with a chosen and a rejected answer "
                    "(data.format=preference)"),
    "kto": "answers with a label, true for a good one (data.format=kto)",
    **dict.fromkeys(("ppo", "grpo"), "prompts, with the right answer where a reward compares with it "
                    "(data.format=prompts)"),
}  # fmt: skip
SHIPPED = {"instructions": "sft", "preferences": "rm or dpo or orpo", "labels": "kto", "prompts": "ppo or grpo"}


@pytest.mark.parametrize("stage", NEEDS)
def test_shipped_data_that_does_not_fit_the_stage(stage, make_run):
    """Every stage with every shipped set: it can start, or is told what it needs and which set has it."""
    fits = [data for data, stages in SHIPPED.items() if stage in stages.split(" or ")]
    for data, stages in SHIPPED.items():
        run = make_run(f"stage={stage}", f"data={data}")
        if data in fits:
            assert check.check(run) is None
            continue
        with pytest.raises(ConfigError) as caught:
            check.check(run)
        (mistake,) = map(str, caught.value.mistakes)
        kind = resolve.read_registry(DATASET / "dataset_info.yaml")[data].format
        said = f"data.name={data}: has {kind} rows, and stage={stage} trains on {NEEDS[stage]}; {kind} rows are for "
        assert mistake.startswith(f"{said}stage={stages}. Sets for this stage, to be chosen with data=NAME: ")
        recommended = mistake.rpartition(": ")[2].removesuffix(".").split(", ")
        assert fits == recommended if fits else "tiny_corpus" in recommended


def test_a_format_that_does_not_fit_the_stage(make_run, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ConfigError) as caught:
        check.check(make_run("stage=dpo", f"data.path={tmp_path}/x.json", "data.format=alpaca"))
    (mistake,) = caught.value.mistakes
    assert str(mistake) == (
        "data.format=alpaca: stage=dpo trains on pairs, a prompt with a chosen and a rejected answer "
        "(data.format=preference); alpaca rows are for stage=sft. Sets for this stage, to be chosen with data=NAME: "
        "preferences."
    )


@pytest.mark.parametrize(
    ("stage", "format_", "row", "other"),
    [
        ("dpo", "preference", '{"instruction": "a", "input": "", "output": "b"}',
         "alpaca it can be read: rows for stage=sft."),
        ("kto", "kto", '{"prompt": "a", "chosen": "b", "rejected": "c"}',
         "preference it can be read: rows for stage=rm or dpo or orpo."),
        ("pt", "text", '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
         "messages it can be read: rows for stage=sft."),
        ("sft", "alpaca", '{"prompt": "a", "answer": "b"}', "prompts it can be read: rows for stage=ppo or grpo."),
        ("sft", "messages", '{"instruction": "a", "output": "b", "mood": "c"}', None),
        ("sft", "alpaca", '{"question": "a", "output": "b"}', None),
    ],
)  # fmt: skip
def test_rows_of_another_format_than_was_said(stage, format_, row, other, refused, tmp_path):
    """Found in the first row, and where it can be told, which format it is."""
    file = tmp_path / "rows.jsonl"
    file.write_text(row + "\n")
    overrides = [f"stage={stage}", f"data.path={file}", f"data.format={format_}"]
    said, mend = refused(*overrides)
    assert said.startswith(f"{file}, row 1: ")
    assert said.rpartition(" As data.format=")[2] == other if other else "data.format" not in said
    assert mend.startswith("Mend the row, name your columns with data.columns, ")


def test_every_stage_has_formats_and_a_shipped_set_that_fits(make_run):
    assert set(resolve.STAGE_FORMATS) == set(StageName.__args__)
    shipped = resolve.read_registry(DATASET / "dataset_info.yaml")
    for stage, formats in resolve.STAGE_FORMATS.items():
        assert shipped[make_run(f"stage={stage}").data.name].format in formats


def test_a_set_that_has_to_be_made_says_how(make_run, tmp_path):
    """The shipped registry, in a folder that holds none of its files."""
    own = tmp_path / "dataset_info.yaml"
    own.write_text((DATASET / "dataset_info.yaml").read_text())
    with pytest.raises(DataError) as caught:
        resolve.resolve(make_run("stage=pt", "data=corpus", f"data.registry={own}").data, "pt")
    assert str(caught.value) == (
        f"data tiny_corpus, train: {tmp_path}/tiny_corpus.jsonl does not exist. "
        "Make it with: python dataset/generate.py corpus"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file."),
        ("a: [", "not YAML: "),
        ("a: {format: alpaca}", "a: must have one of the keys files, hub, modelscope; it has none of them."),
        ("a: {format: alpaca, files: {train: x, tset: y}}", "a.files.tset: no such key. Known: train, "),
        ("a: {format: alpca, files: {train: x}}", "a.format=alpca: must be one of: alpaca, "),
    ],
)
def test_a_registry_of_the_users_own_that_is_wrong(text, said, make_run, tmp_path):
    own = tmp_path / "mine.yaml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(DataError) as caught:
        resolve.resolve(make_run(f"data.registry={own}").data, "sft")
    assert str(caught.value).startswith(f"data.registry={own}: ") and said in str(caught.value)


def test_a_registry_of_the_users_own(make_run, tmp_path):
    """Files are relative to it; columns of the config win over its own; a path wins over a name."""
    own = tmp_path / "mine.yaml"
    own.write_text("mine: {format: alpaca, files: {train: t.json}, columns: {instruction: q, output: a}}")
    (tmp_path / "t.json").write_text("[]")
    run = make_run(f"data.registry={own}", "data.name=mine", "+data.columns.output=answer")
    (source,) = resolve.resolve(run.data, "sft")
    assert (source.name, source.format) == ("mine", "alpaca")
    assert source.splits == {"train": Files((tmp_path / "t.json",))}
    assert source.columns == {"instruction": "q", "output": "answer"}
    other = make_run(f"data.registry={own}", f"data.path={tmp_path}/t.json", "data.format=messages")
    assert [one.name for one in resolve.resolve(other.data, "sft")] == ["t"]


def test_splits_can_be_left_out_or_replaced(make_run, tmp_path):
    (tmp_path / "v.jsonl").write_text("{}")
    run = make_run("data.split.golden=none", f"data.split.validation={tmp_path}/v.jsonl")
    (source,) = resolve.resolve(run.data, "sft")
    assert source.splits == {
        "train": Files((DATASET / "instructions" / "train.jsonl",)), "validation": Files((tmp_path / "v.jsonl",)),
    }  # fmt: skip


@pytest.mark.skipif(may_have_accelerator(), reason="there is one")
def test_more_devices_than_a_machine_without_an_accelerator_has(make_run):
    with pytest.raises(NotReadyError, match=r"hardware.devices=8, and this machine has no accelerator. hardware=cpu h"):
        check.check(make_run("hardware.devices=8"))
    check.check(make_run("hardware.devices=8", "hardware=cpu"))
