"""What a skill is: how to draw one case of it, how prose states it, and how an instruction asks for it.

A skill is described in two vocabularies that must not meet. ``statements`` and ``remarks`` go into the corpus, so that
the base model learns the skill itself; ``requests`` go into the instruction data, and the base never sees that wording.
What fine-tuning then has to teach is the form of the answer, not the knowledge behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Part = Literal["all", "train", "validation", "golden"]

SEED = 20261  # which words each split may ask about, the rows of the sets, and the order of draws in the corpus

# Share of a table's keys that each split may ask about; the corpus ("all") states every key.
_PART_RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1.0),
    "train": (0.0, 0.76),
    "validation": (0.76, 0.86),
    "golden": (0.86, 1.0),
}


@dataclass(frozen=True)
class Case:
    """One instance of a skill: the slots that its sentences are filled with, the answer, and wrong answers."""

    skill: str
    slots: dict[str, str]
    answer: str
    wrong: tuple[str, ...]  # plausible: from the same table, or from elsewhere in the same prompt

    def fill(self, template: str) -> str:
        return template.format(answer=self.answer, Answer=capital(self.answer), **self.slots)


@dataclass(frozen=True)
class Skill:
    """A family of questions with one right answer each."""

    name: str
    draw: Callable[[Random, Part], Case]
    statements: tuple[str, ...]  # sentences of the corpus; what is asked stands before the answer
    remarks: tuple[tuple[str, str], ...]  # (user, assistant) turns of the corpus: whole sentences both
    requests: tuple[tuple[str, str], ...]  # (instruction, input) of the fine-tuning data
    weight: float = 1.0  # share among the rows of the fine-tuning data
    corpus_weight: float = 1.0  # share among the statements of the corpus
    words: tuple[str, ...] = ()  # a table's keys, for notes about one word
    about: Callable[[str], Case] | None = None  # the case of one of them
    tell: Callable[[Random], list[Case]] | None = None  # all the cases that one little story holds


def split_keys(name: str, keys: Sequence[str], part: str) -> list[str]:
    """The keys that ``part`` may ask about. Splits never share a key, so a golden answer cannot be looked up."""
    shuffled = list(keys)
    Random(f"split of {name} {SEED}").shuffle(shuffled)
    low, high = _PART_RANGES[part]
    return shuffled[round(low * len(shuffled)) : round(high * len(shuffled))]


def table_skill(
    name: str,
    table: Sequence[tuple[str, str]],
    statements: tuple[str, ...],
    remarks: tuple[tuple[str, str], ...],
    requests: tuple[tuple[str, str], ...],
    weight: float = 1.0,
    corpus_weight: float = 1.0,
) -> Skill:
    """A skill whose questions and answers are a table of (word, answer)."""
    answers = dict(table)
    words = tuple(answers)
    keys_of = {part: split_keys(name, words, part) for part in _PART_RANGES}
    every_answer = tuple(dict.fromkeys(answers.values()))

    def about(word: str) -> Case:
        wrong = tuple(answer for answer in every_answer if answer not in (answers[word], word))
        return Case(name, {"word": word, "Word": capital(word)}, answers[word], wrong)

    def draw(rng: Random, part: Part) -> Case:
        return about(rng.choice(keys_of[part]))

    return Skill(name, draw, statements, remarks, requests, weight, corpus_weight, words, about)


def capital(text: str) -> str:
    """``text`` with its first letter in upper case, the others as they are."""
    return text[:1].upper() + text[1:]
