"""Names, paths and hubs of the config -> sources; what is wrong with a registry or a choice, all of it at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.data.formats import COLUMNS, TAGS
from ftlab.data.sources import resolve as registry
from ftlab.data.sources.files import Files
from ftlab.data.sources.hub import Hub
from ftlab.errors import ConfigError, DataError

SHIPPED = Path(__file__).resolve().parents[2] / "dataset" / "dataset_info.yaml"
OURS = """
faq:
  format: alpaca
  files: {train: faq.jsonl, validation: [v.jsonl, more], test: 'more/*.jsonl'}
  columns: {instruction: question, output: reply, input: null}
  num_samples: 7
talks: {format: sharegpt, files: {train: faq.jsonl}, tags: {role: who, user: you}}
pairs: {format: alpaca, ranking: true, files: {train: faq.jsonl}, columns: {instruction: question}}
code: {format: text, files: {train: 'more/*.py'}}
quiz: {format: alpaca, hub: owner/quiz, revision: v1, subset: en, folder: data, splits: {train: tr, validation: va}}
zoo: {format: alpaca, modelscope: owner/zoo, split: full}
lost: {format: alpaca, files: {train: lost.jsonl}, make: python make_lost.py}
gone: {format: alpaca, files: {train: gone.jsonl}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sets.yaml").write_text(OURS)
    (tmp_path / "more").mkdir()
    for name in ("faq.jsonl", "v.jsonl", "more/a.jsonl", "more/b.jsonl", "more/c.py"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


@pytest.fixture
def resolve(make_run, folder):
    """``resolve("data.name=faq", ...)`` of the registry above; the stage is sft unless said."""

    def resolve_run(*overrides):
        line = (f"data.registry={folder}/sets.yaml", *overrides)
        run = make_run(*command_line.read(line).overrides)
        return registry.resolve(run.data, run.stage.name)

    return resolve_run


@pytest.fixture
def refused(resolve):
    """What is said about each mistake."""

    def mistakes(*overrides):
        with pytest.raises(ConfigError) as caught:
            resolve(*overrides)
        return [str(mistake) for mistake in caught.value.mistakes]

    return mistakes


def said(error, folder) -> str:
    return str(error.value).replace(f"{folder}/", "")


# --- what the config names -------------------------------------------------------------------------------------------


def test_a_set_of_files(resolve, folder):
    (source,) = resolve("data.name=faq")
    assert (source.name, source.format, source.num_samples, source.tags) == ("faq", "alpaca", 7, {})
    assert source.columns == {"instruction": "question", "output": "reply", "input": None}
    more = (folder / "more/a.jsonl", folder / "more/b.jsonl")
    assert source.splits["train"] == Files((folder / "faq.jsonl",))
    assert source.splits["test"] == Files(more, f"{folder}/more/*.jsonl")
    assert source.splits["validation"].paths == (folder / "v.jsonl", *more)
    assert set(source.splits) == {"train", "validation", "test"}


def test_the_config_wins_over_the_registry(resolve, folder):
    (source,) = resolve("data.name=faq", "data.columns={output: better}", "data.num_samples=3", "data.split.test=none",
                        f"data.split.validation={folder}/faq.jsonl", f"data.split.golden={folder}/more")  # fmt: skip
    assert source.columns == {"instruction": "question", "output": "better", "input": None}
    assert source.num_samples == 3 and set(source.splits) == {"train", "validation", "golden"}
    assert source.splits["validation"] == Files((folder / "faq.jsonl",))
    (source,) = resolve("data.name=talks", "data.tags={user: me, assistant: it}")
    assert source.tags == {"role": "who", "user": "me", "assistant": "it"}
    (source,) = resolve("data.name=talks", "data.format=messages")
    assert source.format == "messages"


def test_splits_that_are_not_read_need_not_exist(resolve, folder):
    (folder / "v.jsonl").unlink()
    assert "validation" not in resolve("data.name=faq", "data.split.validation=none")[0].splits


def test_pairs_of_a_format_keep_its_columns(resolve):
    (source,) = resolve("stage=dpo", "data.name=pairs")
    assert (source.format, source.columns) == ("preference", {"instruction": "question"})


def test_a_path_of_ones_own(resolve, folder):
    for path, name in (("faq.jsonl", "faq"), ("more/*.jsonl", "more"), ("more/", "more")):
        (source,) = resolve(f"data.path={folder}/{path}", "data.format=messages")
        assert (source.name, source.format, set(source.splits)) == (name, "messages", {"train"})
    (source,) = resolve("stage=pt", f"data.path={folder}/**/*.py", "data.format=text")
    assert [block.file for block in source.splits["train"].blocks()] == [f"{folder}/more/c.py"]
    assert resolve("stage=pt", "data.name=code")[0].splits["train"].count() == 1


def test_several_sets(resolve, folder):
    """Each with its own format; a column of the config goes to those that have it; a file of one's own to the first."""
    faq, talks = resolve("data.name=[faq, talks]", "data.columns={output: best, conversations: talk}",
                         f"data.split.validation={folder}/more")  # fmt: skip
    assert (faq.format, talks.format) == ("alpaca", "sharegpt")
    assert faq.columns == {"instruction": "question", "output": "best", "input": None}
    assert talks.columns == {"conversations": "talk"}
    assert faq.splits["validation"].label == f"{folder}/more" and set(talks.splits) == {"train"}


def test_sets_on_hubs_are_named_and_not_asked(resolve):
    quiz, zoo = resolve("data.name=[quiz, zoo]")
    train = Hub("owner/quiz", "hf", "tr", "en", "v1", "data")
    assert quiz.splits == {"train": train, "validation": Hub("owner/quiz", "hf", "va", "en", "v1", "data")}
    assert zoo.splits == {"train": Hub("owner/zoo", "ms", "full")}
    (quiz,) = resolve(
        "data.name=quiz", "data.hub={split: other, revision: v2, streaming: true}", "data.split.validation=none"
    )
    assert quiz.splits == {"train": Hub("owner/quiz", "hf", "other", "en", "v2", "data", True)}


@pytest.mark.parametrize(
    ("path", "expected", "name"),
    [
        ("hf://owner/quiz", Hub("owner/quiz"), "quiz"),
        ("hf://quiz", Hub("quiz"), "quiz"),
        ("hf://datasets/owner/quiz.v2", Hub("owner/quiz.v2"), "quiz"),
        ("ms://owner/quiz", Hub("owner/quiz", "ms"), "quiz"),
    ],
)
def test_a_path_on_a_hub(resolve, path, expected, name):
    (source,) = resolve(f"data.path={path}", "data.format=alpaca")
    assert (source.splits, source.name) == ({"train": expected}, name)


def test_a_folder_laid_out_as_on_the_hub_with_a_name_that_is_not_utf_8(resolve, folder):
    (folder / "more" / os.fsdecode(b"\xff.jsonl")).write_text("{}\n")
    with pytest.raises(DataError, match=r"more/\\xff\.jsonl is not UTF-8\. Rename it: mv -- "):
        resolve(f"data.path=hf://{folder}/more", "data.format=alpaca")


def test_a_folder_laid_out_as_on_the_hub(resolve, folder):
    (source,) = resolve(f"data.path=hf://{folder}/more", "data.format=alpaca", "data.hub.subset=en")
    assert source.splits == {"train": Hub(f"{folder}/more", subset="en")}
    with pytest.raises(DataError) as caught:
        resolve(f"data.path=hf://{folder}/less", "data.format=alpaca")
    assert str(caught.value) == (
        f"data.path: hf://{folder}/less is no folder. Relative paths start from the current folder."
    )


# --- what is wrong with a choice -------------------------------------------------------------------------------------


def test_all_mistakes_of_a_choice_at_once(refused, folder):
    found = refused("data.name=[faqs, pairs, faq, faq]", "data.columns={inptu: a}", "data.tags={usr: b}",
                    "data.probabilities=[0.5, 0.5]", "data.hub.split=x", "data.split.test=hf://a/b")  # fmt: skip
    known = "code, faq, gone, lost, pairs, quiz, talks, zoo"
    sft = "alpaca or sharegpt or messages or instruction or prompt_completion"
    assert found == [
        "data.name=faq: is named twice; data.num_samples takes rows more than once.",
        "data.probabilities=[0.5, 0.5]: is of interleaved sets: data.mix=interleave_under or data.mix=interleave_over.",
        "data.probabilities=[0.5, 0.5]: must have one entry for each of the 4 sets, not 2.",
        f"data.name=faqs: not in the registry {folder}/sets.yaml. Known: {known}. Did you mean faq?",
        "data.name=pairs: has preference rows, and stage=sft trains on conversations, or instructions with their "
        f"answers (data.format={sft}); preference rows are for stage=rm or dpo or orpo. Sets for this stage, to be "
        "chosen with data=NAME: faq, gone, lost, quiz, talks, zoo.",
        f"data.columns.inptu=a: format preference has no such column. Known: {', '.join(COLUMNS['preference'])}. "
        "Did you mean input?",
        f"data.tags.usr=b: no such tag. Known: {', '.join(TAGS)}. Did you mean user?",
        "data.hub.split=x: none of the chosen sets is on a hub.",
        "data.split.test=hf://a/b: must be auto, none or files; of a set on a hub the registry names it: "
        "splits: {test: NAME}.",
    ]


def test_probabilities_of_interleaved_sets(refused, resolve):
    mix = "data.mix=interleave_under"
    assert refused("data.name=faq", mix, "data.probabilities=[0.5, 0.5]") == [
        "data.probabilities=[0.5, 0.5]: must have one entry for the one set, not 2."
    ]
    assert len(resolve("data.name=[faq, talks]", mix, "data.probabilities=[0.1, 0.9]")) == 2


def test_a_path_that_is_no_id(refused):
    (mistake,) = refused("data.path=hf://a/b/c", "data.format=alpaca")
    assert mistake == ("data.path=hf://a/b/c: must be hf://owner/name, or hf:// and a folder that begins with / or ./.")


def test_missing_files_are_said_at_once(resolve, folder):
    (folder / "v.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        resolve("data.name=[faq, lost, gone]")
    assert said(caught, folder).splitlines() == [
        "data faq, validation: v.jsonl is empty.",
        "data lost, train: lost.jsonl does not exist. Make it with: python make_lost.py",
        "data gone, train: gone.jsonl does not exist. It is named in sets.yaml.",
    ]


# --- what is wrong with a registry -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("faq: {format: alpaca}", "faq: must have one of the keys files, hub, modelscope; it has none of them."),
        ("faq: {format: alpaca, hub: a/b, modelscope: c/d}",
         "faq: must have one of the keys files, hub, modelscope; not hub and modelscope."),
        ("faq: {files: {train: a}}", "faq.format: is missing."),
        ("faq: {format: alpaca, files: {validation: a}}", "faq.files.train: is missing."),
        ("faq: {format: alpaca, files: {train: a, tset: b}}",
         "faq.files.tset: no such key. Known: train, validation, test, golden. Did you mean test?"),
        ("ok: {format: text, files: {train: a}}\nfaq: {format: alpacca, files: {train: a}}",
         "faq.format=alpacca: must be one of: alpaca, sharegpt, messages, instruction, prompt_completion, preference, "
         "kto, prompts, text. Did you mean alpaca?"),
        ("faq: {format: alpaca, hub: a, split: b, splits: {train: c}}",
         "faq.split=b: splits.train=c says the same; give one."),
        ("faq: {format: alpaca, files: {train: a}, subset: b}",
         "faq.subset: is of a set on a hub; files name their splits themselves."),
        ("faq: {format: kto, files: {train: a}, ranking: true}",
         "faq.ranking=True: format kto has no chosen and rejected answers."),
        ("faq: {format: text, files: {train: a}, columns: {txt: b}}",
         f"faq.columns.txt=b: format text has no such column. Known: {', '.join(COLUMNS['text'])}. Did you mean text?"),
        ("faq: {format: sharegpt, files: {train: a}, tags: {role_tag: b}}",
         f"faq.tags.role_tag=b: no such tag. Known: {', '.join(TAGS)}. Did you mean role?"),
        ("faq: alpaca", "faq: must have the keys format and files (or hub, or modelscope)."),
        ("faq:", "faq: must have the keys format and files (or hub, or modelscope)."),
        ("- faq", "must map names to data sets, not be a list."),
        ("faq: {format: [alpaca}", "not YAML: expected ',' or ']', but got '}' in line 1, column 22."),
        ("faq: *other", "not YAML: found undefined alias 'other' in line 1, column 6."),
        (b"faq: caf\xe9", "not UTF-8 at byte 8."),
        ("a: {format: text, files: {train: a}}\nb: {format: text, files: {train: a}}\na: {format: kto, hub: b}",
         "a: stands twice, in lines 1 and 3; the last would win. Rename one."),
        ("a:\n  format: text\n  files: {train: a}\n  format: kto\n",
         "a.format: stands twice, in lines 2 and 4; the last would win. Rename one."),
    ],
)  # fmt: skip
def test_a_wrong_registry(write, content, reason):
    path = write("mine.yaml", content)
    with pytest.raises(DataError) as caught:
        registry.read_registry(path)
    assert str(caught.value) == f"data.registry={path}: {reason}"


def test_all_that_is_wrong_with_a_registry_at_once(write):
    path = write(
        "mine.yaml", "a: {format: txt, files: {train: 3}, colums: {}}\nb: {format: text, num_samples: 0, hub: x}\n"
    )
    with pytest.raises(DataError) as caught:
        registry.read_registry(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"data.registry={path}: ") and lines[0].endswith("mistakes:")
    assert [line.split("=")[0].split(":")[0] for line in lines[1:]].count("  - a.format") == 1
    assert any(line.startswith("  - a.files.train=3: must be a valid string") for line in lines)
    assert any(line.endswith("Did you mean columns?") for line in lines)
    assert any(line.startswith("  - b.num_samples=0: must be greater than 0") for line in lines)


def test_a_merge_is_not_a_name_that_stands_twice(write):
    path = write("mine.yaml", "a: &a {format: text, files: {train: x}}\nb: {<<: *a, num_samples: 3}\n")
    assert registry.read_registry(path)["b"].num_samples == 3


def test_the_shipped_registry_is_good():
    shipped = registry.read_registry(SHIPPED)
    assert {entry.kind for entry in shipped.values()} == {"alpaca", "preference", "kto", "prompts", "text"}


def test_json_that_is_broken_or_says_a_thing_twice(write):
    said = {}
    for name, content in (
        ("broken", '{"a": {"file_name": }}'),
        ("twice", '{\n  "a": {"file_name": "x"},\n  "b": {},\n  "a": {"file_name": "y"}\n}'),
        ("inside", '{"a": {\n"columns": {},\n"columns": {"prompt": "x"}}}'),
        ("tabs", '{\n\t"a": {},\n\t"a": {}\n}'),
    ):
        path = write(f"{name}.json", content)
        with pytest.raises(DataError) as caught:
            registry.read_registry(path)
        said[name] = str(caught.value).removeprefix(f"data.registry={path}: ")
    assert said["broken"] == "not JSON: Expecting value in line 1, column 21."
    assert said["twice"] == "a: stands twice, in lines 2 and 4; the last would win. Rename one."
    assert said["inside"] == "a.columns: stands twice, in lines 2 and 3; the last would win. Rename one."
    assert said["tabs"].startswith("a: stands twice")
