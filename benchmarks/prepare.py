"""Batches beside TRL's collator, and preparation by the number of rows: whether speed and memory stay flat.

    python benchmarks/prepare.py                                   # batches of 1,024, 8,192 and 32,768 tokens
    python benchmarks/prepare.py --rows 1000 10000 100000 1000000 --plot scale.png

``collate`` is what a loader does for one batch: it takes a packed row and makes tensors of it, with positions that
begin again with every sample and labels for what is trained. TRL's collator (``padding_free``) gets the same rows from
a data set of the datasets library, as its trainer has them. ``--rows`` prepares so many short chats from a JSON Lines
file, each number in a process of its own: tokens per second, and the peak of resident memory above what was in use
before. ``data_preparation.py`` compares the preparation itself with TRL's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import workload
from harness import Case, Figures, Ratio

FASTER = 20.0
FLAT = 0.1


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--rows", nargs="+", type=int, help="instead: prepare so many rows")
    parser.add_argument("--plot", type=Path, help="where a picture of --rows goes")
    options = parser.parse_args()
    if options.rows and not options.one:
        print(scale(options.rows, options.threads, options.plot))
        return
    harness.main("prepare", options, cases, measure)


def cases(options: Any) -> list[Case]:
    lengths = (256,) if options.small else (1024, 8192, 32768)
    return [
        Case(
            f"collate {length}",
            {side: {"side": side, "length": length, "times": 3 if options.small else 50} for side in ("ftlab", "trl")},
            (Ratio("batches/s", at_least=FASTER if length == 32768 else None, better="higher"),),
            equal=("tokens", "trained"),
            tolerance=0,
        )
        for length in lengths
    ]


def measure(side: str, length: int = 0, times: int = 0, rows: int = 0) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        return prepared(Path(name), rows) if side == "rows" else collated(Path(name), side, length, times)


def collated(folder: Path, side: str, length: int, times: int) -> Figures:
    """One batch so often; the median."""
    path = workload.write_chats(folder / "chats.jsonl", length // 40 + 20, 2, 4)
    run = workload.read_run(
        *workload.PLAIN, f"model.path={workload.model_folder(folder, 'small')}", f"data.path={path}",
        "data.format=messages", f"data.max_length={length}",
    )  # fmt: skip
    from ftlab.policy.tokens import load_tokens

    tokens = load_tokens(run)
    rows = workload.rows_of(run, tokens)
    pad = tokens.tokenizer.pad_token_id
    if side == "ftlab":
        from ftlab.data.packing.collate import PackedCollator

        collate: Any = PackedCollator(pad)
        found: Any = rows
    else:
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        from ftlab.stages.trl_batches import packed_dataset

        collate, found = DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=True), packed_dataset(rows)
    batch = collate([found[0]])
    wall, cpu = [], []
    for _ in range(times):
        before, started = time.process_time(), time.perf_counter()
        batch = collate([found[0]])
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - before)
    trained = len(batch["targets"]) if side == "ftlab" else int((batch["labels"] != -100).sum())
    median = statistics.median(wall)
    return {
        "batches/s": 1 / median, "ms/batch": 1e3 * median, "CPU ms/batch": 1e3 * statistics.median(cpu),
        "tokens": batch["input_ids"].numel(), "trained": trained,
    }  # fmt: skip


def prepared(folder: Path, count: int) -> Figures:
    """So many rows, from the file to packed rows."""
    path = folder / "chats.jsonl"
    many_chats(path, count)
    run = workload.read_run(
        *workload.PLAIN, f"model.path={workload.model_folder(folder, 'small')}", f"data.path={path}",
        "data.format=messages", "data.max_length=1024", "data.workers=1",
    )  # fmt: skip
    from ftlab.policy.tokens import load_tokens

    tokens = load_tokens(run)
    harness.reset_peak()
    before = harness.resident_mib()
    cpu, wall = time.process_time(), time.perf_counter()
    rows = workload.rows_of(run, tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = harness.peak_mib() - before
    total = int(rows.view_lengths().sum())
    return {"wall s": wall, "CPU s": cpu, "tokens": total, "tokens/CPU s": total / cpu, "peak MiB": peak}


def many_chats(path: Path, count: int) -> None:
    """As :func:`workload.write_chats`, line by line: a million of them are not held at once."""
    import json

    said = workload.Said()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": role, "content": said(1, at_most=3)} for role in ("user", "assistant")]
            file.write(json.dumps({"messages": messages}) + "\n")


def scale(chosen: list[int], threads: int, plot: Path | None) -> str:
    found = {rows: harness.measured({"side": "rows", "rows": rows}, threads) for rows in chosen}
    lines = ["| rows | tokens | wall s | CPU s | tokens per CPU second | peak MiB |", "|--:|--:|--:|--:|--:|--:|"]
    for rows, at in found.items():
        cells = f"{at['tokens']:,.0f} | {at['wall s']:.2f} | {at['CPU s']:.2f} | {at['tokens/CPU s']:,.0f}"
        lines.append(f"| {rows:,} | {cells} | {at['peak MiB']:,.0f} |")
    rates = [at["tokens/CPU s"] for at in found.values()]
    off = 1 - min(rates) / max(rates)
    lines.append(f"\nthe slowest is {off:.0%} below the fastest; {FLAT:.0%} is wanted")
    if plot is not None:
        harness.draw(plot, found, ("tokens/CPU s", "peak MiB"), "rows", "log")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
