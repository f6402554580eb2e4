"""One step of supervised fine-tuning on a CPU beside TRL's SFTTrainer: time and peak memory.

    python benchmarks/step_cpu.py                      # 4 layers, hidden 512, vocabulary 32k, rows of 1,024 tokens
    python benchmarks/step_cpu.py --cases lora --record
    python benchmarks/step_cpu.py --cases full --micro-batch 4 --steps 3
    python benchmarks/step_cpu.py --lengths 1024 4096 16384 32768 --plot linear.png

Both sides train on the same packed rows, in fp32, with the same optimizer and checkpointing, and have to begin with
the same loss. TRL is at its best on such rows: they go in as they are (``padding_free``), without padding and without
a mask. It also measures the entropy and the accuracy of every token, which no option switches off; ``trl, no metrics``
is the same trainer without them, so that both sides measure equally much, and the ratios are over that one where it is
better. On a CPU its fused head scores every position, trained or not; on a GPU it does not, and nothing follows for
one.

``chats`` have long answers: most of their tokens are trained. ``instructions`` is the shipped set, whose answers are
short. A step is from the end of one to the end of the next: collation, forward, backward, clipping, optimizer and log
lines.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import harness
import workload
from harness import Case, Figures, Ratio

FASTER, SMALLER = 2.5, 0.65
SIDES = {"ftlab": "ftlab", "trl": "trl", "trl, no metrics": "bare"}
WARM_UP = 2


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each measurement")
    parser.add_argument("--micro-batch", type=int, default=1, metavar="ROWS", help="rows of a step")
    parser.add_argument("--lengths", nargs="+", type=int, help="instead: one step at each of these lengths of a row")
    parser.add_argument("--plot", type=Path, help="where a picture of --lengths goes")
    parser.add_argument("--compile", action="store_true", help="instead: train.compile=layers beside none")
    options = parser.parse_args()
    if options.lengths and not options.one:
        print(lengths(options.lengths, options.threads, options.plot))
        return
    harness.main("step_cpu", options, cases, measure)


def cases(options: Any) -> list[Case]:
    shape, length, steps = ("small", 128, 1) if options.small else ("step", 1024, options.steps)
    found = []
    for method in ("full", "lora"):
        for data in ("chats", "instructions"):
            for checkpointing in (False, True) if data == "chats" and method == "full" else (False,):
                work = {"shape": shape, "length": length, "steps": steps, "method": method, "data": data,
                        "checkpointing": checkpointing, "rows": options.micro_batch}  # fmt: skip
                if options.compile:
                    if not checkpointing:
                        found.append(_compiled(f"{method} {data}", {"engine": "ftlab", **work}))
                    continue
                found.append(
                    Case(
                        f"{method} {data}" + (" checkpointed" if checkpointing else ""),
                        {side: {"engine": engine, **work} for side, engine in SIDES.items()},
                        (Ratio("steps/s", at_least=FASTER), Ratio("CPU s/step", better="lower"),
                         Ratio("peak MiB", at_most=SMALLER)),
                        equal=("loss",),
                    )
                )  # fmt: skip
    return found


def _compiled(name: str, work: dict[str, Any]) -> Case:
    sides = {"ftlab": {**work, "compiled": "layers"}, "as written": {**work, "compiled": "none"}}
    ratios = Ratio("steps/s", better="higher"), Ratio("CPU s/step", better="lower"), Ratio("peak MiB", better="lower")
    return Case(f"{name} compiled", sides, ratios)


def measure(
    engine: str, shape: str, length: int, steps: int, method: str, data: str, checkpointing: bool = False,
    compiled: str = "none", rows: int = 1,
) -> Figures:  # fmt: skip
    """Some steps of one side. :param engine: ftlab, trl or bare (TRL without its metrics). :param rows: of a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = workload.model_folder(folder, shape)
        source: list[str] = []
        if data != "instructions":
            asked, answered = {"chats": (3, 8), "long": (2, 4)}[data]
            total = (WARM_UP + steps) * rows * length // 60 + 40
            path = workload.write_chats(folder / "chats.jsonl", total, asked, answered)
            source = [f"data.path={path}", "data.format=messages", "data.truncation=right"]
        run = workload.read_run(
            *workload.PLAIN, f"model.path={model}", "model.init=random", f"method={method}", *source,
            f"data.max_length={length}", "hardware=cpu", "hardware.precision=fp32", "lora.dropout=0",
            f"train.micro_batch_size={rows}", "train.gradient_accumulation_steps=1",
            f"train.max_steps={WARM_UP + steps}", f"train.gradient_checkpointing={str(checkpointing).lower()}",
            f"train.compile={compiled}", *([] if engine == "ftlab" else ["train.engine=trl", "model.attention=sdpa"]),
        )  # fmt: skip
        trainer, packed = workload.make_trainer(run, folder)
        if engine == "bare":
            without_metrics(trainer)
        taken = [packed[i] for i in range(min(len(packed), 8))]
        tokens = sum(row.length for row in taken)
        share = sum(int(sample.learned.sum()) for row in taken for sample in row.samples) / tokens
        return {**workload.train_timed(trainer, WARM_UP), "trained share": share}


def without_metrics(trainer: Any) -> None:
    """TRL's own fused head and loss, without its entropy, its accuracy and its counting of tokens."""
    from trl import SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    class Bare(type(trainer)):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
            return -outputs.log_probs.sum() / num_items_in_batch

    assert isinstance(trainer, SFTTrainer)
    base = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    add_fused_lm_head(base, outputs=("log_probs",))
    trainer.__class__ = Bare


def lengths(chosen: list[int], threads: int, plot: Path | None) -> str:
    """Time and memory of a step of ftlab's by the length of a row of short chats: linear in tokens, or not."""
    found = {}
    for length in chosen:
        work = {"engine": "ftlab", "shape": "step", "length": length, "steps": 1, "method": "lora", "data": "long"}
        found[length] = harness.measured(work, threads)
    lines = ["| tokens | wall s | CPU s | wall ms per 1,000 tokens | peak MiB |", "|--:|--:|--:|--:|--:|"]
    for length, figures in found.items():
        wall = figures["wall s/step"]
        cells = f"{wall:.2f} | {figures['CPU s/step']:.2f} | {1e6 * wall / length:.0f} | {figures['peak MiB']:,.0f}"
        lines.append(f"| {length:,} | {cells} |")
    if plot is not None:
        harness.draw(plot, found, (("wall s/step",), ("peak MiB",)), "tokens of the row")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
