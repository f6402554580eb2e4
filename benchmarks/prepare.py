"""Batches beside TRL's collator, and preparation by the number of rows: whether speed and memory stay flat.

    python benchmarks/prepare.py                                   # batches of 1,024, 8,192 and 32,768 tokens
    python benchmarks/prepare.py --rows 1000 10000 100000 1000000 --streaming --plot scale.png

``collate`` is what a loader does for one batch: it takes a packed row and makes tensors of it, with positions that
begin again with every sample and labels for what is trained. TRL's collator (``padding_free``) gets the same rows from
a data set of the datasets library, as its trainer has them. ``--rows`` prepares so many short chats from a JSON Lines
file, each number in a process of its own: tokens per CPU second, with and without the start (what a single row takes,
prepared before them: modules that are imported, a vocabulary and a template that are looked through), and the peak of
resident memory above what was in use before. ``--streaming`` also reads them as a set on a hub whose rows are fetched
as they come; ``--set`` says what else a run's config has, such as data.split.validation=auto. ``data_preparation.py``
compares the preparation itself with TRL's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import workload
from harness import Case, Figures, Ratio

FASTER = 20.0
FLAT = 0.1
SHORT = 10_000  # rows that are prepared as often as repeats are asked for
RATE, LATER, PEAK = "tokens/CPU s", "tokens/CPU s after the start", "peak MiB"
START = "of which the start"


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--rows", nargs="+", type=int, help="instead: prepare so many rows")
    parser.add_argument("--streaming", action="store_true", help="--rows: of a set on a hub as well, row by row")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="--rows: more of a run's config")
    parser.add_argument("--plot", type=Path, help="where a picture of --rows goes")
    options = parser.parse_args()
    if options.rows and not options.one:
        print(scale(options))
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


def measure(
    side: str, length: int = 0, times: int = 0, rows: int = 0, streamed: bool = False, overrides: Sequence[str] = ()
) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        if side == "rows":
            return prepared(Path(name), rows, streamed, overrides)
        return collated(Path(name), side, length, times)


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


def prepared(folder: Path, count: int, streamed: bool, overrides: Sequence[str]) -> Figures:
    """So many rows, from the file to packed rows, after a single one of another file: that is the start. A second time
    it tells what each preparation takes whatever its rows, which is in the start already."""
    model = workload.model_folder(folder, "small")

    def run_of(name: str, rows: int) -> Any:
        path = folder / name / "chats.jsonl"
        path.parent.mkdir()
        many_chats(path, rows)
        source = (f"data.path=hf://{path.parent}", "data.hub.streaming=true") if streamed else (f"data.path={path}",)
        return workload.read_run(
            *workload.PLAIN, f"model.path={model}", *source, "data.format=messages", "data.max_length=1024",
            "data.workers=1", *overrides,
        )  # fmt: skip

    first, run = run_of("first", 1), run_of("rows", count)
    from ftlab.policy.tokens import load_tokens

    tokens = load_tokens(run)
    if streamed:  # a library is not what rows take
        import datasets  # noqa: F401

    harness.reset_peak()
    before = harness.resident_mib()

    def seconds(of: Any) -> tuple[float, Any]:
        cpu = time.process_time()
        found = workload.rows_of(of, tokens)
        return time.process_time() - cpu, found

    start, each = seconds(first)[0], seconds(first)[0]
    cpu, rows = seconds(run)
    after = cpu - each
    peak = harness.peak_mib() - before
    return {"CPU s": start + after, START: start, "tokens": int(rows.view_lengths().sum()), PEAK: peak}


def many_chats(path: Path, count: int) -> None:
    """As :func:`workload.write_chats`, line by line: a million of them are not held at once."""
    import json

    said = workload.Said()
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": role, "content": said(1, at_most=3)} for role in ("user", "assistant")]
            file.write(json.dumps({"messages": messages}) + "\n")


def scale(options: Any) -> str:
    """A table of what so many rows take, the start included, which is paid once, and without it."""
    kinds = ("file", "stream") if options.streaming else ("file",)
    found: dict[int, Figures] = {}
    lines = []
    for kind in kinds:
        header = f"rows of a {kind} | tokens | CPU s | {START} | {RATE} | {LATER} | {PEAK}"
        lines += [f"| {header} |", f"|{'--:|' * 7}"]
        for rows in options.rows:
            at = _median(rows, kind, options)
            at |= {RATE: at["tokens"] / at["CPU s"], LATER: at["tokens"] / (at["CPU s"] - at[START])}
            cells = f"{at['tokens']:,.0f} | {at['CPU s']:.2f} | {at[START]:.2f} | {at[RATE]:,.0f} | {at[LATER]:,.0f}"
            lines.append(f"| {rows:,} | {cells} | {at[PEAK]:,.0f} |")
            names = {name: name if kind == "file" else f"{name}, streamed" for name in (RATE, LATER, PEAK)}
            found.setdefault(rows, {}).update({names[name]: at[name] for name in names})
        rates = [at[names[LATER]] for at in found.values()]
        lines.append(f"\nthe slowest is {1 - min(rates) / max(rates):.0%} below the fastest; {FLAT:.0%} is wanted\n")
    if options.plot is not None:
        panels = [[name for name in next(iter(found.values())) if name.startswith(of)] for of in (RATE, PEAK)]
        harness.draw(options.plot, found, panels, "rows", "log")
    return "\n".join(lines)


def _median(rows: int, kind: str, options: Any) -> Figures:
    """The medians of as many repeats as are asked for; of many rows there is one, which takes long enough."""
    arguments = {"side": "rows", "rows": rows, "streamed": kind == "stream", "overrides": options.set}
    repeats = options.repeats if rows <= SHORT else 1
    found = [harness.measured(arguments, options.threads) for _ in range(repeats)]
    return {name: statistics.median(at[name] for at in found) for name in found[0]}


if __name__ == "__main__":
    main()
