"""docs/compatibility.md: every stage under every way to train on several devices. Each cell is a run of two processes,
against one process.

OMP_NUM_THREADS=1 python -m tests.wrappers --write    # all of them, half an hour and more, into docs/compatibility.md
python -m tests.wrappers ddp --stages sft dpo         # some
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import math
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.distributed.deepspeed import prepare_environment
from ftlab.engine import worker
from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import FtlabError
from ftlab.planning import Plan, make_plan
from ftlab.preflight import check as preflight
from ftlab.rundir.claim import claim
from ftlab.rundir.names import TIMES
from tests.conftest import ROOT
from tests.tables import line_of, read_table, write_table

DOCUMENT = ROOT / "docs" / "compatibility.md"
TITLE = "stage"  # of the table's first column
WRAPPERS = {
    "ddp": (), "z0": ("deepspeed=z0",), "z1": ("deepspeed=z1",), "z2": ("deepspeed=z2",),
    "z2_offload": ("deepspeed=z2_offload",), "z3": ("deepspeed=z3",), "z3_offload": ("deepspeed=z3_offload",),
    "fsdp": ("hardware.fsdp=true",),
}  # fmt: skip
# Parameters that are gathered from the ranks are summed in another order.
TOLERANCES = {"z3": 1e-4, "z3_offload": 1e-4, "fsdp": 1e-4}
METHODS = {"full": ("method=full",), "lora": ("method=lora",), "qlora": ("method=qlora",)}
GENERATING = ("ppo", "grpo")
_REWARD = f"stage.rewards=[{Path(__file__).with_name('rewards.py')}:letters]"
STAGES = {
    "pt": ("data=phase1_foundation", "data.max_length=256", "data.overlap=0"), "sft": (), "rm": ("data=preferences",),
    "dpo": ("data=preferences",), "kto": ("data=labels",), "orpo": ("data=preferences",),
    "ppo": ("stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.ppo_epochs=1", "stage.max_new_tokens=8",
            "stage.temperature=1", _REWARD),
    "grpo": ("stage.num_generations=2", "stage.max_new_tokens=8", "stage.temperature=1", _REWARD),
}  # fmt: skip
BASE = (
    "hardware=cpu", "hardware.precision=fp32", "train.logging_steps=1", "train.learning_rate=1e-4", "lora.dropout=0",
    "train.max_steps=10", "tracker=none", "eval.golden_rows=0", "eval.samples=0", "data.num_samples=48",
    "data.split.validation=none", "data.split.golden=none",
)  # fmt: skip
# Where the policy still is the reference, the gradient of the KL divergence is rounding error, and of the embeddings of
# some tokens Adam makes whole steps of that.
WITHOUT_KL = ("stage.beta=0",)
# Micro-batch and accumulation in one process, and in each of two. The reference point of kto, and what TRL measures of
# grpo, are means over one micro-batch of all processes.
_SIZES = {"kto": ((4, 2), (2, 2)), "grpo": ((4, 2), (2, 2))}
_OTHER_SIZES = ((2, 4), (2, 2))


@dataclass(frozen=True)
class Row:
    """One of the table. :param packing: None where a stage has answers instead of packed rows."""

    stage: str
    method: str
    packing: bool | None

    @property
    def words(self) -> tuple[str, ...]:
        packing = () if self.packing is None else (f"data.packing={str(self.packing).lower()}",)
        more = WITHOUT_KL if (self.stage, self.method) == ("grpo", "full") else ()
        return (*BASE, f"stage={self.stage}", *STAGES[self.stage], *METHODS[self.method], *packing, *more)

    @property
    def titles(self) -> tuple[str, str, str]:
        return self.stage, self.method, {None: "answers", True: "packed", False: "alone"}[self.packing]


def read_wrappers() -> dict[tuple[str, str, str], dict[str, str]]:
    """The document's cells: by stage, method and packing, and by wrapper."""
    (_, _, _, *wrappers), found = read_table(DOCUMENT, TITLE)
    return {(stage, method, packing): dict(zip(wrappers, cells)) for stage, method, packing, *cells in found}


def write_row(row: Row, cells: dict[str, str]) -> None:
    """Put a row into the document, or in the place of what it has of it."""
    known = {**read_wrappers(), row.titles: cells}
    ordered = [other.titles for other in rows() if other.titles in known]
    write_table(DOCUMENT, TITLE, [[*titles, *known[titles].values()] for titles in ordered])


def rows(stages: Iterable[str] = STAGES, methods: Iterable[str] = METHODS) -> Iterator[Row]:
    for stage, method in itertools.product(stages, methods):
        for packing in (None,) if stage in GENERATING else (True, False):
            yield Row(stage, method, packing)


def cells_of(row: Row, wrappers: Sequence[str], folder: Path) -> dict[str, str]:
    """The row's cells by wrapper: ``yes``, ``refused``, or what was wrong."""
    sizes = _SIZES.get(row.stage, _OTHER_SIZES)
    alone = _trained(row, (), sizes[0], 1, folder / "one")
    if isinstance(alone, str):
        return dict.fromkeys(wrappers, alone)
    rounding = _Rounding(row, sizes[0], alone, folder)
    cells = {}
    for wrapper in wrappers:
        found = _trained(row, (*WRAPPERS[wrapper], "hardware.devices=2"), sizes[1], 2, folder / wrapper)
        tolerance = TOLERANCES.get(wrapper, 1e-5)
        cells[wrapper] = found if isinstance(found, str) else _verdict(row, alone, found, tolerance, rounding)
    return cells


class _Rounding:
    """How far one process moves from itself where the weights that it starts from are off by one unit in their last
    place: at a step whose gradients nearly cancel, or where a ratio lies on the edge of its clipping, that is more than
    at all others, and no sum over processes can be nearer than that."""

    STARTS, TIMES = 2, 3  # runs from other roundings; times the largest of their distances

    def __init__(self, row: Row, size: tuple[int, int], alone: Path, folder: Path):
        self._row, self._size, self._alone, self._folder = row, size, alone, folder

    def allows(self, line: int, name: str, distance: float) -> bool:
        """:param line: of metrics.jsonl, from 0."""
        ours = self._lines[0][line][name]
        return distance <= self.TIMES * max(abs(other[line][name] - ours) for other in self._lines[1:])

    @functools.cached_property
    def _lines(self) -> list[list[dict[str, Any]]]:
        others = [
            _trained(self._row, (), self._size, 1, self._folder / f"rounded-{seed}", _OtherRounding(seed))
            for seed in range(self.STARTS)
        ]
        assert all(isinstance(other, Path) for other in others), others
        return [_logged(Path(path)) for path in (self._alone, *others)]


class _OtherRounding(PhaseHooks):
    """Half of the weights that train begin at the next larger number that fp32 has."""

    def __init__(self, seed: int):
        self._seed = seed

    def model_loaded(self, phase: Any) -> None:
        random = torch.Generator().manual_seed(self._seed)
        for weight in (one.data for one in phase.model.parameters() if one.requires_grad):
            larger = torch.nextafter(weight, torch.full_like(weight, math.inf))
            weight.copy_(torch.where(torch.rand(weight.shape, generator=random) < 0.5, larger, weight))


def refusal(row: Row, more: Iterable[str], folder: Path) -> str | None:
    """Why the row's run is not begun, if it is not."""
    try:
        _checked([*row.words, *more], folder)
    except FtlabError as error:
        return str(error)
    return None


def _checked(words: Sequence[str], folder: Path) -> Plan:
    """The plan of a run that may begin. :raises FtlabError: it may not."""
    overrides = [*words, f"run.dir={folder}"]
    plan = make_plan(read(command_line.read(overrides).overrides), overrides)
    preflight.check_plan(plan)
    return plan


def _trained(
    row: Row, more: Iterable[str], size: tuple[int, int], ranks: int, folder: Path, hooks: PhaseHooks | None = None
) -> Path | str:
    """The run directory of ten steps, or why there is none."""
    words = [*row.words, *more, f"train.micro_batch_size={size[0]}", f"train.gradient_accumulation_steps={size[1]}"]
    try:
        with claim(_checked(words, folder)) as run_dir:
            pass
    except FtlabError as error:
        print(f"    {folder.name}: {error}", file=sys.stderr)
        return "refused"
    codes = _run_ranks(run_dir.path, ranks, hooks)
    if any(codes):
        lines = (folder / "output-0.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"    {folder.name}: " + "\n    ".join(lines[-12:]), file=sys.stderr)
        return "failed"
    return folder


def _run_ranks(run_dir: Path, count: int, hooks: PhaseHooks | None) -> list[int]:
    """Run the worker in so many processes, which begin as copies of this one: most of a small run is importing.

    :return: their exit codes.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pids = [_begin_rank(run_dir, rank, count, port, hooks) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _preload() -> None:
    """What every process of a run imports, so that its copies have it: four fifths of a small run."""
    prepare_environment(on_cpu=True)
    for name in ("deepspeed", "peft", "ftlab.engine.run", "ftlab.model.load", *map("ftlab.stages.{}".format, _MODULES)):
        importlib.import_module(name)


_MODULES = ("sft", "rm", "preference", "kto", "ppo.trainer", "grpo.trainer")


def _begin_rank(run_dir: Path, rank: int, count: int, port: int, hooks: PhaseHooks | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(run_dir / f"output-{rank}.txt", os.O_WRONLY | os.O_CREAT)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output, stream.fileno())
        if count > 1:
            os.environ.update(
                {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                 "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
            )  # fmt: skip
        sys.argv = ["worker", str(run_dir)]
        code = worker.main(hooks)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _logged(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _verdict(row: Row, one: Path, other: Path, tolerance: float, rounding: _Rounding) -> str:
    """Losses, gradient norms and measures of two runs, the weights that they have saved, and what those say."""
    left, right = _logged(one), _logged(other)
    if [line["step"] for line in left] != [line["step"] for line in right]:
        return "other steps"
    for number, (a, b) in enumerate(zip(left, right)):
        if a.keys() != b.keys():
            return "other measures"
        for name in a.keys() - {*TIMES, "epoch"}:  # a row that fills a batch up is part of an epoch
            is_number = isinstance(a[name], float)
            close = a[name] == b[name] or (
                is_number and math.isclose(a[name], b[name], rel_tol=tolerance, abs_tol=tolerance)
            )
            if not close and not (is_number and rounding.allows(number, name, abs(a[name] - b[name]))):
                return f"{name} {b[name]} for {a[name]} at step {a['step']}"
    verdict = _compare_weights(_weights(one), _weights(other))
    if verdict != "yes":
        return verdict
    return "yes" if _answer(row.stage, one) == _answer(row.stage, other) else "other answers"


def _weights(run_dir: Path) -> dict[str, Any]:
    (path,) = (run_dir / "final").glob("*.safetensors")
    return safetensors.torch.load_file(path)


def _compare_weights(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What Adam makes of a gradient of rounding errors alone is the one thing in which they may differ."""
    if one.keys() != other.keys():
        return f"saved {len(other)} tensors for {len(one)}"
    for name, tensor in one.items():
        off = (tensor.float() - other[name].float()).norm() / tensor.float().norm().clamp(min=1e-12)
        if off > 0.01:
            return f"{name} is off by {off:.1g}"
    return "yes"


def _answer(stage: str, run_dir: Path) -> list[int] | float:
    """What the saved weights, loaded by transformers, say to a prompt: tokens, or a reward model's score of it."""
    prompt = torch.arange(100, 108)[None]
    if stage == "rm":
        judge = AutoModelForSequenceClassification.from_pretrained(run_dir / "final", num_labels=1).eval()
        with torch.no_grad():
            return round(float(judge(prompt).logits), 3)
    model = AutoModelForCausalLM.from_pretrained(run_dir / "final").eval()
    tokens = model.generate(prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    return [int(token) for token in tokens[0, prompt.shape[1] :]]


def main() -> None:
    parser = argparse.ArgumentParser(description="stages x methods x packing x wrappers")
    parser.add_argument("wrappers", nargs="*", choices=[*WRAPPERS, []], help="these alone, printed")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--write", action="store_true", help="put the rows into docs/compatibility.md")
    given = parser.parse_args()
    wrappers = given.wrappers or [*WRAPPERS]
    if given.write and given.wrappers:
        parser.error("whole rows are written: leave the wrappers out")
    _preload()
    for row in rows(given.stages, given.methods):
        with tempfile.TemporaryDirectory() as folder:
            cells = cells_of(row, wrappers, Path(folder))
        print(line_of([*row.titles, *(cells[wrapper] for wrapper in wrappers)]), flush=True)
        if given.write:
            write_row(row, cells)


if __name__ == "__main__":
    main()
