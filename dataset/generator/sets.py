"""The small shipped data sets: instructions, preferences, labels, prompts, each in three splits.

Preferences and labels are about manners (:mod:`generator.manners`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from generator import manners
from generator.cases import SEED, Case, Part, Skill
from generator.corpus import SKILLS
from generator.files import JsonRow, write_jsonl

_ORDER: tuple[Part, ...] = ("golden", "validation", "train")

_SIZES: dict[str, dict[str, int]] = {
    "instructions": {"train": 1800, "validation": 150, "golden": 200},
    "preferences": {"train": 800, "validation": 100, "golden": 100},
    "labels": {"train": 800, "validation": 100, "golden": 100},
    "prompts": {"train": 600, "validation": 100, "golden": 100},
}
REHEARSED = 250  # ordinary questions in the training split of preferences and of labels

Question = tuple[Random, Skill, Case, str, str]  # the last two: instruction and input


def _questions(name: str, part: Part, seen: set[tuple[str, ...]]) -> Iterator[Question]:
    """Questions of one split without end; none is in ``seen``, to which each is added."""
    rng = Random(f"{name} {part} {SEED}")
    weights = [skill.weight for skill in SKILLS]
    while True:
        skill = rng.choices(SKILLS, weights)[0]
        case = skill.draw(rng, part)
        instruction, given = (case.fill(text) for text in rng.choice(skill.requests))
        # The same words in another split of instruction and input are the same question.
        key = tuple(sorted(f"{instruction} {given}".split()))
        if key not in seen:
            seen.add(key)
            yield rng, skill, case, instruction, given


def same_shape(answer: str, candidates: tuple[str, ...]) -> list[str]:
    """Candidates with as many characters and words as ``answer``: no surface cue tells them apart."""
    return [c for c in candidates if len(c) == len(answer) and len(c.split()) == len(answer.split()) and c != answer]


def _question(instruction: str, given: str) -> str:
    return f"{instruction}\n{given}" if given else instruction


def _instruction_rows(stream: Iterator[Question], size: int) -> Iterator[JsonRow]:
    for _, _, case, instruction, given in islice(stream, size):
        yield {"instruction": instruction, "input": given, "output": case.answer}


def _preference_rows(stream: Iterator[Question], size: int) -> Iterator[JsonRow]:
    while size:
        rng, _, case, instruction, given = next(stream)
        if wrong := same_shape(case.answer, case.wrong):
            yield {"instruction": instruction, "input": given, "chosen": case.answer, "rejected": rng.choice(wrong)}
            size -= 1


def _label_rows(stream: Iterator[Question], size: int) -> Iterator[JsonRow]:
    made = 0
    while made < size:
        rng, _, case, instruction, given = next(stream)
        if wrong := same_shape(case.answer, case.wrong):
            label = made % 2 == 0
            content = case.answer if label else rng.choice(wrong)
            messages = [
                {"role": "user", "content": _question(instruction, given)},
                {"role": "assistant", "content": content},
            ]
            yield {"messages": messages, "label": label}
            made += 1


def _prompt_rows(stream: Iterator[Question], size: int) -> Iterator[JsonRow]:
    for _, _, case, instruction, given in islice(stream, size):
        yield {"prompt": _question(instruction, given), "answer": case.answer}


def _about_manners(name: str, part: Part, ordinary: list[JsonRow], seen: set[str]) -> list[JsonRow]:
    """Rows of a set about manners. Training has some ordinary questions among them, a right answer and a wrong one, so
    that a stage that learns what is likely goes on answering; the held-out splits have none, and measure manners alone.
    """
    kept = ordinary[:REHEARSED] if part == "train" else []
    rows = [*islice(_MANNERS[name](part, seen), len(ordinary) - len(kept)), *kept]
    Random(f"{name} order {part} {SEED}").shuffle(rows)
    return rows


_MANNERS = {"preferences": manners.preferences, "labels": manners.labels}
_ROWS = {
    "instructions": _instruction_rows,
    "preferences": _preference_rows,
    "labels": _label_rows,
    "prompts": _prompt_rows,
}


def write_sets(folder: Path) -> Iterator[tuple[Path, int]]:
    """Write every set into ``folder``; yields each file with its number of rows."""
    # The golden questions of all sets come first: whatever is trained on afterwards, in any set, avoids them.
    golden: set[tuple[str, ...]] = set()
    seen = dict.fromkeys(_SIZES, golden)
    requests: set[str] = set()
    for part in _ORDER:
        for name, sizes in _SIZES.items():
            path = folder / name / f"{part}.jsonl"
            rows = list(_ROWS[name](_questions(name, part, seen[name]), sizes[part]))
            if name in _MANNERS:
                rows = _about_manners(name, part, rows, requests)
            yield path, write_jsonl(path, rows)
        if part == "golden":
            seen = {name: set(golden) for name in _SIZES}
