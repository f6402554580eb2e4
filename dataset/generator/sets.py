"""The small shipped data sets: instructions, preferences, labels, prompts, each in three splits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from generator.cases import Case, Part, Skill
from generator.corpus import SKILLS
from generator.files import JsonRow, write_jsonl

PARTS: tuple[Part, ...] = ("train", "validation", "golden")
SEED = 20240

_SIZES: dict[str, dict[str, int]] = {
    "instructions": {"train": 1800, "validation": 150, "golden": 200},
    "preferences": {"train": 800, "validation": 100, "golden": 100},
    "labels": {"train": 800, "validation": 100, "golden": 100},
    "prompts": {"train": 600, "validation": 100, "golden": 100},
}


def _asked(name: str) -> Iterator[tuple[Part, Iterator[tuple[Random, Skill, Case, str, str]]]]:
    """For each split an endless stream of questions that no earlier split or row of the set has asked."""
    seen: set[tuple[str, ...]] = set()

    def stream(part: Part) -> Iterator[tuple[Random, Skill, Case, str, str]]:
        rng = Random(f"{name} {part} {SEED}")
        while True:
            skill = rng.choices(SKILLS, [skill.weight for skill in SKILLS])[0]
            case = skill.draw(rng, part)
            instruction, given = (case.fill(text) for text in rng.choice(skill.requests))
            # The same words in another split of instruction and input are the same question.
            key = tuple(sorted(f"{instruction} {given}".split()))
            if key not in seen:
                seen.add(key)
                yield rng, skill, case, instruction, given

    # Golden first: the others then avoid its questions.
    for part in ("golden", "validation", "train"):
        yield part, stream(part)


def same_shape(answer: str, candidates: tuple[str, ...]) -> list[str]:
    """Candidates with as many characters and words as ``answer``: no surface cue tells them apart."""
    return [c for c in candidates if len(c) == len(answer) and len(c.split()) == len(answer.split()) and c != answer]


def _question(instruction: str, given: str) -> str:
    return f"{instruction}\n{given}" if given else instruction


def _instruction_rows(stream: Iterator[tuple[Random, Skill, Case, str, str]], size: int) -> Iterator[JsonRow]:
    for _, _, case, instruction, given in islice(stream, size):
        yield {"instruction": instruction, "input": given, "output": case.answer}


def _preference_rows(stream: Iterator[tuple[Random, Skill, Case, str, str]], size: int) -> Iterator[JsonRow]:
    while size:
        rng, _, case, instruction, given = next(stream)
        if wrong := same_shape(case.answer, case.wrong):
            yield {"instruction": instruction, "input": given, "chosen": case.answer, "rejected": rng.choice(wrong)}
            size -= 1


def _label_rows(stream: Iterator[tuple[Random, Skill, Case, str, str]], size: int) -> Iterator[JsonRow]:
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


def _prompt_rows(stream: Iterator[tuple[Random, Skill, Case, str, str]], size: int) -> Iterator[JsonRow]:
    for _, _, case, instruction, given in islice(stream, size):
        yield {"prompt": _question(instruction, given), "answer": case.answer}


_ROWS = {
    "instructions": _instruction_rows,
    "preferences": _preference_rows,
    "labels": _label_rows,
    "prompts": _prompt_rows,
}


def write_sets(folder: Path) -> Iterator[tuple[Path, int]]:
    """Write every set into ``folder``; yields each file with its number of rows."""
    for name, sizes in _SIZES.items():
        for part, stream in _asked(name):
            path = folder / name / f"{part}.jsonl"
            yield path, write_jsonl(path, _ROWS[name](stream, sizes[part]))
