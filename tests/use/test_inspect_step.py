"""``ftlab inspect RUN step=N``: exactly the rows that the trainer took in that step, with their files and numbers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.config import command_line
from ftlab.config.compose import compose, validate
from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import ConfigError, RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.use.inspect.command import inspect
from tests.runs import train_run

COUNT = 7  # rows: of two and two in a step, the last step of an epoch has three
SHORT = (
    "train.epochs=2", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2", "eval.samples=0",
    "eval.golden_rows=0", "tracker=none", "data.split.validation=none", "data.split.golden=none", "data.max_length=64",
)  # fmt: skip
REWARD = "def differs(completions, **_):\n    return [float(i % 2) for i, _ in enumerate(completions)]\n"
FORMATS = {"pt": "text", "sft": "alpaca", "kto": "kto", "dpo": "preference", "ppo": "prompts", "grpo": "prompts"}
MORE = {
    "ppo": ("stage.rollout_batch_size=4", "stage.mini_batch_size=2", "stage.ppo_epochs=2", "stage.max_new_tokens=4"),
    "grpo": ("stage.num_generations=2", "stage.steps_per_generation=4", "stage.num_iterations=2",
             "stage.max_new_tokens=4"),
}  # fmt: skip

Taken = list[tuple[int, list[list[int]]]]  # of each micro-batch: its optimizer step, and the ids of its samples


def row(stage: str, number: int) -> dict[str, Any]:
    question, answer = f"Which is {number}th?", f"It is {'the word of ' * (number % 3)}{number}."
    return {
        "pt": {"text": f"{question} {answer} " * (1 + number % 4)},
        "sft": {"instruction": question, "output": answer},
        "kto": {"prompt": question, "completion": answer, "label": number % 2 == 0},
        "dpo": {"prompt": question, "chosen": answer, "rejected": f"None of {number}."},
    }.get(stage, {"prompt": question, "answer": str(number)})


def file_of(folder: Path, stage: str, count: int = COUNT) -> Path:
    file = folder / f"{stage}.jsonl"
    file.write_text("".join(json.dumps(row(stage, number)) + "\n" for number in range(1, count + 1)))
    return file


class Recorded(PhaseHooks):
    """Has the trainer write down what it takes."""

    def __init__(self) -> None:
        self.taken: Taken = []

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        stage, pad = phase.config.stage.name, phase.tokenizer.pad_token_id
        step_of_training = trainer.training_step

        def training_step(model: Any, inputs: Any, *more: Any) -> Any:
            step = trainer.state.global_step + 1
            micro_batch = getattr(trainer, "_step", 0)
            loss = step_of_training(model, inputs, *more)
            if stage == "grpo":
                taken = trainer._buffered_inputs[micro_batch % trainer.args.steps_per_generation]
                prompts = list(dict.fromkeys(taken["prompt_rows"].tolist()))
                self.taken.append((step, [trainer._train_rows[index].ids for index in prompts]))
                return loss
            if stage == "ppo":
                rollout = trainer._rollout
                rows = trainer._mini_batch(*divmod(step - 1, trainer._steps_per_rollout)).tolist()
                ids = [rollout.ids_BL[i, : rollout.starts_B[i]].tolist() for i in rows]
                self.taken.append((step, [[token for token in one if token != pad] for one in ids]))
            else:
                self.taken.append((step, samples_of(inputs, pad)))
            return loss

        trainer.training_step = training_step


def samples_of(inputs: Any, pad: int) -> list[list[int]]:
    """The ids of every sample of a batch: positions start again with each that has its prompt to itself."""
    if "spans" in inputs:
        tokens = inputs["input_ids"].flatten().tolist()
        parts = inputs["spans"].tolist()
        return [tokens[begin : begin + shared] + tokens[at : at + length] for at, length, begin, shared in parts]
    found: list[list[int]] = []
    for ids, positions in zip(inputs["input_ids"].tolist(), inputs["position_ids"].tolist()):
        for token, position in zip(ids, positions):
            if position == 0:
                found.append([])
            found[-1].append(token)
    return [sample for sample in found if sample != [pad]]


@pytest.fixture
def recorded(here) -> Callable[..., tuple[RunDir, Taken]]:
    """A run, and what its trainer took."""

    def run(stage: str, *overrides: str) -> tuple[RunDir, Taken]:
        recorded = Recorded()
        (here / "rewards.py").write_text(REWARD)
        rewards = (f"stage.rewards=[{here}/rewards.py:differs]",) if stage in MORE else ()
        data = (f"data.path={file_of(here, stage)}", f"data.format={FORMATS[stage]}")
        run_dir = train_run(
            here / "run", f"stage={stage}", *SHORT, *data, *MORE.get(stage, ()), *rewards, *overrides, hooks=recorded
        )
        return run_dir, recorded.taken

    return run


@pytest.fixture
def inspected(capsys):
    """What ``ftlab inspect ...`` prints."""

    def run(*words: str) -> str:
        given = command_line.read(["inspect", *words]).overrides
        capsys.readouterr()
        inspect(validate(compose(given)), given)
        return capsys.readouterr().out

    return run


def shown(said: str) -> list[tuple[int, str, list[int]]]:
    """Of each sample: the number of its micro-batch, its title after that, its ids."""
    found = re.findall(r"^micro-batch (\d+) of \d+, row \d+ of \d+   (.*)\n(?:(?!ids: ).*\n)*ids: (.*)$", said, re.M)
    return [(int(m), title, [int(i) for i in re.sub("[⟦⟧]", "", ids).split()]) for m, title, ids in found]


def by_micro(said: str) -> list[list[list[int]]]:
    samples = shown(said)
    return [[ids for m, _, ids in samples if m == micro] for micro in sorted({m for m, _, _ in samples})]


@pytest.mark.parametrize(
    ("stage", "given"),
    [pytest.param("sft", ("data.packing=false",), marks=pytest.mark.matrix), ("sft", ("data.max_samples=null",)),
     pytest.param("pt", ("data.max_length=24",), marks=pytest.mark.matrix),
     ("pt", ("data.packing=wrapped", "data.max_length=24")), ("dpo", ("data.packing=false",)), ("kto", ()),
     pytest.param("ppo", (), marks=pytest.mark.matrix),
     pytest.param("grpo", (), marks=pytest.mark.matrix)],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "-",
)  # fmt: skip
def test_every_step_shows_what_the_trainer_took(stage, given, recorded, inspected):
    """Over two epochs, micro-batches and accumulation, and the last step of an epoch, which is not full."""
    run_dir, taken = recorded(stage, *given)
    last = max(step for step, _ in taken)
    assert run_dir.manifest()["phases"][stage]["steps"] == last
    for step in range(1, last + 1):
        said = inspected(str(run_dir.path), f"step={step}", "full=true")
        assert by_micro(said) == [ids for at, ids in taken if at == step], step
        assert f"\nstep       {step} of {last}, in epoch " in said
    with pytest.raises(ConfigError, match=rf"task\.step={last + 1}: phase {stage} of .* has {last} steps"):
        inspected(str(run_dir.path), f"step={last + 1}")


def test_each_sample_has_its_file_and_row_and_its_trained_tokens(recorded, inspected):
    run_dir, _ = recorded("dpo", "data.packing=false")
    said = inspected(str(run_dir.path), "step=1")
    assert said.startswith(
        f"run        {run_dir.path}, phase dpo\nstep       1 of 4, in epoch 1: 4 packed rows in 2 micro"
    )
    places = re.findall(
        r"dpo\.jsonl:(\d+)   (chosen|rejected)   (?:.*\n)*?<\|im_start\|>user↵\nWhich is (\d+)th\?", said
    )
    assert len(places) == 8 and all(number == asked for number, _, asked in places)
    assert [which for _, which, _ in places] == ["chosen", "rejected"] * 4
    for number, which, _ in places[:2]:
        wanted = row("dpo", int(number))[which]
        assert f"⟦{wanted}<|im_end|>⟧↵" in said
    page = run_dir.path.parent / "page.html"
    assert inspected(str(run_dir.path), "step=1", f"html={page}").endswith(f"\nwritten to {page}\n")
    assert f"dpo.jsonl:{places[0][0]}   chosen" in page.read_text() and "ledger" not in page.read_text()


def test_labels_and_borrowed_answers_of_kto(recorded, inspected):
    run_dir, _ = recorded("kto", "data.packing=false")
    samples = shown(inspected(str(run_dir.path), "step=2"))
    for (_, own, ids), (_, borrowed, other) in zip(samples[0::2], samples[1::2]):
        number = int(re.search(r"kto\.jsonl:(\d+)   label: (good|bad)   ", own)[1])
        assert ("label: good" in own) == (number % 2 == 0)
        first, second = re.search(
            r"kto\.jsonl:(\d+)   for the KL with the answer of \S+kto\.jsonl:(\d+)", borrowed
        ).groups()
        assert int(first) == number != int(second)
        assert ids != other


# ------------------------------------------------------------------------------------------------ runs of every kind


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory) -> RunDir:
    folder = tmp_path_factory.mktemp("curriculum")
    names = {"instruct": "sft", "prefer": "dpo"}
    data = [
        f"phases.{n}.data.{k}"
        for n, s in names.items()
        for k in (f"path={file_of(folder, s, 11)}", f"format={FORMATS[s]}")
    ]
    phases = f"phases=[{', '.join(f'{{name: {name}, stage: {stage}}}' for name, stage in names.items())}]"
    return train_run(folder / "run", phases, *SHORT, "train.epochs=1", *data)


@pytest.fixture
def run_dir(curriculum, here) -> RunDir:
    shutil.copytree(curriculum.path, here / "run", symlinks=True)
    return RunDir.open(here / "run")


def test_a_phase_of_several_by_its_name(run_dir, inspected):
    said = inspected(str(run_dir.path), "step=2", "phase=prefer")
    assert "phase prefer\n" in said and "dpo.jsonl:" in said and "sft.jsonl:" not in said
    for given in ((), ("phase=preferr",)):
        with pytest.raises(ConfigError, match=r"task\.phase.*: .* has: instruct, prefer\.") as caught:
            inspected(str(run_dir.path), "step=2", *given)
    assert "Did you mean prefer?" in str(caught.value)


def test_a_run_that_was_stopped_shows_the_same(run_dir, inspected):
    """One that ended in the middle of its second phase, and says of how many steps it would have been."""
    given = (str(run_dir.path), "step=2", "phase=prefer")
    whole = inspected(*given)
    manifest = run_dir.manifest()
    del manifest["phases"]["prefer"]
    run_dir.manifest_json.write_text(json.dumps({**manifest, "status": "running"}))
    shutil.rmtree(run_dir.phase("02-prefer"))
    assert inspected(*given) == whole
    with pytest.raises(ConfigError, match=r"task\.step=3: phase prefer of .* has 2 steps"):
        inspected(given[0], "step=3", given[2])
    run_dir.ledger("prefer").unlink()
    with pytest.raises(RunDirError, match=r"Phase prefer of .* has not begun"):
        inspected(*given)


def test_without_a_step_the_data_of_the_run(run_dir, inspected):
    said = inspected(str(run_dir.path), "phase=instruct", "rows=1")
    assert "\ndata       sft (alpaca): 11 rows of train from " in said
    assert said.endswith("\n11 rows read back as the tokenizer's own template writes them\n")


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("step=2",), ConfigError, "task.step=2: is of a run: ftlab inspect RUN step=2"),
        (("phase=prefer",), ConfigError, "task.phase=prefer: is of a run: ftlab inspect RUN phase=prefer"),
        (("run", "step=0"), ConfigError, "task.step=0: must be greater than 0"),
        (("run", "phase=prefer", "step=1", "split=validation"), ConfigError, "task.split=validation: a step trains on"),
        (("run", "phase=prefer", "seed=3"), ConfigError, "seed=3: beside a run everything comes from its own run.yaml"),
        (("nowhere", "step=1"), RunDirError, "nowhere is no run directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said(words, error, said, run_dir, inspected):
    with pytest.raises(error) as caught:
        inspected(*words)
    assert said in str(caught.value)


def test_data_that_has_changed_is_not_shown_as_what_it_was(recorded, inspected):
    run_dir, _ = recorded("sft", "train.max_steps=1")
    file = run_dir.path.parent / "sft.jsonl"
    file.write_text(file.read_text().replace("3th", "third"))
    with pytest.raises(RunDirError, match=r"sft\.jsonl has changed since .*/run began"):
        inspected(str(run_dir.path), "step=1")
