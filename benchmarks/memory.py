"""Predicted peak memory of training beside what is measured, as docs/memory.md has it.

    python benchmarks/memory.py                          # on a CPU: bytes that torch.profiler sees allocated
    python benchmarks/memory.py --sizes tiny moe --lengths 256 --stages sft ppo
    python benchmarks/memory.py --device gpu             # on a GPU: torch.cuda.max_memory_allocated

Every line of the table is a real run of two optimizer steps, in a process of its own, of a model with random weights:
the second step has gradients, optimizer states and activations at once. Every row is exactly as long as it may be, and
nearly all of its tokens are scored. Of ppo and grpo a row is a prompt and an answer of 32 tokens; two of ppo and four
of grpo are written and learned from at once, and there are new ones for each step. What is held before the first step
(weights of the model, and of a critic and a reference) is counted tensor by tensor, and all that is allocated from then
on by the profiler; on a GPU the allocator counts both. Resident memory (RSS) of the whole process, which also holds
Python, libraries and freed memory, is shown for information.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

GIB, MIB = 2**30, 2**20
STEPS = 2
LIMIT = 0.05
ANSWER = 32  # tokens of an answer of ppo and grpo, which a random model ends itself in one of thousands
# Shapes in the words of transformers' LlamaConfig and, where there are experts, MixtralConfig. The tokenizer is the
# embedded model's, and its ids stay below 2,304.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": 2304},
    "moe": {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
            "num_key_value_heads": 4, "vocab_size": 2304, "num_local_experts": 8, "num_experts_per_tok": 2},
    "100M": {"num_hidden_layers": 12, "hidden_size": 640, "intermediate_size": 1792, "num_attention_heads": 10,
             "num_key_value_heads": 10, "vocab_size": 32000},
    "300M": {"num_hidden_layers": 20, "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16,
             "num_key_value_heads": 8, "vocab_size": 32000},
}  # fmt: skip
METHODS = ("full", "lora", "qlora")
STAGES = ("sft", "dpo", "ppo", "grpo")
CHECKPOINTING = ("false", "true", "selective")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--checkpointing", nargs="+", default=CHECKPOINTING, choices=CHECKPOINTING)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--out", type=Path, help="a file for every measurement, one JSON object a line")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)  # the measured run, in its own process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    worst = 0.0
    print("| model | method | stage | length | checkpointing | predicted MiB | measured MiB | off by | RSS MiB |")
    print("|---|---|---|--:|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for line, found in measured(Path(folder), options):
            off = found["predicted"] / found["measured"] - 1
            worst = max(worst, abs(off))
            figures = f"{found['predicted'] / MIB:,.1f} | {found['measured'] / MIB:,.1f} | {off:+.1%}"
            print(f"| {' | '.join(line)} | {figures} | {found['rss'] / MIB:,.0f} |", flush=True)
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"line": line, **found}) + "\n")
    print(f"\nfarthest off: {worst:.1%}; the limit is {LIMIT:.0%}")
    sys.exit(worst > LIMIT)


def measured(folder: Path, options: Any) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Measure every combination, each in a process of its own."""
    chosen = product(options.sizes, options.methods, options.stages, options.lengths, options.checkpointing)
    for size, method, stage, length, checkpointing in chosen:
        model = make_model(folder / size, size)
        name = "-".join((size, method, stage, str(length), checkpointing))
        overrides = [
            *overrides_of(folder, model, method, stage, length, options.device),
            f"train.gradient_checkpointing={checkpointing}",
            f"run.dir={folder / name}",
        ]
        done = subprocess.run(
            [sys.executable, __file__, "--one", *overrides], capture_output=True, text=True, env={**os.environ}
        )
        if done.returncode:
            sys.exit(f"{' '.join(overrides)}\n{done.stdout}\n{done.stderr}")
        yield [size, method, stage, str(length), checkpointing], json.loads(done.stdout.splitlines()[-1])


def make_model(folder: Path, size: str) -> Path:
    """A folder with random weights of one of ``SIZES`` and the embedded model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MixtralConfig

    from ftlab.config.paths import shipped

    if not (folder / "tokenizer.json").is_file():
        torch.manual_seed(0)
        kind: Any = MixtralConfig if "num_local_experts" in SIZES[size] else LlamaConfig
        config = kind(**SIZES[size], max_position_embeddings=2048, sliding_window=None)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(shipped("models/tiny")).save_pretrained(folder)
    return folder


def overrides_of(folder: Path, model: Path, method: str, stage: str, length: int, device: str) -> list[str]:
    """The command line of a run all of whose rows are as long as they may be."""
    data = folder / f"{stage}.jsonl"
    text = "the quick brown fox jumps over the lazy dog 0123456789 " * 600
    columns = {
        "sft": {"prompt": "", "completion": text}, "dpo": {"prompt": "", "chosen": text, "rejected": text[::-1]},
        "ppo": {"prompt": text, "answer": "dog"}, "grpo": {"prompt": text, "answer": "dog"},
    }[stage]  # fmt: skip
    rows = [{**columns, "prompt": f"{columns['prompt']}{n}"} for n in range(4)]
    if stage == "grpo":  # every other prompt is a little shorter, for rows to be padded: a token has two characters
        rows[1::2] = [{**row, "prompt": row["prompt"][-2 * (length - ANSWER) + 60 :]} for row in rows[1::2]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kind = {"sft": "prompt_completion", "dpo": "preference"}.get(stage, "prompts")
    packing = str(stage == "dpo").lower()  # one text to a row needs no mask; two answers do
    rows_at_once = 1
    more = []
    if stage in ("ppo", "grpo"):
        length -= ANSWER
        # ppo counts the room of rows without answers
        rows_at_once = 4 if stage == "grpo" else -(-2 * (length + ANSWER) // length)
        more = [f"stage.max_new_tokens={ANSWER}", "data.truncation=left", "stage.rewards=[exact_match]"]
        more += ["stage.num_generations=2"] if stage == "grpo" else [
            "stage.rollout_batch_size=2", "stage.mini_batch_size=2", "stage.ppo_epochs=1",
        ]  # fmt: skip
    return [
        f"stage={stage}", "model=local", f"model.path={model}", f"method={method}", f"data.path={data}",
        f"data.format={kind}", f"data.max_length={length}", f"data.packing={packing}",
        "data.split.validation=none", "data.split.golden=none",
        "data.cache=null", "tracker=none", f"train.max_steps={STEPS}", f"train.micro_batch_size={rows_at_once}",
        "train.gradient_accumulation_steps=1", "train.save_steps=1000", "lora.r=16", "lora.dropout=0.05", *more,
        *(["hardware=cpu"] if device == "cpu" else []),
    ]  # fmt: skip


def measure(overrides: Sequence[str]) -> dict[str, Any]:
    """Run it here, and return predicted and measured bytes."""
    import torch
    from transformers import TrainerCallback

    from ftlab.config import compose
    from ftlab.engine.hooks import PhaseHooks
    from ftlab.engine.tasks import train
    from ftlab.preflight.memory import predict

    run = compose.read(list(overrides), compose.config_loader())
    peak: dict[str, float] = {}

    class Probe(TrainerCallback):
        def __init__(self, trainer: Any):
            self.trainer = trainer

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.held = held_bytes(self.trainer)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            else:
                self.profile = torch.profiler.profile(
                    activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
                )
                self.profile.start()

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if torch.cuda.is_available():
                peak["measured"] = torch.cuda.max_memory_allocated()
            else:
                self.profile.stop()
                peak["held"] = self.held
                peak["measured"] = self.held + peak_bytes(self.profile)

    class Hooks(PhaseHooks):
        def trainer_built(self, phase: Any, trainer: Any) -> None:
            trainer.add_callback(Probe(trainer))

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        train(run, list(overrides), Hooks())
    predicted = predict(run)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"predicted": predicted.total, "parts": predicted.as_dict(), "rss": rss, **peak}


def held_bytes(trainer: Any) -> int:
    """Bytes of every parameter and buffer of the model and of those beside it, and of what quantized ones have beside
    them, each storage once."""
    storages: dict[int, int] = {}

    def add(tensor: Any) -> None:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()

    model = trainer.roles.module() if hasattr(trainer, "roles") else trainer.model  # ppo's with critic and reference
    for tensor in (*model.parameters(), *model.buffers()):
        add(tensor.data)
        state = getattr(tensor, "quant_state", None)
        while state is not None:
            add(state.absmax)
            state = getattr(state, "state2", None)
    start = getattr(trainer, "_start", None)  # of grpo: what trains, as it was
    for _, tensor in start._start if start is not None else ():
        add(tensor)
    return sum(storages.values())


def peak_bytes(profile: Any) -> int:
    """The most that was allocated at once since a profile began, of what was allocated since then."""
    from torch._C._profiler import _EventType

    events, stack = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.typed[1].ptr, event.typed[1].alloc_size))
    total = peak = 0
    live: set[int] = set()
    for _, pointer, size in sorted(events, key=lambda one: one[0]):
        if size > 0:
            live.add(pointer)
        elif pointer not in live:
            continue  # it was there before
        else:
            live.remove(pointer)
        total += size
        peak = max(peak, total)
    return peak


if __name__ == "__main__":
    main()
