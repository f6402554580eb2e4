"""One training step on one row of 1K to 32K tokens: seconds and peak memory, which are to grow with the tokens.

    python benchmarks/long_rows.py                                   # attention as ftlab chooses it; samples of 512
    python benchmarks/long_rows.py --attention segments position_ids --longest 8192
    python benchmarks/long_rows.py --out rows.json --plot docs/long_rows.svg

Forward, loss and backward of a Llama with random weights, full fine-tuning in fp32, each length in its own process.
Seconds are those of the processor in that process, the median of some steps; memory is what torch.profiler sees
allocated from before the step to its peak, weights not among it. The last line of the table is one document that is the
whole row: its attention is a square by nature, and so are its seconds for the most part, but not its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness

MIB = 2**20
SECONDS, MEMORY = "CPU seconds of a step", "peak memory of a step, MiB"
SHAPE = {
    "vocab_size": 2304, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "pad_token_id": 0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shortest", type=int, default=1024, help="tokens of the first row; each next one has twice")
    parser.add_argument("--longest", type=int, default=32768, help="tokens of the last row")
    parser.add_argument("--sample", type=int, default=512, help="tokens of each sample")
    parser.add_argument("--steps", type=int, default=3, help="steps, after one that does not count; the median is told")
    parser.add_argument("--attention", nargs="+", default=["segments"], choices=["segments", "position_ids"])
    parser.add_argument("--out", type=Path, help="a JSON file of all that was measured")
    parser.add_argument("--plot", type=Path, help="an SVG file, of the first attention")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what one process measures
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    found = []
    print(f"{'attention':14}{'tokens':>8}{'samples of':>12}{'CPU s':>9}{'MiB':>9}{'us/token':>10}{'KiB/token':>11}")
    for attention in options.attention:
        for tokens, sample in lengths(options.shortest, options.longest, options.sample):
            found.append(in_process(attention, tokens, sample, options.steps))
            print(line_of(found[-1]), flush=True)
    for attention in options.attention:
        print(growth([one for one in found if one["attention"] == attention and one["sample"] < one["tokens"]]))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        first = [one for one in found if one["attention"] == options.attention[0] and one["sample"] < one["tokens"]]
        figures = {one["tokens"]: {SECONDS: one["cpu_seconds"], MEMORY: one["peak_bytes"] / MIB} for one in first}
        harness.draw(options.plot, figures, (SECONDS, MEMORY), "tokens of the row")


def lengths(shortest: int, longest: int, sample: int) -> list[tuple[int, int]]:
    """Tokens of each row and of its samples; the last row again as one document."""
    rows = []
    tokens = shortest
    while tokens <= longest:
        rows.append((tokens, min(sample, tokens)))
        tokens *= 2
    return [*rows, (rows[-1][0], rows[-1][0])]


def in_process(attention: str, tokens: int, sample: int, steps: int) -> dict[str, Any]:
    given = json.dumps({"attention": attention, "tokens": tokens, "sample": sample, "steps": steps})
    command = [sys.executable, __file__, "--one", given]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{attention} with {tokens} tokens failed:\n{ended.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def measure(attention: Any, tokens: int, sample: int, steps: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.memory import peak_bytes
    from ftlab.base.heap import keep_freed_memory
    from ftlab.data.packing.collate import BY_SEGMENT, PackedCollator
    from ftlab.data.packing.store import PackedRow, Sample
    from ftlab.stages.losses import cross_entropy
    from ftlab.stages.trainer.forward import packed_logprobs

    keep_freed_memory()  # as a run on a CPU does
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
    if attention in BY_SEGMENT:
        model.set_attn_implementation(attention)
    draw = np.random.default_rng(0)
    learned = np.arange(sample) > 0
    row = PackedRow(
        tuple(Sample(draw.integers(1, 2304, sample).astype(np.int32), learned) for _ in range(tokens // sample))
    )
    collate = PackedCollator(0, isolation=attention)

    def step() -> float:
        batch = collate([row])
        loss = cross_entropy(packed_logprobs(model, model, batch), len(batch["targets"]))
        loss.backward()
        return float(loss)

    step()  # gradients are there from now on
    seconds = []
    for _ in range(steps):
        begun = time.process_time()
        loss = step()
        seconds.append(time.process_time() - begun)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return {
        "attention": attention, "tokens": tokens, "sample": sample, "cpu_seconds": statistics.median(seconds),
        "peak_bytes": peak_bytes(profile), "loss": loss, "threads": torch.get_num_threads(),
    }  # fmt: skip


def line_of(one: dict[str, Any]) -> str:
    tokens, seconds, memory = one["tokens"], one["cpu_seconds"], one["peak_bytes"]
    return (
        f"{one['attention']:14}{tokens:>8,}{one['sample']:>12,}{seconds:>9.2f}{memory / MIB:>9.0f}"
        f"{1e6 * seconds / tokens:>10.0f}{memory / 1024 / tokens:>11.1f}"
    )


def growth(rows: Sequence[dict[str, Any]]) -> str:
    """How much more a token of the longest row costs than one of the shortest."""
    first, last = rows[0], rows[-1]

    def ratio(name: str) -> float:
        return float(last[name] / last["tokens"] / (first[name] / first["tokens"]))

    return (
        f"{last['attention']}: a token of {last['tokens']:,} takes {ratio('cpu_seconds'):.2f} times the seconds and "
        f"{ratio('peak_bytes'):.2f} times the memory of one of {first['tokens']:,} (1 is linear)"
    )


if __name__ == "__main__":
    main()
