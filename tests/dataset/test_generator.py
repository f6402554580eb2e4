"""The shipped data sets, the corpus and the tokenizer of ``models/tiny``, checked against what they promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from generator import manners
from generator.code import source_file
from generator.corpus import SKILLS, documents
from generator.curriculum import commit, phase_random, pull_request
from generator.words import NAMES, THINGS

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT / "dataset"
TINY = ROOT / "models" / "tiny"

SETS = ("instructions", "preferences", "labels", "prompts")
PARTS = ("train", "validation", "golden")
PHASES = ("phase1_foundation", "phase2_evolution", "phase3_pr_mastery")
SIZES = {
    "instructions": (1800, 150, 200),
    "preferences": (800, 100, 100),
    "labels": (800, 100, 100),
    "prompts": (600, 100, 100),
}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def question(row: dict) -> str:
    if "messages" in row:
        return row["messages"][0]["content"]
    if "prompt" in row:
        return row["prompt"]
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def shipped_files() -> list[Path]:
    files = [DATASET / name / f"{part}.jsonl" for name in SETS for part in PARTS]
    return files + [DATASET / f"{name}{part}.jsonl" for name in PHASES for part in ("", ".validation")]


def generate(*arguments: str) -> None:
    subprocess.run([sys.executable, DATASET / "generate.py", *arguments], check=True, capture_output=True)


# ---------------------------------------------------------------- data sets


def test_samples_regenerate_byte_for_byte(tmp_path: Path) -> None:
    generate("samples", "--out", str(tmp_path))
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert made == sorted(path.relative_to(DATASET) for path in shipped_files())
    for path in made:
        assert (tmp_path / path).read_bytes() == (DATASET / path).read_bytes(), path


@pytest.mark.parametrize("name", SETS)
def test_sizes_and_columns(name: str) -> None:
    columns = {
        "instructions": ["instruction", "input", "output"],
        "preferences": ["instruction", "input", "chosen", "rejected"],
        "labels": ["messages", "label"],
        "prompts": ["prompt", "answer"],
    }[name]
    for part, size in zip(PARTS, SIZES[name], strict=True):
        rows = read(DATASET / name / f"{part}.jsonl")
        assert len(rows) == size
        assert all(list(row) == columns for row in rows)


@pytest.mark.parametrize("name", SETS)
def test_no_question_stands_twice_in_a_set(name: str) -> None:
    questions = [question(row) for part in PARTS for row in read(DATASET / name / f"{part}.jsonl")]
    assert len(set(questions)) == len(questions)


def test_no_golden_question_is_trained_in_another_set() -> None:
    golden = {question(row) for name in SETS for row in read(DATASET / name / "golden.jsonl")}
    for name in SETS:
        for part in PARTS[:2]:
            asked = {question(row) for row in read(DATASET / name / f"{part}.jsonl")}
            assert not golden & asked, (name, part)


def test_instructions_come_with_and_without_input_and_with_short_answers() -> None:
    rows = read(DATASET / "instructions" / "train.jsonl")
    with_input = sum(bool(row["input"]) for row in rows) / len(rows)
    assert 0.3 < with_input < 0.8
    assert all(1 <= len(row["output"].split()) <= 8 for row in rows)


def _word_grams(text: str) -> set[str]:
    return set(text.lower().split())


def _char_grams(text: str) -> set[str]:
    return {text[i : i + 3].lower() for i in range(len(text) - 2)}


@pytest.mark.parametrize("grams", [_word_grams, _char_grams])
def test_answers_cannot_be_looked_up_at_the_nearest_training_prompt(grams) -> None:
    train = [(grams(question(row)), row["output"]) for row in read(DATASET / "instructions" / "train.jsonl")]
    golden = read(DATASET / "instructions" / "golden.jsonl")
    hits = 0
    for row in golden:
        own = grams(question(row))
        nearest = max(train, key=lambda other: len(own & other[0]) / len(own | other[0]))
        hits += nearest[1] == row["output"]
    assert hits / len(golden) < 0.3


def test_no_answer_is_frequent() -> None:
    answers = Counter(row["output"] for row in read(DATASET / "instructions" / "golden.jsonl"))
    assert answers.most_common(1)[0][1] <= 10  # of 200


@pytest.mark.parametrize("part", PARTS)
def test_preferences_are_matched_in_length_and_in_words(part: str) -> None:
    for row in read(DATASET / "preferences" / f"{part}.jsonl"):
        assert row["chosen"] != row["rejected"]
        assert len(row["chosen"]) == len(row["rejected"]), row
        assert len(row["chosen"].split()) == len(row["rejected"].split()), row
        if part != "train":
            assert sorted(row["chosen"].split()) == sorted(row["rejected"].split()), row


def offered(request: str) -> tuple[str, ...]:
    """The two ways of a request, in its order; nothing for the ordinary questions of training."""
    words = [word.strip("?;.,") for word in request.split()]
    return tuple(word for word in words if word in manners.PLEASANT + manners.UNPLEASANT)


@pytest.mark.parametrize("part", ("validation", "golden"))
def test_no_surface_cue_tells_the_preferred_answer(part: str) -> None:
    """What is offered first, stands first in the alphabet: near a half; all ways have one length."""
    rows = read(DATASET / "preferences" / f"{part}.jsonl")
    firsts = [(offered(question(row)), row["chosen"].split()[0], row["rejected"].split()[0]) for row in rows]
    cues = {
        "offered first": [ways[0] == chosen for ways, chosen, _ in firsts],
        "alphabet": [chosen < rejected for _, chosen, rejected in firsts],
    }
    assert {len(word) for _, *words in firsts for word in words} == {6}
    for cue, hits in cues.items():
        assert 0.3 <= sum(hits) / len(hits) <= 0.7, (part, cue)


@pytest.mark.parametrize("name", ("preferences", "labels"))
def test_manners_are_held_out_with_their_names_and_things(name: str) -> None:
    def ways(part: str) -> set[frozenset[str]]:
        requests = [question(row) for row in read(DATASET / name / f"{part}.jsonl")]
        return {frozenset(offered(request)) for request in requests if len(offered(request)) == 2}

    def held_out(part: str, words: tuple[str, ...]) -> set[str]:
        asked = [question(row) for row in read(DATASET / name / f"{part}.jsonl") if len(offered(question(row))) == 2]
        return {word for request in asked for word in re.findall(r"\w+", request) if word in words}

    for part in ("validation", "golden"):
        assert len(ways(part)) >= 10
        assert not ways(part) & ways("train")
        for words in (NAMES, THINGS):
            assert not held_out(part, words) & held_out("train", words)


@pytest.mark.parametrize("part", PARTS)
def test_labels_are_half_true(part: str) -> None:
    rows = read(DATASET / "labels" / f"{part}.jsonl")
    assert sum(row["label"] is True for row in rows) * 2 == len(rows)
    assert all([message["role"] for message in row["messages"]] == ["user", "assistant"] for row in rows)


def test_answers_are_right_where_arithmetic_can_tell() -> None:
    seen = 0
    for row in read(DATASET / "instructions" / "train.jsonl"):
        if row["instruction"] == "Calculate.":
            a, sign, b = row["input"].split()
            assert int(row["output"]) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            seen += 1
        elif row["instruction"] == "Reverse the letters.":
            assert row["output"] == "-".join(reversed(row["input"].removeprefix("Word: ")))
            seen += 1
    assert seen > 50


# ---------------------------------------------------------------- curriculum


def apply_diff(before: str, diff: str) -> str:
    """Apply the hunks of a unified diff of one file; every context and removed line must match."""
    source, result, at = before.split("\n"), [], 0
    lines = iter(diff.rstrip("\n").split("\n"))
    for line in lines:
        if line.startswith("@@"):
            old = line.split()[1].removeprefix("-").split(",")
            start = int(old[0]) - 1
            result += source[at:start]
            at = start
        elif result or at or not line.startswith(("diff ", "--- ", "+++ ")):
            kind, text = line[:1], line[1:]
            if kind in (" ", "-", ""):
                assert source[at] == text, line
                at += 1
            if kind in (" ", "+", ""):
                result.append(text)
    return "\n".join(result + source[at:])


def made_rows(name: str, make) -> dict[str, object]:
    """Row text -> change, for as many attempts as the shipped file can have needed."""
    changes = (make(phase_random(name, attempt)) for attempt in range(400))
    return {(change[0] if isinstance(change, tuple) else change).text: change for change in changes}


def test_commits_apply_to_the_file_before() -> None:
    made = made_rows("phase2_evolution", commit)
    rows = read(DATASET / "phase2_evolution.jsonl") + read(DATASET / "phase2_evolution.validation.jsonl")
    for row in rows:
        text = row["training_content"]
        change = made[text]
        assert apply_diff(change.before, text[text.index("diff --git") :]) == change.after
        assert change.before != change.after


def test_commits_apply_with_git(tmp_path: Path) -> None:
    made = made_rows("phase2_evolution", commit)
    for row in read(DATASET / "phase2_evolution.jsonl")[:10]:
        text = row["training_content"]
        change = made[text]
        target = tmp_path / change.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(change.before, encoding="utf-8", newline="\n")
        diff = text[text.index("diff --git") :]
        subprocess.run(["git", "apply", "-"], input=diff.encode(), cwd=tmp_path, check=True, capture_output=True)
        assert target.read_text(encoding="utf-8") == change.after


def test_pull_requests_apply_one_after_the_other() -> None:
    made = made_rows("phase3_pr_mastery", pull_request)
    for row in read(DATASET / "phase3_pr_mastery.jsonl"):
        text = row["training_content"]
        first, second = made[text]
        start = text.index("diff --git")
        assert apply_diff(first.before, text[start : text.index("\n## Review")]) == first.after
        assert apply_diff(first.after, text[text.index("diff --git", start + 1) :]) == second.after
        for heading in ("## Description", "## Diff", "## Review", "## Resolution"):
            assert heading in text


@pytest.mark.parametrize(("name", "rows"), zip(PHASES, (120, 100, 60), strict=True))
def test_curriculum_rows(name: str, rows: int) -> None:
    train, validation = read(DATASET / f"{name}.jsonl"), read(DATASET / f"{name}.validation.jsonl")
    assert (len(train), len(validation)) == (rows, 10)
    texts = [row["training_content"] for row in train + validation]
    assert all(list(row) == ["training_content"] for row in train + validation)
    assert len(set(texts)) == len(texts)
    assert all(450 <= len(text) <= 4096 for text in texts)


def test_generated_python_compiles() -> None:
    files = [source_file(phase_random("compile", attempt)) for attempt in range(60)]
    python = [file for file in files if file.language.name == "python"]
    assert len(python) > 20
    for file in python:
        compile(file.text, file.path, "exec")
        for function in file.functions:
            for edit in function.edits:
                compile(file.apply(file.text, edit), file.path, "exec")


# ---------------------------------------------------------------- corpus


def test_corpus_is_deterministic_and_a_longer_one_starts_with_the_shorter(tmp_path: Path) -> None:
    generate("corpus", "--documents", "50", "--out", str(tmp_path / "a.jsonl"))
    rows = read(tmp_path / "a.jsonl")
    assert [row["text"] for row in rows] == list(documents(1, 80))[:50]
    assert list(documents(2, 5)) != list(documents(1, 5))


def test_one_document_in_seven_is_a_chat_and_none_asks_a_golden_question() -> None:
    texts = list(documents(1, 2000))
    chats = sum("<|im_start|>" in text for text in texts) / len(texts)
    assert 0.11 < chats < 0.19
    corpus = "\n".join(texts)
    for name in SETS:
        for row in read(DATASET / name / "golden.jsonl"):
            assert f"user\n{question(row)}<|im_end|>" not in corpus
    for skill in SKILLS:
        for instruction, _ in skill.requests:
            fixed = instruction.split("{")[0].strip()
            assert len(fixed) < 12 or fixed not in corpus, instruction


# ---------------------------------------------------------------- tokenizer, template, size


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(TINY)


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界",
        "🙂 🏳️‍🌈 👩‍💻",
        "naïve café ß",
        "a\r\n\tb  c \u0000\u200b",
        "עברית العربية",
        "x" * 300,
        "  12345.67 ",
    ],
)
def test_any_text_round_trips(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_split_and_marks_are_single_tokens(tokenizer) -> None:
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    for mark in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>", "<tool_call>", "</tool_response>"):
        assert len(tokenizer(mark)["input_ids"]) == 1
    assert tokenizer.decode(tokenizer("<tool_call>x</tool_call>")["input_ids"], skip_special_tokens=True) == (
        "<tool_call>x</tool_call>"
    )


def test_special_tokens(tokenizer) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|endoftext|>", "<|pad|>", None)
    assert len(tokenizer) == 2304
    config = json.loads((TINY / "config.json").read_text())
    generation = json.loads((TINY / "generation_config.json").read_text())
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert generation["eos_token_id"] == stops
    assert generation["pad_token_id"] == config["pad_token_id"] == tokenizer.pad_token_id
    assert config["vocab_size"] == 2304
    assert config["tie_word_embeddings"] is False


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One cat."},
    {"role": "assistant", "content": "Two cats."},
    {"role": "user", "content": "One dog."},
    {"role": "assistant", "content": "Two dogs."},
]


def test_template_renders_two_turns(tokenizer) -> None:
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nOne cat.<|im_end|>\n"
        "<|im_start|>assistant\nTwo cats.<|im_end|>\n"
        "<|im_start|>user\nOne dog.<|im_end|>\n"
        "<|im_start|>assistant\nTwo dogs.<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(MESSAGES[1:2], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nOne cat.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_generation_marks_hold_the_answers_and_their_end(tokenizer) -> None:
    encoded = tokenizer.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "Two cats.<|im_end|>Two dogs.<|im_end|>"


def test_template_renders_tools(tokenizer) -> None:
    messages = [
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert tokenizer.apply_chat_template(messages, tools=tools, tokenize=False) == (
        "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add"}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\nAdd.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
    )


def test_shipped_size() -> None:
    assert sum(path.stat().st_size for path in shipped_files()) < 2.5e6
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 8e6


def test_written_files_are_the_generators_own(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    generate("tokenizer", "--out", str(tmp_path))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (TINY / name).read_bytes(), name
