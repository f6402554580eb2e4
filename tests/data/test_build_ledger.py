"""Whatever the rows are, each of them and every token is in the ledger once, and no bad row touches its neighbours."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlab.errors import DataError
from tests.data.helpers import options, texts, turns

SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}
words = st.text(st.sampled_from("0123456789 ab漢😀\n"), min_size=1, max_size=30).filter(str.strip)
long_words = st.integers(1, 150).map("0123456789".__mul__).map(lambda text: text[: len(text) // 7 + 1])
contents = st.one_of(words, long_words)
dialogue = (
    st.integers(1, 4).flatmap(lambda n: st.lists(contents, min_size=2 * n, max_size=2 * n)).map(lambda c: turns(*c))
)
weighed = dialogue.flatmap(
    lambda messages: st.lists(st.sampled_from([0, 1, None]), min_size=len(messages), max_size=len(messages)).map(
        lambda weights: [{**m, "weight": w} if m["role"] == "assistant" else m for m, w in zip(messages, weights)]
    )
)
question = st.lists(contents, min_size=1, max_size=1).map(lambda c: turns(*c))
asked = st.one_of(contents, st.tuples(dialogue, question).map(lambda parts: parts[0] + parts[1]))
two = st.tuples(contents, contents).filter(lambda pair: pair[0] != pair[1])


def rows(**columns):
    return st.fixed_dictionaries(columns)


# Format -> stage, good rows, one of them that always fits, rows that are malformed in ways of their own.
FORMATS = {
    "alpaca": ("sft", rows(instruction=contents, output=contents), {"instruction": "1", "output": "2"},
               [{"instruction": "1"}, {"instruction": "1", "output": ""}, {"instruction": 3, "output": "1"}]),
    "sharegpt": ("sft", rows(conversations=dialogue.map(lambda ms: [
        {"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in ms])),
        {"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]},
        [{"conversations": [{"from": "gpt", "value": "2"}]}, {"conversations": [{"from": "who", "value": "2"}]}]),
    "messages": ("sft", rows(messages=weighed), {"messages": turns("1", "2")},
                 [{"messages": turns("1")}, {"messages": []}, {"messages": [{"role": "user", "content": 1}]}]),
    "instruction": ("sft", rows(instruction=contents, context=contents, response=contents),
                    {"instruction": "1", "response": "2"}, [{"instruction": "1"}, {"response": "2"}]),
    "prompt_completion": ("sft", rows(prompt=asked, completion=contents), {"prompt": "1", "completion": "2"},
                          [{"prompt": "1"}, {"prompt": [], "completion": "2"}]),
    "preference": ("dpo", st.builds(lambda p, two: {"prompt": p, "chosen": two[0], "rejected": two[1]}, asked, two),
                   {"prompt": "1", "chosen": "2", "rejected": "3"},
                   [{"prompt": "1", "chosen": "2", "rejected": "2"}, {"prompt": "1", "chosen": "2"}]),
    "kto": ("kto", rows(prompt=asked, completion=contents, label=st.booleans()),
            {"prompt": "1", "completion": "2", "label": True},
            [{"prompt": "1", "completion": "2", "label": "perhaps"}, {"prompt": "1", "label": True}]),
    "prompts": ("grpo", rows(prompt=asked, answer=st.text("12")), {"prompt": "1", "answer": "2"},
                [{"answer": "2"}, {"prompt": ""}]),
    "text": ("pt", rows(text=contents), {"text": "1"}, [{"text": ""}, {"txt": "1"}, {"text": 5}]),
}  # fmt: skip
BROKEN = [
    b"{",
    b'["1", "2"]',
    b'{"text": "\xff"}',
    b'{"text": "\\u0000"}',
    b"\0",
    b"5",
    b'{"a": "\\ud800"}',
    b"[" * 9000,
]


@st.composite
def files(draw, format_):
    """Lines of a file, each with whether it is a good row."""
    _, good, small, malformed = FORMATS[format_]
    bad = st.one_of(st.sampled_from(BROKEN), st.sampled_from(malformed).map(lambda row: json.dumps(row).encode()))
    line = st.one_of(good.map(lambda row: (True, json.dumps(row).encode())), bad.map(lambda line: (False, line)))
    lines = draw(st.lists(line, max_size=10))
    lines.insert(draw(st.integers(0, len(lines))), (True, json.dumps(small).encode()))
    return lines


def prepared_file(bench, path, lines, overrides):
    path.write_bytes(b"\n".join(lines))
    try:
        return bench.prepare(*overrides)
    except DataError as error:
        assert "no row of train is left to learn from" in str(error), error
        return None


def ways(path, format_):
    """Overrides that together have every way to cut, to pack and to repeat."""
    stage = FORMATS[format_][0]
    common = ("data.on_invalid=drop", "data.max_length=24" if format_ in ("text", "prompts") else "data.max_length=32")
    if format_ == "text":
        for overlap in (0, 1, 5):
            yield texts(path, *common, f"data.overlap={overlap}", f"data.packing={overlap != 1}")
        yield texts(path, *common, "data.packing=false", "data.num_samples=9")
        for reset in (True, False):
            yield texts(path, *common, "data.packing=wrapped", f"data.reset_positions={reset}")
        yield texts(path, *common, "data.packing=wrapped", "data.num_samples=7")
        return
    packings = {"right": "true", "left": "true", "turns": "false", "drop": "true"}
    train_on = {"right": "by_message", "left": "assistant", "turns": "by_message", "drop": "last"}
    for truncation, packing in packings.items():
        yield options(format_, path, f"stage={stage}", *common, f"data.truncation={truncation}",
                      f"data.packing={packing}", f"data.train_on={train_on[truncation]}")  # fmt: skip
    yield options(format_, path, f"stage={stage}", *common, "data.num_samples=8", "data.packing=true",
                  "data.train_on=all")  # fmt: skip


@pytest.mark.parametrize("format_", FORMATS)
def test_every_row_and_token_is_in_the_ledger_once(bench, tmp_path_factory, check_prepared, samples_of, format_):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    configs = list(ways(path, format_))
    for overrides in configs:
        bench.config(*overrides)  # composed before rows are drawn

    @settings(max_examples=10, **SETTINGS)
    @given(files(format_), st.sampled_from(configs))
    def check(lines, overrides):
        prepared = prepared_file(bench, path, [line for _, line in lines], overrides)
        if prepared is None:
            return
        check_prepared(prepared)
        ledger = prepared.ledger.splits["train"]
        assert ledger.rows_in == len(lines)
        named = {where for reasons in ledger.named.values() for where in reasons}
        limited = any("num_samples" in override for override in overrides) and len(lines) > 6
        for number, (is_good, _) in enumerate(lines, 1):
            assert is_good or limited or f"{path}:{number}" in named, "every malformed row is named"
        assert ledger.rows_kept <= sum(is_good for is_good, _ in lines)
        if any("num_samples" in override for override in overrides):
            return  # which rows are drawn depends on how many there are
        clean = prepared_file(bench, path, [line for is_good, line in lines if is_good], overrides)
        mine, theirs = samples_of(prepared.train), samples_of(clean.train)
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs):
            assert one.input_ids.tolist() == other.input_ids.tolist()
            assert one.learned.tolist() == other.learned.tolist()
        assert ledger.tokens_in == clean.ledger.splits["train"].tokens_in

    check()


MIXES = [("data.mix=concat",)] + [
    (f"data.mix={mix}", *shares)
    for mix in ("interleave_under", "interleave_over")
    for shares in ((), ("data.probabilities=[0.5,0.3,0.2]",))
]


def test_every_row_and_token_of_a_mix_is_in_the_ledger_once(bench, tmp_path_factory, check_prepared):
    folder = tmp_path_factory.mktemp("sets")
    formats = ("alpaca", "messages", "instruction")
    registry = folder / "sets.yaml"
    registry.write_text("".join(f"{f}: {{format: {f}, files: {{train: {f}.jsonl}}}}\n" for f in formats))
    overrides = [f"data.registry={registry}", f"data.name=[{','.join(formats)}]",
                 "data.on_invalid=drop", "data.max_length=32", "data.split.fraction=0.3"]  # fmt: skip
    for mix in MIXES:
        bench.config(*overrides, *mix)  # composed before rows are drawn

    @settings(max_examples=40, **SETTINGS)
    @given(
        st.tuples(*map(files, formats)),
        st.sampled_from(MIXES),
        st.sampled_from([(), ("data.num_samples=6",), ("data.max_samples=4",)]),
    )
    def check(sets, mix, more):
        for format_, lines in zip(formats, sets):
            (folder / f"{format_}.jsonl").write_bytes(b"\n".join(line for _, line in lines))
        try:
            prepared = bench.prepare(*overrides, *mix, *more)
        except DataError as error:
            assert "is left to learn from" in str(error)
            return
        check_prepared(prepared)
        total = sum(split.rows_in for split in prepared.ledger.splits.values())
        assert total == sum(map(len, sets))

    check()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_of_which_nothing_is_left_stops_the_run(bench, write, split):
    files = {"train": {"text": "12"}, "validation": {"text": "12"}, split: {"text": ""}}
    paths = {name: write(f"{name}.jsonl", [row]) for name, row in files.items()}
    overrides = texts(paths["train"], f"data.split.validation={paths['validation']}", "data.on_invalid=drop")
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides)
    assert str(caught.value) == f"{paths[split]}: no row of {split} is left to learn from (column 'text' is empty: 1)."
