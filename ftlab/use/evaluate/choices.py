"""Questions with choices, as MMLU has them: answered by whichever letter the model finds likeliest.

The prompt and the choice between letters are those of lm-evaluation-harness for a task of the type ``multiple_choice``
whose ``doc_to_choice`` are letters: earlier questions with their answers are turns of the conversation
(``fewshot_as_multiturn``), or, without a template, paragraphs before the question.
"""

from __future__ import annotations

import csv
import hashlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.base.user_functions import shorten
from ftlab.data.packing.store import Sample
from ftlab.data.sources.paths import find
from ftlab.data.tokens.literals import begin_token
from ftlab.errors import ConfigError, DataError, Mistake
from ftlab.measure.intervals import mean
from ftlab.measure.scores import scored, weighted
from ftlab.policy.tokens import Tokens
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.use.evaluate.kept import KeptEvaluation, Measured, Subject
from ftlab.use.evaluate.losses import log_probabilities

LETTERS = string.ascii_uppercase
_ANSWERS = ("answer", "answerKey", "label", "target")
_AT_ONCE = 64  # questions between two writings


@dataclass(frozen=True)
class Choices:
    """A question. :param answer: the place of the right choice. :param task: the file's name, without its ending."""

    number: int
    where: str
    task: str
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.choices)]

    @property
    def text(self) -> str:
        """As MMLU asks it."""
        listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(self.letters, self.choices))
        return f"{self.question.strip()}\n{listed}Answer:"


def read_choices(files: Sequence[str], limit: int | None) -> list[Choices]:
    """The questions of files, folders and patterns. :param limit: questions at most of each file.

    :raises ConfigError: no file is named. :raises DataError: a file is missing, or a row is no such question.
    """
    if not files:
        raise ConfigError([Mistake("task.tasks", "name files of questions: tasks=[mmlu/test]")])
    found: list[Choices] = []
    for named in files:
        for path in find(named, Path(), "task.tasks").paths:
            for place, (row, values) in enumerate(_rows(path)):
                if limit is not None and place >= limit:
                    break
                found.append(_question(len(found), path, row, values))
    if len(found) == 0:
        raise DataError(f"{', '.join(files)}: there are no questions.")
    return found


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers. MMLU's own CSV files have no line that names the columns."""
    if path.suffix != ".csv":
        for block in find(str(path), Path(), "task.tasks").blocks():
            for row in block.rows():
                if row.problem is not None or not isinstance(row.value, Mapping):
                    raise DataError(f"{path}:{row.number}: {row.problem or 'is not an object with columns'}.")
                yield row.number, row.value
        return
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    names = [name.strip() for name in lines[0]] if lines else []
    has_names = "question" in names
    for number, line in enumerate(lines[has_names:], 1 + has_names):
        named = names if has_names else ["question", *LETTERS[: len(line) - 2], "answer"]
        if len(line) != len(named) or len(line) < 4:
            raise DataError(
                f"{path}:{number}: has {len(line)} columns; a question, its choices and the answer are wanted."
            )
        yield number, dict(zip(named, line))


def _question(number: int, path: Path, row: int, values: Mapping[str, Any]) -> Choices:
    where = f"{path}:{row}"
    question, choices = values.get("question"), values.get("choices")
    labels: Any = None
    if isinstance(choices, Mapping):  # as ARC has them
        labels, choices = choices.get("label"), choices.get("text")
    if choices is None:
        choices = [values[letter] for letter in LETTERS if letter in values]
    if not isinstance(question, str) or not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{where}: wants a question, and two choices or more: a list, or columns A, B, C, D.")
    answer = next((values[name] for name in _ANSWERS if values.get(name) is not None), None)
    place = _place(answer, [str(choice) for choice in choices], labels)
    if place is None:
        raise DataError(
            f"{where}: answer={shorten(answer)} is none of its choices: the letter, its place from 0, or the choice."
        )
    return Choices(number, where, path.stem, question, tuple(str(choice) for choice in choices), place)


def _place(answer: Any, choices: Sequence[str], labels: Sequence[str] | None) -> int | None:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer if 0 <= answer < len(choices) else None
    if not isinstance(answer, str):
        return None
    for known in (labels or (), LETTERS[: len(choices)], choices):
        if answer.strip() in known:
            return list(known).index(answer.strip())
    return int(answer) if answer.strip().isdigit() and int(answer) < len(choices) else None


class ChoicesEvaluation(KeptEvaluation):
    """:param asked: the questions. :param shown: those that are shown with their answers before each."""

    def __init__(self, subject: Subject, asked: Sequence[Choices], shown: Sequence[Choices]):
        super().__init__(subject)
        self._asked, self._shown = asked, shown[: self.task.few_shot or 0]
        self._found: dict[int, list[float]] = {}
        self._samples = [_samples(one, self._shown, self.tokens) for one in asked]
        self._check_room()

    @property
    def name(self) -> str:
        tasks = list(dict.fromkeys(one.task for one in self._asked))
        return f"choices-{tasks[0] if len(tasks) == 1 else f'{len(tasks)}-files'}-{len(self._shown)}-shot"

    def depends_on(self) -> dict[str, Any]:
        found = hashlib.sha256()
        for samples in self._samples:
            found.update(json.dumps([sample.input_ids.tolist() for sample in samples]).encode())
        return {"choices": found.hexdigest()}

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> int:
        self._found = {line["row"]: line["logprobs"] for line in lines if "logprobs" in line}
        return len(self._found)

    def work(self, files: EvaluationDir) -> None:
        left = [place for place, one in enumerate(self._asked) if one.number not in self._found]
        if not left:
            return
        budget = self.config.eval.batch_size * self.config.data.max_length
        with self.subject.progress(f"{self.subject.label}: choosing", len(left), "questions") as bar:
            for start in range(0, len(left), _AT_ONCE):
                part = left[start : start + _AT_ONCE]
                values = log_probabilities(self.loaded, [s for place in part for s in self._samples[place]], budget)
                rest = iter(values)
                lines = [
                    {"row": self._asked[place].number, "logprobs": [next(rest) for _ in self._samples[place]]}
                    for place in part
                ]
                files.add(lines)
                self._found |= {line["row"]: line["logprobs"] for line in lines}  # type: ignore[misc]
                bar.advance(len(part))

    def measured(self) -> list[Measured]:
        tasks = list(dict.fromkeys(one.task for one in self._asked))
        found = [self._accuracy("accuracy", self._asked)]
        if len(tasks) > 1:
            found += [
                self._accuracy(f"accuracy {task}", [one for one in self._asked if one.task == task]) for task in tasks
            ]
        return found

    def _accuracy(self, name: str, asked: Sequence[Choices]) -> Measured:
        hits = weighted([float(self._chosen(one) == one.answer) for one in asked])
        return Measured(scored(name, hits, mean, self.config.seed), [one.number for one in asked])

    def _chosen(self, one: Choices) -> int:
        return int(np.argmax(self._found[one.number]))

    def lines(self, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
        return [
            {
                "row": one.number, "where": one.where, "question": one.question, "choices": one.choices,
                "reference": one.letters[one.answer], "prediction": one.letters[self._chosen(one)],
                "logprobs": self._found[one.number],
            }
            for one in self._asked
        ]  # fmt: skip

    def about(self) -> dict[str, Any]:
        tasks = ", ".join(dict.fromkeys(one.task for one in self._asked))
        return {
            "data": tasks,
            "split": f"{len(self._shown)}-shot",
            "rows": len(self._asked),
            "few_shot": len(self._shown),
            "left_out": {},
        }

    def _check_room(self) -> None:
        """:raises DataError: a question is longer than the context."""
        room = self.config.model.architecture.max_positions
        for one, samples in zip(self._asked, self._samples):
            if (length := max(len(sample.input_ids) for sample in samples)) > room:
                raise DataError(
                    f"{one.where}: this question has {length:,} tokens with the {len(self._shown)} before it, and the "
                    f"model's context {room:,}. Show fewer: few_shot={max(len(self._shown) // 2, 0)}."
                )


def _samples(one: Choices, shown: Sequence[Choices], tokens: Tokens) -> list[Sample]:
    """The question with each of its letters, of which the letter is scored."""
    if tokens.template is not None:
        turns = [
            message
            for other in shown
            for message in (
                {"role": "user", "content": other.text},
                {"role": "assistant", "content": other.letters[other.answer]},
            )
        ]
        prompt, between = tokens.template.prompt([*turns, {"role": "user", "content": one.text}]), ""
    else:
        between = " "
        prompt = "".join(f"{other.text} {other.letters[other.answer]}\n\n" for other in shown) + one.text
    return [_sample(prompt, f"{between}{letter}", tokens) for letter in one.letters]


def _sample(prompt: str, answer: str, tokens: Tokens) -> Sample:
    """As lm-evaluation-harness encodes a pair: both at once, white space at the end of the prompt with the answer."""
    bare = prompt.rstrip()
    begin = [] if tokens.template is not None or (first := begin_token(tokens.tokenizer)) is None else [first]
    whole, before = (
        [*begin, *tokens.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (prompt + answer, bare)
    )
    learned = np.zeros(len(whole), dtype=bool)
    learned[len(before) :] = True
    learned[:1] = False  # nothing precedes it
    return Sample(np.array(whole, dtype=np.int32), learned)
