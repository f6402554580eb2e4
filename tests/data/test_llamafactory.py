"""LLaMA-Factory's dataset_info.json: each of its entries means here what it means there, or is refused when chosen."""

from __future__ import annotations

import functools
import json

import pytest

from ftlab.data.formats import COLUMNS, CONVERTERS, Columns
from ftlab.data.sources import resolve
from ftlab.data.sources.files import Files
from ftlab.data.sources.hub import Hub
from ftlab.errors import ConfigError, DataError

MESSAGES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
THEIRS = {
    "identity": {"file_name": "rows.json"},
    "wiki": {"file_name": "rows.json", "columns": {"prompt": "text"}},
    "wiki_as_talk": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"prompt": "text"}},
    "orca": {"hf_hub_url": "o/orca", "ms_hub_url": "m/orca", "om_hub_url": "x/orca", "file_name": "no.json",
             "subset": "en", "split": "train_sft", "folder": "data", "num_samples": 5, "file_sha1": "of old",
             "columns": {"prompt": "question", "response": "response", "system": "system_prompt"}},
    "deep": {"ms_hub_url": "m/deep"},
    "tools": {"file_name": "rows.json", "formatting": "sharegpt",
              "columns": {"messages": "conversations", "tools": "tools"}},
    "chat": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": MESSAGES},
    "openai": {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages"}, "tags": MESSAGES},
    "openai_bare": {"file_name": "rows.json", "formatting": "openai"},
    "dpo": {"file_name": "rows.json", "ranking": True, "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
    "dpo_plain": {"file_name": "rows.json", "ranking": True,
                  "columns": {"prompt": "question", "chosen": "better", "rejected": "worse", "system": "system"}},
    "dpo_bare": {"file_name": "rows.json", "ranking": True},
    "kto": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": MESSAGES},
    "kto_plain": {"file_name": "rows.json",
                  "columns": {"prompt": "prompt", "response": "completion", "kto_tag": "good"}},
    "script": {"script_url": "belle"},
    "cloud": {"cloud_file_name": "s3://x/y.json"},
    "mind": {"om_hub_url": "x/y"},
    "seen": {"file_name": "rows.json", "formatting": "sharegpt",
             "columns": {"messages": "messages", "images": "images"}},
    "few": {"file_name": "rows.json", "split": "train[:10]"},
    "wrong": {"hf_hub_url": "a/b", "formatting": "sharegtp", "columns": {"promt": "a"}, "tags": {"role": "b"}},
    "odd": {"file_name": ["rows.json"], "num_samples": -1, "columns": 3},
    "nothing": {},
    "a list": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def run_of(make_run):
    """The run of a stage, composed once; which set it is of is put in afterwards."""

    @functools.cache
    def composed(stage):
        return make_run(f"stage={stage}", "data.name=instructions")

    return composed


@pytest.fixture
def theirs(run_of, tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(THEIRS, indent=2))
    (tmp_path / "rows.json").write_text('[{"text": "a"}]')

    def resolve_run(name, stage="sft"):
        chosen = {"registry": f"{tmp_path}/dataset_info.json", "name": name}
        (source,) = resolve.resolve(run_of(stage).data.model_copy(update=chosen), stage)
        return source

    return resolve_run


def has(source) -> dict[str, str]:
    return {column: user for column, user in source.columns.items() if user is not None}


@pytest.mark.parametrize(
    ("name", "stage", "format_", "columns"),
    [
        ("identity", "sft", "alpaca", {"instruction": "instruction", "input": "input", "output": "output"}),
        ("identity", "pt", "text", {"text": "instruction"}),
        ("identity", "grpo", "prompts", {"instruction": "instruction", "input": "input"}),
        ("wiki", "pt", "text", {"text": "text"}),
        ("wiki", "ppo", "prompts", {"instruction": "text"}),
        ("wiki_as_talk", "pt", "text", {"text": "text"}),
        ("orca", "sft", "alpaca", {"instruction": "question", "output": "response", "system": "system_prompt"}),
        ("tools", "sft", "sharegpt", {"conversations": "conversations", "tools": "tools"}),
        ("chat", "sft", "sharegpt", {"conversations": "messages"}),
        ("chat", "ppo", "prompts", {"conversations": "messages"}),
        ("openai", "sft", "messages", {"messages": "messages"}),
        ("openai_bare", "sft", "messages", {"messages": "conversations"}),
        ("dpo", "dpo", "preference", {"conversations": "conversations", "chosen": "chosen", "rejected": "rejected"}),
        ("dpo_plain", "rm", "preference",
         {"instruction": "question", "chosen": "better", "rejected": "worse", "system": "system"}),
        ("dpo_bare", "orpo", "preference",
         {"instruction": "instruction", "input": "input", "chosen": "chosen", "rejected": "rejected"}),
        ("kto", "kto", "kto", {"conversations": "messages", "label": "label"}),
        ("kto_plain", "kto", "kto", {"instruction": "prompt", "output": "completion", "label": "good"}),
    ],
)  # fmt: skip
def test_what_an_entry_of_theirs_means(theirs, name, stage, format_, columns):
    source = theirs(name, stage)
    assert (source.format, has(source)) == (format_, columns)
    assert set(source.columns) == set(COLUMNS[format_]) - {"id"}  # it has no columns but those it lists


def test_tags_of_theirs(theirs):
    words = {"role": "role", "content": "content", "user": "user", "assistant": "assistant"}
    assert theirs("chat").tags == theirs("kto", "kto").tags == words
    assert theirs("tools").tags == {} and theirs("openai_bare").tags["role"] == "from"


def test_rows_of_theirs_become_records(theirs):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": True}
    for name, stage in (("chat", "sft"), ("openai", "sft"), ("kto", "kto")):
        source = theirs(name, stage)
        record = CONVERTERS[source.format](Columns(row, source.columns, source.tags))
        assert "b" in str(record)


def test_places_of_theirs(theirs, tmp_path, monkeypatch):
    """A hub wins over a file, and Hugging Face's over ModelScope, unless the variable is set that says otherwise."""
    assert theirs("identity").splits == {"train": Files((tmp_path / "rows.json",))}
    source = theirs("orca")
    assert source.splits == {"train": Hub("o/orca", "hf", "train_sft", "en", folder="data")}
    assert source.num_samples == 5
    assert theirs("deep").splits == {"train": Hub("m/deep", "ms")}
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert theirs("orca").splits["train"].host == "ms"


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("script", ["script.script_url: loading scripts are not run"]),
        ("cloud", ["cloud.cloud_file_name: ftlab reads files, the Hugging Face hub and ModelScope."]),
        ("mind", ["mind.om_hub_url: ftlab reads files, the Hugging Face hub and ModelScope."]),
        ("seen", ["seen.columns.images: rows with images cannot be used; ftlab trains on text."]),
        ("few", ["few.split=train[:10]: of a file all rows are taken; data.max_samples takes fewer"]),
        ("wrong", ["wrong.formatting=sharegtp: must be one of: alpaca, sharegpt, openai. Did you mean sharegpt?",
                   "wrong.columns.promt: unknown. Known: prompt, ", "wrong.tags.role: unknown. Known: role_tag, "]),
        ("odd", ["odd.columns: must be an object, not int."]),
        ("nothing", ["nothing: has none of hf_hub_url, "]),
        ("a list", ["a list: must be an object with file_name or hf_hub_url."]),
    ],
)  # fmt: skip
def test_entries_of_theirs_that_are_of_no_use_are_refused_when_chosen(theirs, name, reasons):
    with pytest.raises(DataError) as caught:
        theirs(name)
    for reason in reasons:
        assert reason in str(caught.value)


def test_sets_of_theirs_that_do_not_fit_the_stage(theirs):
    """Those that would are named; so is what a set without answers is."""
    for name, stage, format_ in (("wiki", "sft", "text"), ("tools", "pt", "sharegpt"), ("dpo", "sft", "preference")):
        with pytest.raises(ConfigError) as caught:
            theirs(name, stage)
        assert f"data.name={name}: has {format_} rows, and stage={stage} trains on " in str(caught.value)
    assert "to be chosen with data=NAME: chat, deep, few, identity" not in str(caught.value)
    assert "to be chosen with data=NAME: chat, deep, identity, openai, openai_bare, orca, tools." in str(caught.value)
