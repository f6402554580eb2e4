"""What sealed checkpoints, the ledger and all else of a run directory cost beside plain ``transformers.Trainer``.

    python benchmarks/overhead.py                                # LoRA on the embedded model, 3 pairs of runs
    python benchmarks/overhead.py --steps 200 --every 20 --pairs 1 method=full

The same training as whole processes in turns, each first in every other pair, on disks that have been synced. The final
weights must be equal to the bit, or the two were not the same work. No side evaluates, answers or has a tracker.

- ``ftlab`` is the command line as a user types it. On its side counts all that a run does: composing and checking
  the config, reading and hashing the data (no cache), encoding, packing, the ledger, the probe of packed rows, the
  manifest with versions and git, metrics.jsonl and log.txt, looking at every loss, the counters of a checkpoint, its
  hashes and its way to the disk (fsync), the look for room before it, and the rotation after it.
- ``plain`` is a Trainer of transformers with the same model, collator, loss and TrainingArguments, so that it saves
  after the same steps and keeps as many checkpoints: model, tokenizer, optimizer, scheduler, random state and trainer
  state, unhashed and not waited for. It is given its rows packed and its config checked: none of that counts.

So whatever ftlab adds to a Trainer is in the ratio, which bounds what the ledger and the manifests of checkpoints cost
from above. What sealing alone takes is measured afterwards, on fresh copies of the last checkpoint: hashing its files,
bringing them to the disk and writing its manifest. Wall seconds need a machine that does nothing else, CPU seconds need
it less. The folder has to be on a real disk: on a tmpfs nothing is brought anywhere.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.rundir.checkpoints import checkpoints, seal
from ftlab.rundir.files import sha256, size
from ftlab.rundir.names import CHECKPOINT_MANIFEST

LONG_ENOUGH, CHECKPOINTS = 120, 10  # seconds of the plain run, and checkpoints, from which on the ratio says something
LIMIT = 1.05
SHARED = ("tracker=none", "data.cache=null", "data.split.validation=none", "data.split.golden=none")
SEALED = 7  # copies of a checkpoint


@dataclass(frozen=True)
class Side:
    """:param weights: sha256 of the files of the final weights. :param phase: the folder of the checkpoints."""

    wall: float
    cpu: float
    weights: dict[str, str]
    phase: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the runs are written; a temporary folder if not given")
    parser.add_argument("--plain", type=Path, nargs=2, help=argparse.SUPPRESS)  # the plain side, in its own process
    options, overrides = parser.parse_known_args()
    if options.plain:
        train_plainly(*options.plain)
        return
    length = (f"train.max_steps={options.steps}", f"train.save_steps={options.every}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        ours, theirs = compare(Path(folder), [*SHARED, *length, *overrides], options.pairs)
        saved = -(-options.steps // options.every)  # the last step is saved in any case
        tell_of_sealing(ours, saved, Path(folder))
    if min(theirs.wall, ours.wall) < LONG_ENOUGH or saved < CHECKPOINTS:
        print(
            f"too short to tell: {LONG_ENOUGH} s and {CHECKPOINTS} checkpoints at least are wanted; give more --steps"
        )


def compare(folder: Path, overrides: list[str], pairs: int) -> tuple[Side, Side]:
    """Print the pairs and their medians; the quickest of both sides."""
    given = folder / "given.pickle"
    given.write_bytes(pickle.dumps(prepared(overrides)))
    found: list[tuple[Side, Side]] = []
    print("| pair | ftlab wall s | plain wall s | ratio | ftlab CPU s | plain CPU s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for pair in range(pairs):
        sides: dict[str, Callable[[], Side]] = {
            "ftlab": lambda to=folder / f"ftlab-{pair}": of_ftlab(to, overrides),  # type: ignore[misc]
            "plain": lambda to=folder / f"plain-{pair}": of_plain(to, given),  # type: ignore[misc]
        }
        measured = {name: sides[name]() for name in (sides if pair % 2 == 0 else reversed(sides))}
        ours, theirs = measured["ftlab"], measured["plain"]
        steps, their_steps = ([path.name for path in checkpoints(side.phase)] for side in (ours, theirs))
        assert ours.weights == theirs.weights, f"not the same work: {ours.weights} and {theirs.weights}"
        assert steps == their_steps, f"not the same checkpoints: {steps} and {their_steps}"
        found.append((ours, theirs))
        cells = [
            f"{of_ours:.1f} | {of_theirs:.1f} | {of_ours / of_theirs:.3f}"
            for of_ours, of_theirs in ((ours.wall, theirs.wall), (ours.cpu, theirs.cpu))
        ]
        print(f"| {pair + 1} | {' | '.join(cells)} |", flush=True)
    walls = statistics.median(ours.wall / theirs.wall for ours, theirs in found)
    cpus = statistics.median(ours.cpu / theirs.cpu for ours, theirs in found)
    print(f"\nmedian ratio: wall {walls:.3f}, CPU {cpus:.3f}; at most {LIMIT} is wanted")
    print(f"final weights are equal in all {2 * len(found)} runs: {', '.join(found[0][0].weights.values())}")
    ours, theirs = (min(sides, key=lambda side: side.wall) for sides in zip(*found))
    return ours, theirs


def prepared(overrides: Sequence[str]) -> tuple[Any, list[Any]]:
    """The checked config and the packed rows of a command line."""
    from ftlab.config import command_line as arguments
    from ftlab.config.compose import read
    from ftlab.data.prepare import prepare, split_parts
    from ftlab.data.sources import resolve
    from ftlab.policy.tokens import load_tokens

    run = read(arguments.read(overrides).overrides)
    assert run.stage.name in ("pt", "sft") and run.train.engine == "ftlab", "the plain side has their loss and no other"
    tokens = load_tokens(run)
    sources = resolve.resolve(run.data, run.stage.name)
    parts = split_parts(sources, run.data, run.seed)
    return run, list(prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer).train)


def of_ftlab(folder: Path, overrides: Sequence[str]) -> Side:
    wall, cpu = timed([sys.executable, "-m", "ftlab", *overrides, f"run.dir={folder}"])
    (phase,) = (folder / "phases").iterdir()
    return Side(wall, cpu, weights_in(phase / "final"), phase)


def of_plain(folder: Path, given: Path) -> Side:
    wall, cpu = timed([sys.executable, __file__, "--plain", str(given), str(folder)])
    return Side(wall, cpu, weights_in(folder / "final"), folder)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process. What was written before it is on the disk when it begins."""
    os.sync()
    before, started = cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return wall, cpu_of_children() - before


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def weights_in(final: Path) -> dict[str, str]:
    found = {path.name: sha256(path) for path in sorted(final.glob("*.safetensors"))}
    assert found, f"{final} has no weights"
    return found


def train_plainly(given: Path, folder: Path) -> None:
    """What somebody writes who has the rows and the model: a Trainer, its loss, and nothing beside it."""
    from transformers import Trainer, set_seed

    from ftlab.data.packing.collate import PackedCollator
    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens
    from ftlab.stages.trainer.arguments import training_arguments
    from ftlab.stages.trainer.forward import packed_logprobs

    class PlainTrainer(Trainer):
        """The mean of -log p over the scored tokens of a global batch, as ``StageTrainer`` has it."""

        loss_is_scaled_for_ga = True

        def compute_loss(self, model: Any, inputs: Any, *args: Any, num_items_in_batch: Any = None, **more: Any) -> Any:
            logprobs_N = packed_logprobs(model, self.accelerator.unwrap_model(model), inputs)
            return -logprobs_N.sum() / num_items_in_batch

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            return sum(len(batch["targets"]) for batch in batch_samples)

    run, rows = pickle.loads(given.read_bytes())
    tokens = load_tokens(run)
    model, _ = build_model(run, tokens)
    arguments = training_arguments(run, str(folder))
    arguments.eval_strategy = "no"
    trainer = PlainTrainer(
        model=model,
        args=arguments,
        data_collator=PackedCollator(tokens.tokenizer.pad_token_id),
        train_dataset=rows,
        processing_class=tokens.tokenizer,
    )
    trainer.model_accepts_loss_kwargs = True  # it is to count the items
    set_seed(run.seed)
    trainer.train()
    trainer.save_model(str(folder / "final"))


def tell_of_sealing(side: Side, saved: int, folder: Path) -> None:
    """What it takes to seal a checkpoint like the last one of a run, which saved so many of them."""
    seconds = []
    last = checkpoints(side.phase)[0]
    for number in range(SEALED):
        copy = folder / f"copy-{number}"
        shutil.copytree(last, copy)
        (copy / CHECKPOINT_MANIFEST).unlink()
        cpu, wall = time.process_time(), time.perf_counter()
        seal(copy)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (statistics.median(column) for column in zip(*seconds))
    print(
        f"sealing a checkpoint of {size(last) / 1e6:.1f} MB: {wall * 1e3:.1f} ms, CPU {cpu * 1e3:.1f} ms; of all "
        f"{saved}: {saved * wall:.2f} s, {saved * wall / side.wall:.2%} of the run"
    )


if __name__ == "__main__":
    main()
