"""Steps on one GPU beside TRL at its best settings: real tokens per second, model FLOPs utilization, peak memory.

    python benchmarks/step_gpu.py                        # everything, on this GPU
    python benchmarks/step_gpu.py --cases "8B lora" --repeats 3
    python benchmarks/step_gpu.py --dry-run              # the very same code at a small size on a CPU: that it ends

It carries what it needs, since a GPU machine may have no network: models of real shapes (Llama 3.2 1B, Llama 3.1 8B)
with random weights drawn on the device, lines of the standard library's sources as chats, the embedded tokenizer. Of
each case the sides are ftlab, which chooses its attention by itself, and TRL's own trainer on the same rows with each
attention that is installed: sdpa, flex, flash-attention. Where Liger is installed, ftlab has its layers, and TRL is
measured with them (``model.kernels=liger`` on both sides) and without. TRL's best is what counts. TRL gets packed rows
as they are (``padding_free``); its dpo cannot do without padding.

- ``8B lora``: bf16, packed to 4,096, no checkpointing. ``8B qlora``: nf4, beside ftlab's own LoRA. ``8B full``: with an
  8-bit optimizer, checkpointed. ``8B dpo``: LoRA, pairs per second of an epoch. ``1B sft``: full, packed to 4,096.
- ``8B full tensorwise`` and the other scalings of ``train.fp8``, beside bf16, where torchao is installed.
- ``8B lora of Liger``: ftlab with Liger's layers beside ftlab without, where Liger is installed.
- ``--compile``: 8B lora and 1B sft with ``train.compile=layers``, beside ftlab without it.
- ``sweep``: 4 LoRA configs of the 1B model in turns beside one after the other, whole commands.

Tokens are real ones: padding does not count. MFU = tokens/s x F / peak, where F = 4 N a token for LoRA (of frozen
weights there is no gradient) and 6 N where all weights train, N the number of weights, embeddings included;
attention's own products and what checkpointing computes again do not count. The peak is the datasheet's of dense bf16.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
import preference
import workload
from harness import Case, Figures, Floor, Ratio

WARM_UP = 3
LORA = ("method=lora", "lora.r=16", "lora.dropout=0")
METHODS: dict[str, tuple[str, ...]] = {
    "lora": LORA,
    "qlora": ("method=qlora", "lora.r=16", "lora.dropout=0"),
    "full": ("method=full", "train.optimizer=adamw_8bit", "train.gradient_checkpointing=true"),
    "sft": ("method=full",),
}
SWEPT = 4  # configs
LIGER = ["model.kernels=liger"]  # its layers; ftlab and TRL have losses of their own that make no whole logits


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each measurement")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--dry-run", action="store_true", help="at a small size on a CPU")
    parser.add_argument("--compile", action="store_true", help="besides: train.compile=layers beside none")
    parser.set_defaults(threads=4)
    options = parser.parse_args()
    options.small = options.small or options.dry_run
    if not options.one and not options.dry_run:
        import torch

        if not torch.cuda.is_available():
            sys.exit("PyTorch sees no GPU here; --dry-run runs the same code on a CPU.")
    harness.main("step_gpu", options, cases, measure)


def cases(options: Any) -> list[Case]:
    big, little = ("small", "small") if options.small else ("Llama-3.1-8B", "Llama-3.2-1B")
    device = "cpu" if options.dry_run else "auto"
    size = {"length": 256, "steps": 1} if options.small else {"length": options.length, "steps": options.steps}

    def sides(work: dict[str, Any]) -> dict[str, dict[str, Any]]:
        peers = {name: {"engine": "trl", "how": how, **work} for name, how in peer_settings(options.dry_run).items()}
        own = LIGER if find_spec("liger_kernel") and not options.dry_run else []
        return {"ftlab": {"engine": "ftlab", "how": own, **work}, **peers}

    def steps(method: str, shape: str) -> dict[str, Any]:
        return {"kind": "steps", "method": method, "shape": shape, "device": device, **size}

    lora = sides(steps("lora", big))
    pairs = {"kind": "dpo", "shape": big, "device": device, "pairs": 8 if options.small else 64}
    rates = ("tokens/s", "MFU", "peak MiB")
    sft = sides(steps("sft", little))
    compiled = [("8B lora", lora["ftlab"]), ("1B sft", sft["ftlab"])] if options.compile else []
    swept = {"kind": "sweep", "shape": little, "device": device, "steps": 2 if options.small else 40}
    return [
        Case("8B lora", lora, (Ratio("tokens/s", at_least=1.2), Ratio("peak MiB", at_most=1.0)),
             floors=(Floor("MFU", 0.45),), shown=rates),
        *([Case("8B lora of Liger", {"ftlab": lora["ftlab"], "its own layers": {**lora["ftlab"], "how": []}},
                (Ratio("tokens/s", better="higher"), Ratio("peak MiB", better="lower")), shown=rates)]
          if lora["ftlab"]["how"] else []),
        Case("8B qlora", {**sides(steps("qlora", big)), "own lora": lora["ftlab"]},
             (Ratio("tokens/s", at_least=0.85, peers="own"), Ratio("peak MiB", better="lower", peers="trl")),
             shown=rates),
        Case("8B full", sides(steps("full", big)),
             (Ratio("tokens/s", better="higher"), Ratio("peak MiB", better="lower")),
             floors=(Floor("tokens/s", 0.0),), shown=rates),
        *in_fp8(steps("full", big), rates),
        Case("8B dpo", sides(pairs), (Ratio("pairs/s", at_least=1.8), Ratio("peak MiB", better="lower"))),
        Case("1B sft", sft,
             (Ratio("tokens/s", at_least=1.5), Ratio("peak MiB", better="lower")), shown=rates),
        Case("sweep", {"ftlab": {"launcher": "shards", **swept}, "one by one": {"launcher": "basic", **swept}},
             (Ratio("wall s", at_most=1.03), Ratio("peak MiB", better="lower"))),
        *(Case(f"{name} compiled",
               {"ftlab": {**work, "how": ["train.compile=layers"]}, "as written": {**work, "how": []}},
               (Ratio("tokens/s", better="higher"), Ratio("peak MiB", better="lower")), shown=rates)
          for name, work in compiled),
    ]  # fmt: skip


def in_fp8(work: dict[str, Any], rates: tuple[str, ...]) -> list[Case]:
    """Each scaling of ``train.fp8`` beside bf16, where torchao is installed; MFU by the peak of bf16 for both."""
    scalings = ("tensorwise", "rowwise", "rowwise_with_gw_hp") if find_spec("torchao") else ()
    return [
        Case(f"8B full {scaling}", {"ftlab": {"engine": "ftlab", "how": [f"train.fp8={scaling}"], **work},
                                    "bf16": {"engine": "ftlab", "how": [], **work}},
             (Ratio("tokens/s", better="higher"), Ratio("peak MiB", better="lower")), shown=rates)
        for scaling in scalings
    ]  # fmt: skip


def peer_settings(dry_run: bool) -> dict[str, list[str]]:
    """What TRL is tried with, by the name of the side: overrides of its run."""
    found = {"trl sdpa": ["model.attention=sdpa"]}
    if dry_run:
        return found
    found["trl flex"] = ["model.attention=flex_attention"]
    if find_spec("flash_attn"):
        found["trl flash"] = ["model.attention=flash_attention_2"]
    if find_spec("liger_kernel"):
        found |= {f"{name} liger": [*how, *LIGER] for name, how in [*found.items()]}
    return found


def measure(kind: str, device: str, **work: Any) -> Figures:
    """One side of a case. Memory that runs out is a result too: that side has no figures."""
    import torch

    from ftlab.errors import OutOfMemoryError

    where = [f"hardware={device}", f"hardware.precision={'fp32' if device == 'cpu' else 'bf16'}"]
    kinds = {"steps": steps, "dpo": dpo, "sweep": sweep}
    try:
        return kinds[kind](where, **work)
    except (torch.OutOfMemoryError, OutOfMemoryError) as error:
        print(error, file=sys.stderr)
        return {"out of memory": 1}


def steps(
    where: list[str], engine: str, method: str, shape: str, length: int, steps: int, how: Sequence[str] = ()
) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = workload.write_chats(folder / "chats.jsonl", (WARM_UP + steps) * length // 60 + 40, 3, 8)
        run = workload.read_run(
            *workload.PLAIN, *METHODS[method], f"model.path={workload.model_folder(folder, shape)}", *where,
            f"data.path={path}", "data.format=messages", "data.train_on=all", f"data.max_length={length}",
            "train.micro_batch_size=1", "train.gradient_accumulation_steps=1", f"train.max_steps={WARM_UP + steps}",
            "train.on_oom=stop", f"train.engine={engine}", *how,
        )  # fmt: skip
        trainer, _ = workload.make_trainer(run, folder)
        figures = workload.train_timed(trainer, WARM_UP)
        return {**figures, **utilization(run, figures["tokens/s"])}


def utilization(run: Any, rate: float) -> Figures:
    """See the head of this file. Nothing where the peak of the device is not known."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftlab.engine.trackers.rates import peak

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    flops = peak(name, torch.bfloat16)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run.model.path))
    weights = sum(parameter.numel() for parameter in model.parameters())
    of_token = (4 if run.method.name == "lora" else 6) * weights
    found = {"TFLOP/s": rate * of_token / 1e12}
    return found if flops is None else {**found, "MFU": rate * of_token / flops}


def dpo(where: list[str], engine: str, shape: str, pairs: int, how: Sequence[str] = ()) -> Figures:
    more = [*where, *LORA, "train.on_oom=stop", *how]
    return preference.measure(engine, "dpo", shape, pairs, more)


def sweep(where: list[str], launcher: str, shape: str, steps: int) -> Figures:
    """Four configs as one command. The weights are written before, and read by it: they are the same for all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = workload.model_folder(folder, shape)
        run = workload.read_run(*workload.PLAIN, f"model.path={model}", *where, *LORA)
        workload.random_weights(run).save_pretrained(model)
        path = workload.write_chats(folder / "chats.jsonl", 400, 3, 8)
        return harness.command(
            ["-m", "ftlab", "-m", f"seed={','.join(map(str, range(SWEPT)))}", *workload.PLAIN, *LORA, *where,
             f"model.path={model}", f"data.path={path}", "data.format=messages", "data.max_length=1024",
             "train.micro_batch_size=1", "train.gradient_accumulation_steps=1", f"train.max_steps={steps}",
             "eval.samples=0", "eval.golden_rows=0", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"],
            folder,
        )  # fmt: skip


if __name__ == "__main__":
    main()
