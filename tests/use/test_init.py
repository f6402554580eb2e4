"""``ftlab init FILE``: what a file is taken for, what is said of it, and the experiment that is written."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.config.compose import compose, config_loader, validate
from ftlab.data.sources.rows import Row
from ftlab.errors import ConfigError, DataError, NotReadyError
from ftlab.use.init.command import init
from ftlab.use.init.guess import ORDER, STAGES, guesses, select_fitting, tied_guesses

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def begun(capsys):
    """What ``ftlab init ...`` prints."""

    def run(*argv: str) -> str:
        given = command_line.read(["init", *argv])
        init(validate(compose(given.overrides)), [*given.single_flags, *given.overrides])
        return capsys.readouterr().out

    return run


def table(name: str, *rows: tuple[str, ...]) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def questions(name: str = "qa.csv", count: int = 8) -> None:
    numbers = [(f"Say {n}.", str(n), "web") for n in range(count)]
    table(name, ("Question", "Answer", "source"), *numbers)


QA = """\
# @package _global_
# ftlab --config-dir=conf experiment=qa
# Look at the rows first: ftlab inspect --config-dir=conf experiment=qa
# Prompts of your own, answered before and after: data.split.golden=FILE; of
# another format, or without answers: data.golden.format=prompts as well
defaults:
  - override /stage: sft
data:
  name: null                    # none of the registry's, but this
  path: qa.csv                  # from the folder that the command is given in
  format: alpaca                # all of the 8 rows read so
  columns: {instruction: Question, output: Answer}  # your columns by the format's; null: there is none
"""


def test_what_is_said_and_written(begun):
    questions()
    lines = [line.rstrip() for line in begun("qa.csv", "--yes").splitlines()]
    assert lines[:8] == [
        "qa.csv: the 8 rows",
        "format   rows that fit  columns used  with",
        "alpaca   8 of 8         2 of 3        Question as instruction, Answer as output",
        "prompts  8 of 8         2 of 3        Question as prompt, Answer as answer",
        "",
        "Taken as alpaca, for stage=sft.",
        "not used: source",
        "",
    ]
    first = lines.index("qa.csv:2   16 tokens, 2 trained")
    assert lines[first + 1 : first + 5] == [
        "<|im_start|>user↵", "Say 0.<|im_end|>↵", "<|im_start|>assistant↵", "⟦0<|im_end|>⟧↵",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines if line.startswith("qa.csv:") and "tokens" in line] == [
        "qa.csv:2", "qa.csv:3", "qa.csv:4",
    ]  # fmt: skip
    assert lines[-4:] == [
        "Written to conf/experiment/qa.yaml. It trains with",
        "  ftlab --config-dir=conf experiment=qa",
        "and shows all its rows with",
        "  ftlab inspect --config-dir=conf experiment=qa",
    ]
    assert Path("conf/experiment/qa.yaml").read_text() == QA


def test_golden_prompts_of_another_format_are_taken_over(begun):
    questions()
    Path("golden.jsonl").write_text('{"prompt": "Name a colour."}\n')
    begun("qa.csv", "-y", "data.split.golden=golden.jsonl", "data.golden.format=prompts")
    written = Path("conf/experiment/qa.yaml").read_text()
    assert "    golden: golden.jsonl" in written and "    format: prompts" in written


@pytest.mark.matrix
def test_what_is_written_can_be_shown_and_trained(begun, each, here):
    questions(count=40)
    begun("qa.csv", "-y")
    command = Path("conf/experiment/qa.yaml").read_text().splitlines()[1].removeprefix("# ftlab ")
    shown, trained, looked = lines = [
        f"{command} --cfg job",
        f"{command} train.max_steps=2 run.dir=out eval.samples=1 eval.golden_rows=0 eval.max_new_tokens=4",
        f"inspect {command}",
    ]
    done = each(lines)
    assert {line: end.stderr for line, end in done.items() if end.returncode} == {}
    assert "path: qa.csv" in done[shown].stdout
    assert json.loads((here / "out" / "manifest.json").read_text())["phases"]["sft"]["steps"] == 2, done[trained]
    assert done[looked].stdout.endswith("38 rows read back as the tokenizer's own template writes them\n")


def test_rows_that_cannot_be_used_are_counted_and_dropped(begun):
    table("qa.csv", ("question", "answer"), ("Say 1.", "1"), ("Say 2.", ""), ("Say 3.", "3"), ("Say 4.", "4"))
    said = begun("qa.csv", "--yes")
    assert "alpaca   3 of 4         2 of 2 " in said
    assert "1 row would be dropped, first qa.csv:3: column 'answer' is null\n" in said
    assert re.findall(r"^qa.csv:(\d)   \d+ tokens", said, re.MULTILINE) == ["2", "4", "5"]
    written = Path("conf/experiment/qa.yaml").read_text()
    assert "  format: alpaca                # 3 of the 4 rows read so\n" in written
    assert "  on_invalid: drop              # 1 of the 4 rows cannot be used: column 'answer' is null" in written


def test_what_the_user_said_is_kept(begun):
    questions()
    begun("qa.csv", "-y", "experiment=mine", "lora=r8", "data.max_length=64", "train.learning_rate=2e-4", "seed=3")
    run = validate(compose(["experiment=mine"], config_loader(str(Path("conf").resolve()))))
    assert (run.lora.r, run.data.max_length, run.train.learning_rate, run.seed) == (8, 64, 2e-4, 3)
    assert (run.data.path, run.data.name, run.stage.name) == ("qa.csv", None, "sft")
    lines = Path("conf/experiment/mine.yaml").read_text().splitlines()
    assert "  - override /lora: r8" in lines and "  max_length: 64                # as ftlab init was told" in lines


def test_a_length_that_keeps_long_rows_is_proposed_and_written(begun):
    rows = [{"prompt": f"{i}: " + "Say. " * n, "completion": "7"} for i, n in enumerate([1, 2, 3, 4, 200, 300] * 5)]
    Path("my.json").write_text(json.dumps(rows))
    said = begun("my.json", "-y")
    found = re.search(r"data\.max_length=(\d+) keeps all of the 30 rows whole, and is written", said)
    assert found and int(found[1]) % 64 == 0 and 256 < int(found[1]) <= 2048
    assert "dropped" not in said
    assert "my.json:5" in said, "the first that the default would have left out is shown beside the first three"
    written = Path("conf/experiment/my.yaml").read_text()
    assert f"  max_length: {found[1]}" in written
    assert "keeps (nearly) all of the 30 rows whole" in written


def test_a_length_that_was_given_stays_and_its_losses_are_told(begun):
    rows = [{"prompt": "Say. " * n, "completion": "7"} for n in (1, 200, 300)]
    Path("my.json").write_text(json.dumps(rows))
    said = begun("my.json", "-y", "data.max_length=256")
    assert "of the 3 rows: 2 would be dropped, nothing to learn within data.max_length=256\n" in said
    assert re.search(r"data\.max_length=\d+ would keep 99 % of them whole\n", said)
    assert "  max_length: 256               # as ftlab init was told" in Path("conf/experiment/my.yaml").read_text()


def test_what_the_template_leaves_out_is_told_before_anything_is_written(begun):
    turns = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1.", "reasoning_content": "One."}]
    rows = [{"messages": [*turns[:1], {"role": "assistant", "content": "1."}]}, {"messages": turns}]
    Path("my.jsonl").write_text("not JSON\n" + "".join(json.dumps(row) + "\n" for row in rows))
    said = begun("my.jsonl", "-y")
    assert "left out by the template: reasoning (message 2)\n" in said
    assert "1 of the 3 rows: the template leaves out reasoning, first my.jsonl:3. Name a template that" in said


def test_rows_longer_than_the_model_can_have_are_told(begun):
    rows = [{"prompt": "Say. " * n, "completion": "7"} for n in (1, 5, 3000)]
    Path("my.json").write_text(json.dumps(rows))
    said = begun("my.json", "-y")
    assert "would be dropped, nothing to learn within data.max_length=2048" in said
    assert "more than the 2,048 positions of model=tiny" in said
    Path("long.json").write_text(json.dumps(rows[2:]))
    said = begun("long.json", "-y")
    assert "Its rows cannot be shown with model=tiny: long.json: no row of train is left to learn from" in said
    assert Path("conf/experiment/long.yaml").is_file()


# --- guesses ---------------------------------------------------------------------------------------------------------

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SPOKEN = [{"speaker": "customer", "text": "q"}, {"speaker": "agent", "text": "a"}]


@pytest.mark.parametrize(
    ("row", "format_", "columns", "tags"),
    [
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", {}, {}),
        ({"query": "q", "response": "a"}, "alpaca", {"instruction": "query", "output": "response"}, {}),
        ({"input": "q", "output": "a"}, "alpaca", {"instruction": "input", "input": None}, {}),
        ({"instruction": "q", "context": "c", "response": "a"}, "instruction", {}, {}),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", {}, {}),
        ({"prompt": "q", "answer": "a"}, "prompts", {}, {}),
        ({"problem": "q", "solution": "a"}, "alpaca", {"instruction": "problem", "output": "solution"}, {}),
        ({"Q": "q", "A": "a"}, "alpaca", {"instruction": "Q", "output": "A"}, {}),
        ({"messages": MESSAGES}, "messages", {}, {}),
        ({"conversations": TURNS}, "sharegpt", {}, {}),
        ({"dialog": MESSAGES}, "messages", {"messages": "dialog"}, {}),
        ({"turns": SPOKEN}, "messages", {"messages": "turns"},
         {"role": "speaker", "content": "text", "user": "customer", "assistant": "agent"}),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference", {}, {}),
        ({"question": "q", "better": "a", "worse": "b"}, "preference",
         {"prompt": "question", "chosen": "better", "rejected": "worse"}, {}),
        ({"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "b"}]}, "preference", {}, {}),
        ({"prompt": "q", "completion": "a", "label": True}, "kto", {}, {}),
        ({"question": "q", "reply": "a", "kto_tag": False}, "kto",
         {"prompt": "question", "completion": "reply", "label": "kto_tag"}, {}),
        ({"messages": MESSAGES, "is_good": 1}, "kto", {"label": "is_good"}, {}),
        ({"question": "q"}, "prompts", {"prompt": "question"}, {}),
        ({"text": "t"}, "text", {}, {}),
        ({"title": "x", "body": "t"}, "text", {"text": "body"}, {}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_every_format_is_known_by_its_columns(row, format_, columns, tags):
    best = select_fitting(guesses([Row(1, row), Row(2, {**row, "id": "x"})], ORDER, {}))[0]
    assert (best.format, best.columns, best.tags) == (format_, columns, tags)
    assert best.share == 1 and best.unused == (["title"] if "title" in row else [])


def test_two_meanings_of_the_same_columns_are_both_there():
    rows = [Row(n, {"question": "q", "answer": str(n)}) for n in range(3)]
    assert [guess.format for guess in tied_guesses(select_fitting(guesses(rows, ORDER, {})))] == ["alpaca", "prompts"]
    rows = [Row(n, {"text": "t"}) for n in range(3)]
    assert [guess.format for guess in tied_guesses(select_fitting(guesses(rows, ORDER, {})))] == ["text"]


def test_a_column_that_the_user_named_is_taken():
    rows = [Row(1, {"one": "q", "two": "a"})]
    best = guesses(rows, ORDER, {"instruction": "one", "output": "two"})[0]
    assert (best.format, best.columns) == ("alpaca", {"instruction": "one", "output": "two"})


@pytest.mark.parametrize(
    ("name", "format_", "stage"),
    [
        ("alpaca_en_demo.json", "alpaca", "sft"),
        ("kto_en_demo.json", "kto", "kto"),
        ("glaive_toolcall_en_demo.json", "sharegpt", "sft"),
        ("dpo_zh_demo.json", "preference", "dpo"),
        ("c4_demo.jsonl", "text", "pt"),
    ],
)
def test_llama_factorys_files(name, format_, stage, begun):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    said = begun(str(SHARED / name), "--yes")
    assert f"\nTaken as {format_}, for stage={stage}.\n" in said and "not used" not in said
    run = validate(compose([f"experiment={Path(name).stem}"], config_loader(str(Path("conf").resolve()))))
    assert (run.data.path, run.data.format, run.stage.name) == (str(SHARED / name), format_, stage)
    assert (run.data.columns, run.data.tags, run.data.on_invalid) == ({}, {}, "error")


def test_files_of_every_kind(begun, here):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["Say 1."], "chosen": ["1"], "rejected": ["2"]}), here / "pairs.parquet")
    assert "Taken as preference, for stage=rm." in begun("pairs.parquet", "-y", "stage=rm")
    Path("lines.txt").write_text("one\ntwo\n")
    assert "Taken as text, for stage=pt." in begun("lines.txt", "-y")
    Path("code/part").mkdir(parents=True)
    Path("code/part/a.py").write_text("print(1)\n")
    said = begun("code", "-y")
    assert "Taken as text, for stage=pt." in said and "code/part/a.py:1   " in said and "(1)↵\n<|endoftext|>⟧" in said
    assert Path("conf/experiment/code.yaml").read_text().count("path: code ") == 1


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.matrix
def test_on_a_terminal_it_asks_what_it_cannot_know(here, env):
    """A real terminal: a wrong answer is asked again, and what is answered is what is written."""
    questions()
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab", "init", "qa.csv"],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=here, env={**env, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(terminal)
    said, answers, deadline = b"", ["dpo", "grpo", "no name", "mine"], time.monotonic() + 90
    while time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            try:
                piece = os.read(controller, 4096)
            except OSError:  # the process is gone
                break
            said += piece
            if not piece:
                break
        elif answers and said.rstrip(b" ").endswith(b":"):
            os.write(controller, f"{answers.pop(0)}\n".encode())
            said += b"\n"
    os.close(controller)
    text = said.decode()
    assert process.wait(30) == 0, text
    assert "[sft/grpo/ppo]" in text and "Please select one of the available options" in text
    assert "letters, digits, _, . and - only" in text and "\x1b[" in text
    assert "  - override /stage: grpo\n" in Path("conf/experiment/mine.yaml").read_text()


def test_without_a_terminal_it_says_one_line(each):
    questions()
    lines = ["init qa.csv", "init qa.csv stage=sft experiment=mine"]
    message = "ftlab init asks before it writes, and nobody is here to ask. --yes takes the best guess.\n"
    ends = {line: (done.returncode, done.stdout, done.stderr) for line, done in each(lines).items()}
    assert ends == dict.fromkeys(lines, (1, "", message))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_experiment_is_not_overwritten_unless_told(begun):
    questions()
    begun("qa.csv", "-y")
    Path("conf/experiment/qa.yaml").write_text("mine")
    with pytest.raises(NotReadyError) as caught:
        begun("qa.csv", "-y")
    assert str(caught.value) == (
        "conf/experiment/qa.yaml is there already. --overwrite replaces it, experiment=NAME writes another."
    )
    assert Path("conf/experiment/qa.yaml").read_text() == "mine"
    begun("qa.csv", "-y", "--overwrite")
    assert Path("conf/experiment/qa.yaml").read_text() == QA


def test_another_place_for_it(begun):
    questions()
    begun("qa.csv", "-y", "out=a b/experiment/x.yaml")
    assert "# ftlab '--config-dir=a b' experiment=x\n" in Path("a b/experiment/x.yaml").read_text()
    begun("qa.csv", "-y", "out=own")
    assert Path("own/experiment/qa.yaml").is_file()
    with pytest.raises(ConfigError, match=r"task.out=x.yaml: .* out=experiment/x.yaml"):
        begun("qa.csv", "-y", "out=x.yaml")


def test_nothing_fits(begun):
    Path("odd.json").write_text(json.dumps([{"prompt": 1, "chosen": "x"}, {"chosen": "y"}]))
    with pytest.raises(DataError) as caught:
        begun("odd.json", "-y")
    assert str(caught.value).splitlines() == [
        "odd.json: no format fits the 2 rows (columns 'prompt', 'chosen'). The nearest:",
        "  - prompt_completion: odd.json:1: column 'prompt' must be a string or a list of messages, not int",
        "  - preference: odd.json:1: needs 'prompt'|'instruction'|'messages'|'conversations' + 'chosen' + 'rejected', "
        "or 'chosen' + 'rejected'; it has 'prompt', 'chosen'",
        "  - kto: odd.json:1: needs 'prompt'|'instruction' + 'completion'|'output'|'response' + 'label', or "
        "'messages'|'conversations' + 'label'; it has 'prompt', 'chosen'",
        "Rename columns, or say what they are: ftlab init odd.json data.columns.instruction=YOURS",
    ]
    assert not Path("conf").exists()


@pytest.mark.parametrize(
    ("argv", "error", "said"),
    [
        (["nope.json"], DataError, "nope.json does not exist. Relative paths start from the current folder."),
        ([], ConfigError, "task.file: which file? For example: ftlab init my.json"),
        (["qa.csv", "stage=dpo"], DataError, "It reads as alpaca, for stage=sft."),
        (["bad.json"], DataError, "bad.json: "),
        (["qa.csv", "experiment=a/b"], ConfigError, "task.experiment=a/b: "),
        (["qa.csv", "out=qa.csv"], NotReadyError, "qa.csv/experiment/qa.yaml cannot be written: Not a directory."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_named(argv, error, said, begun):
    questions()
    Path("bad.json").write_text("{'no': json}")
    with pytest.raises(error) as caught:
        begun(*argv, "--yes")
    assert said in str(caught.value)
    assert not Path("conf").exists()


def test_a_flag_switches_a_key_of_the_task_and_no_other(mistakes):
    assert "task.yes=true" in command_line.read(["init", "x", "-y"]).overrides
    assert mistakes("init x --yes") == []
    assert "Did you mean --yes?" in mistakes("init x --yess")[0]
    assert "no such flag" in mistakes("train --yes")[0]


def test_every_format_has_a_stage():
    assert sorted(STAGES) == sorted(ORDER) and all(STAGES.values())


def test_as_json_what_was_found_and_written(begun):
    questions()
    said = json.loads(begun("qa.csv", "--yes", "format=json"))
    assert (said["format"], said["stage"], said["experiment"]) == ("alpaca", "sft", "conf/experiment/qa.yaml")
    assert [(one["format"], one["fit"]) for one in said["formats"]] == [("alpaca", 8), ("prompts", 8)]
    assert said["command"] == "ftlab --config-dir=conf experiment=qa"
    assert Path("conf/experiment/qa.yaml").read_text() == QA


def test_as_json_nothing_is_asked(begun):
    questions()
    with pytest.raises(NotReadyError, match=r"format=json says what was found, with --yes"):
        begun("qa.csv", "format=json")


def test_a_name_of_a_shipped_experiment_is_refused(begun):
    questions()
    with pytest.raises(NotReadyError, match="ftlab ships an experiment=tiny_base"):
        begun("qa.csv", "--yes", "experiment=tiny_base")
