"""Multiple choice, beside lm-evaluation-harness on the same file; and the harness itself on a local task."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest

from ftlab.errors import ConfigError, DataError, NotReadyError
from ftlab.policy.from_run import Policy
from ftlab.rundir.directory import RunDir
from ftlab.use.evaluate.choices import LETTERS, read_choices
from tests.conftest import ROOT
from tests.runs import BARE, train_run
from tests.use.test_evaluate import evaluated, found

TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
    dev: {folder}/dev.jsonl
test_split: test
fewshot_split: dev
fewshot_config:
  sampler: first_n
output_type: multiple_choice
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\
\\nAnswer:"
doc_to_choice: ["A", "B", "C"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module", params=["sft", "pt"])
def trained(tmp_path_factory, request) -> RunDir:
    folder = tmp_path_factory.mktemp("choices") / request.param
    rows = tmp_path_factory.mktemp("rows") / "text.jsonl"
    rows.write_text("".join(f'{{"text": "a text of number {i}"}}\n' for i in range(40)))
    stage = ["data.max_samples=32"] if request.param == "sft" else ["stage=pt", f"data.path={rows}", "data.format=text"]
    return train_run(
        folder, *stage, *BARE, "train.max_steps=2", "data.max_length=128", "train.gradient_accumulation_steps=1"
    )


@pytest.fixture
def run(here, trained, monkeypatch) -> Path:
    shutil.copytree(trained.path, here / "run", symlinks=True)
    write(here)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return here / "run"


def write(folder: Path, count: int = 30) -> None:
    """Questions of the words that the embedded model knows, as rows and as MMLU's CSV."""
    draw = random.Random(3)
    rows = [json.loads(line) for line in (ROOT / "dataset/instructions/train.jsonl").read_text().splitlines()]
    answers = sorted({row["output"] for row in rows if row["output"].isalpha()})
    for name, part in (("dev", rows[:4]), ("test", rows[10 : 10 + count])):
        questions = []
        for row in part:
            choices = draw.sample(answers, 3)
            questions.append({"question": row["instruction"], "choices": choices, "answer": draw.randrange(3)})
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in questions))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([one["question"], *one["choices"], LETTERS[one["answer"]]] for one in questions)
    (folder / "task.yaml").write_text(TASK.format(folder=folder))


@pytest.mark.parametrize("shots", [pytest.param(0, marks=pytest.mark.matrix), 3])
def test_multiple_choice_is_that_of_the_harness(run, here, shots):
    pytest.importorskip("lm_eval", reason="pip install 'ftlab[lm_eval]'")
    given = ("suite=multiple_choice", "tasks=[test.jsonl]", f"few_shot={shots}", "few_shot_file=dev.jsonl")
    evaluated("run", *given, "out=ours")
    evaluated("run", "suite=lm_eval", "tasks=[task.yaml]", f"few_shot={shots}", "out=theirs", "eval.batch_size=4")
    (ours, lines), (theirs, others) = found("ours"), found("theirs")
    assert len(lines) == len(others) == 30
    for line, other in zip(lines, others):
        logprobs = [float(choice[0]) for choice in other["prediction"]]
        assert line["logprobs"] == pytest.approx(logprobs, abs=2e-5)
        assert float(line["reference"] == line["prediction"]) == other["scores"]["acc"]
    accuracy, of_harness = ours["metrics"]["accuracy"], theirs["metrics"]["capitals acc"]
    assert accuracy == of_harness and 0 < accuracy["value"] < 1


def test_files_of_both_kinds_are_one_and_what_was_found_is_kept(run, here, monkeypatch):
    evaluated("run", "suite=multiple_choice", "tasks=[test.jsonl]", "few_shot=2", "few_shot_file=dev.csv", "out=rows")
    evaluated("run", "suite=multiple_choice", "tasks=[test.csv]", "few_shot=2", "few_shot_file=dev.csv")
    rows, lines = found("rows")[0]["metrics"], found("run/evaluations/choices-test-2-shot")
    assert rows == lines[0]["metrics"]
    monkeypatch.setattr(Policy, "load", lambda *_: pytest.fail("nothing has to be asked"))
    evaluated("run", "suite=multiple_choice", "tasks=[test.csv]", "few_shot=2", "few_shot_file=dev.csv")
    assert found("run/evaluations/choices-test-2-shot")[1] == lines[1]


def test_a_folder_is_a_task_for_each_file_and_bases_are_compared(run, here, capsys):
    (here / "mmlu").mkdir()
    for name in ("birds", "fish"):
        shutil.copy("test.csv", f"mmlu/{name}.csv")
    evaluated("run", "suite=multiple_choice", "tasks=[mmlu]", "limit=5", "compare=base", "format=json")
    told = json.loads(capsys.readouterr().out)
    assert [*told["metrics"]] == ["accuracy", "accuracy birds", "accuracy fish"]
    assert [one["rows"] for one in told["metrics"].values()] == [10, 5, 5]
    assert [*told["compare"]["base"]] == [*told["metrics"]]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, 1),
        ({"question": "q", "choices": ["a", "b"], "answer": "B"}, 1),
        ({"question": "q", "choices": ["a", "b"], "answer": "b"}, 1),
        ({"question": "q", "A": "a", "B": "b", "answer": "A"}, 0),
        ({"question": "q", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}, 2),
    ],
)
def test_answers_in_whatever_words(here, row, answer):
    Path("q.jsonl").write_text(json.dumps(row) + "\n")
    (one,) = read_choices(["q.jsonl"], None)
    assert one.answer == answer and one.text.startswith("q\nA. a\nB. b\n") and one.text.endswith("Answer:")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": "E"}, r"q\.jsonl:1: answer='E' is none of its choices"),
        ({"question": "q", "choices": ["a", "b"]}, r"answer=None is none of its choices"),
        ({"question": "q", "choices": ["a"], "answer": 0}, r"wants a question, and two choices or more"),
        ({"text": "q"}, r"wants a question, and two choices or more"),
    ],
)
def test_a_row_that_is_no_question_is_told(here, row, said):
    Path("q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said):
        read_choices(["q.jsonl"], None)


@pytest.mark.parametrize(
    ("argv", "error", "said"),
    [
        (("suite=multiple_choice",), ConfigError, "name files of questions"),
        (("suite=multiple_choice", "tasks=[no.csv]"), DataError, r"no\.csv does not exist"),
        (("suite=multiple_choice", "tasks=[test.csv]", "few_shot=3"), ConfigError, "say where they are: few_shot_file"),
        (("suite=multiple_choice", "tasks=[test.csv]", "data=labels"), ConfigError, "has questions of its own"),
        (("tasks=[test.csv]",), ConfigError, r"task\.tasks: is of suite=multiple_choice or suite=lm_eval"),
        (("suite=lm_eval",), ConfigError, "name tasks of lm_eval"),
        (("suite=lm_eval", "tasks=[dev.yaml]"), ConfigError, r"dev\.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_told(run, trained, argv, error, said):
    if trained.path.name == "pt":
        return
    with pytest.raises(error, match=said):
        evaluated("run", *argv)


def test_a_harness_that_is_not_installed_is_told(run, monkeypatch):
    from ftlab.use.evaluate import harness

    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(NotReadyError, match=r"suite=lm_eval needs the package lm_eval: pip install 'ftlab\[lm_eval\]'"):
        evaluated("run", "suite=lm_eval", "tasks=[task.yaml]")
