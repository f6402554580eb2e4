"""Each command of the README and of docs/ does what the page says and prints what it shows, in 80 columns."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import pytest
from rich.cells import cell_len

from ftlab.config.paths import task_names
from tests.conftest import ROOT
from tests.walkthrough import COLUMNS, Said, alike, in_terminal, shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = "data.max_length=256 train.gradient_accumulation_steps=1"  # recipes have the batches of large models
# What a user puts in the place of an example. An embedded model stands for those of the hub, in a folder of its own.
STAND_INS = {
    "/models/Llama-3.2-1B": str(ROOT / "models" / "tiny"),
    "/models/my-llama": f"{ROOT / 'models' / 'tiny'} {SMALL}",
    "/models/anything": f"{ROOT / 'models' / 'tiny'} {SMALL}",
    "model=qwen2_5_0_5b": "model=tiny",
    "train.max_steps=200": "train.max_steps=4",
    "train.max_steps=400": "train.max_steps=12",
    "base=models/tiny": f"base={ROOT / 'models' / 'tiny'}",
    "ftlab diff A B": "ftlab diff outputs/a outputs/b",
    "hardware=8xh100": "hardware=cpu hardware.devices=2",
    "outputs/sweep-DATE-TIME": "outputs/sweep-*",
}
# A sentence names these: what they need besides stands elsewhere, or is a shell that is not here.
NAMES = {
    "ftlab resume", "ftlab resume DIR", "ftlab init", "ftlab inspect", "ftlab mine", "ftlab explain KEY",
    "ftlab slurm status outputs/my-sweep", "ftlab slurm cancel outputs/my-sweep", "ftlab resume outputs/my-sweep",
    "ftlab control SWEEP", "ftlab reproduce", "ftlab diff",
    "ftlab evaluate", "ftlab report", "ftlab package merge=true",
    "ftlab phase=codebase", "ftlab package verify FILE", "ftlab -sc install=fish | source",
}  # fmt: skip
NEEDS_A_CLUSTER = "hydra/launcher=slurm"  # the script alone is written
NEEDS_THE_HUB = {"ftlab model=llama3_8b"}  # its config is shown
NEEDS_DEEPSPEED = "deepspeed=z"  # its config is shown where the package is not installed
NEEDS_GPUS = "hardware=8x"  # its config is shown
DOES_NOT_FIT = "This run does not fit"  # what ftlab plan says at its end, with exit code 1
# Where a page's words are about a run that is there, or about rows of one kind.
BEFORE = {
    "README.md": ("ftlab run.name=a train.max_steps=44", "ftlab run.name=b train.max_steps=44 lora.r=8"),
    "runs.md": (
        "ftlab run.name=a train.max_steps=44 eval.steps=20 eval.generate_every=20",
        "ftlab run.name=b train.max_steps=44 lora.r=8",
    ),
    "evaluate.md": (
        "ftlab run.name=a train.max_steps=44 train.save_steps=20",
        "ftlab run.name=b train.max_steps=44 lora.r=8",
    ),
    "package.md": ("ftlab run.name=a train.max_steps=44",),
    "chat.md": (
        "ftlab run.name=a train.max_steps=44 train.save_steps=20",
        "ftlab run.name=b train.max_steps=44 lora.r=8",
    ),
    "serve.md": ("ftlab run.name=a train.max_steps=44", "ftlab run.name=b train.max_steps=44 lora.r=8"),
    "report.md": ("ftlab run.name=a train.max_steps=44", "ftlab run.name=b train.max_steps=44 lora.r=8"),
    "data.md": (
        "ftlab data.path=chats.jsonl data.format=messages model.template=qwen3 data.max_length=512",
        "ftlab data.path=my.json data.format=alpaca data.split.golden=golden.jsonl",
    ),
}
WHOLE = {"python -m ftlab"}  # its answers are shown
SHORT = ("train.max_steps=4", "eval.golden_rows=4", "eval.samples=2", "eval.max_new_tokens=8")


@pytest.fixture(scope="module")
def transcript() -> Iterator[TextIO]:
    with Path(os.environ.get("WALKTHROUGH", os.devnull)).open("w", encoding="utf-8") as file:
        yield file


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_page_says_what_happens(page, tmp_path, env, transcript):
    items = list(shown(page.read_text(encoding="utf-8")))
    prepare(tmp_path, page.read_text(encoding="utf-8"))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    env.pop("COLUMNS", None)
    typed: dict[str, int] = {}  # a command that stands there twice is typed once
    for item in items:
        if item.is_command and item.text not in NAMES:
            typed.setdefault(item.text, item.line)
    told, wrong = [], []
    for command, line in [*((before, 0) for before in BEFORE.get(page.name, ())), *typed.items()]:
        place, answers = f"{page.name}:{line}", typed_in(command)
        said = in_terminal(to_type(command), tmp_path, env, answers, timeout=900)
        told.append(said.text)
        found = [f"{place} {command}: {fault}" for fault in faults(said, command)]
        print(
            f"\n{place}  $ {to_type(command)}", "=" * COLUMNS, said.text, *found, sep="\n", file=transcript, flush=True
        )
        wrong += found
    configs = [
        file.read_text(encoding="utf-8") for file in (*tmp_path.glob("*.yaml"), *tmp_path.glob("*conf/**/*.yaml"))
    ]
    everything = alike("\n".join([*told, *configs]))  # a page may show what a command reads and writes
    printed = [item for item in items if not item.is_command]
    wrong += [
        f"{page.name}:{item.line} no command prints {item.text}"
        for item in printed
        if alike(item.text.removesuffix("...")) not in everything
    ]
    assert wrong == []


def typed_in(command: str) -> str:
    """What a user types into a command that asks."""
    if "ftlab chat" in command and "|" not in command:
        return "/?\nGive the capital city of Norway.\n/status\n/save chats.jsonl\n/bye\n"
    return "\n" * 3 if "ftlab init" in command else ""


def faults(said: Said, command: str) -> list[str]:
    """What no command of a page may do."""
    ended = [f"exit code {said.code}"] if said.code and DOES_NOT_FIT not in said.text else []
    fell = ["a traceback"] if "Traceback" in said.raw else []
    wide = said.too_wide if "format=json" not in command else []  # which a program reads
    return ended + fell + [f"{cell_len(line)} columns: {line}" for line in wide if " " in line.strip()]


def to_type(command: str) -> str:
    """What a user types who has read ``command``: with names of their own, and here few steps of training."""
    lacks_package = NEEDS_DEEPSPEED in command and find_spec("deepspeed") is None
    if command in NEEDS_THE_HUB or NEEDS_GPUS in command or lacks_package:
        return f"{command} --cfg job"
    if NEEDS_A_CLUSTER in command and "dry_run" not in command:
        command = f"{command} hydra.launcher.dry_run=true"
    if command.startswith("ftlab serve"):  # until Ctrl-C
        command = f"timeout --preserve-status -s INT 120 {command}"
    is_whole = command in WHOLE
    for example, real in STAND_INS.items():
        command = command.replace(example, real)
    words = shlex.split(command.removeprefix("python -m "))[1:]
    if is_whole or any(word in task_names() or word in ("--cfg", "--help") for word in words):
        return command
    return " ".join([command, *(key for key in SHORT if key.partition("=")[0] not in command)])


def prepare(folder: Path, page: str) -> None:
    """The files that the pages' commands name, and a git repository around them."""

    def rows(name: str) -> list[dict]:
        lines = (ROOT / "dataset" / name / "train.jsonl").read_text(encoding="utf-8").splitlines()[:100]
        return [json.loads(line) for line in lines]

    def write(name: str, rows: list[dict]) -> None:
        whole = name.endswith(".json")
        text = json.dumps(rows) if whole else "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")

    facts = rows("instructions")
    asked = [(f"{row['instruction']} {row['input']}".strip(), row["output"]) for row in facts]
    write("my.json", facts[:90])
    write("golden.json", facts[90:])
    write("golden.jsonl", [*facts[80:], {**facts[0], "output": "another"}])
    write(
        "my.jsonl", [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in asked]
    )
    write("chats.jsonl", [{"messages": chat(*asked[i - 1], *asked[i])} for i in range(len(asked))])
    write("pairs.jsonl", rows("preferences"))
    write("questions.jsonl", [{"question": q, "choices": [a, "no"], "answer": 0} for q, a in asked[:8]])
    write("notes.jsonl", [{"text": f"{q} {a}"} for q, a in asked])
    write("minutes.jsonl", facts)
    (folder / "sets.json").write_text(json.dumps({"minutes": {"file_name": "minutes.jsonl"}}), encoding="utf-8")
    (folder / "asked.jsonl").write_text("".join(golden_rows(page)), encoding="utf-8")
    experiment = folder / "my_conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    block = re.search(r"(?m)^    # @package _global_\n(?:    .*\n)+", page)
    experiment.write_text(re.sub("(?m)^    ", "", block[0]) if block else "# @package _global_\nseed: 3\n")
    if config := re.search(r"(?m)^    model_name_or_path.*\n(?:    .*\n)+", page):
        (folder / "dpo.yaml").write_text(re.sub("(?m)^    ", "", config[0]))
        line = "trl sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name my.json --use_peft --max_steps 4"
        (folder / "train.sh").write_text(f"{line}\n")
    git = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-C", str(folder)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    for number in range(12):
        if number % 3 == 0 and number:
            subprocess.run([*git, "switch", "-q", "-c", f"topic-{number}"], check=True)
        source = folder / "src" / f"part_{number % 4}.py"
        source.parent.mkdir(exist_ok=True)
        source.write_text(f'"""Part {number}."""\n\n\ndef size() -> int:\n    return {number}\n')
        subprocess.run([*git, "add", "src"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Part {number % 4} has size {number}"], check=True)
        if number % 3 == 2 and number > 2:
            subprocess.run([*git, "switch", "-q", "main"], check=True)
            merge = ["merge", "-q", "--no-ff", "-m", f"Merge sizes up to {number}", f"topic-{number - 2}"]
            subprocess.run([*git, *merge], check=True)


def speakers(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def chat(question: str, answer: str, next_question: str, next_answer: str) -> list[dict]:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"<think>\nThat is easy.\n</think>\n\n{answer}"},
        {"role": "user", "content": next_question},
        {"role": "assistant", "content": next_answer},
    ]


def golden_rows(page: str) -> list[str]:
    """The page's own, each in one line; its ``[...]`` is no tool."""
    found = re.search(r'(?m)^    \{"question".*\n(?:    .*\n)+', page)
    text = re.sub(r", \"tools\": \[\.\.\.\]", "", found[0]) if found else '{"question": "What is 3 plus 4?"}\n'
    return [f"{' '.join(row.split())}\n" for row in re.split(r"\n    (?=\{\")", text.strip("\n"))]
