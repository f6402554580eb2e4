"""Rules that span groups."""

from __future__ import annotations

from typing import Any, get_args

from ftlab.schema import DpoStage, Format, PpoStage, Run, Stage


def cross_group_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """Rules that span groups, as ``(key, value, reason)``."""
    found: list[tuple[str, Any, str]] = []
    if run.method.name != "lora" and run.quant.name != "none":
        found.append(
            ("quant", run.quant.name, f"quantized weights cannot be trained whole; method={run.method.name} needs "
             "quant=none, or use method=qlora")
        )  # fmt: skip
    if run.method.name == "freeze" and not run.method.trainable_layers:
        found.append(
            ("method.trainable_layers", run.method.trainable_layers, "method=freeze needs a number other than 0: n "
             "trains the last n decoder layers, -n the first n")
        )  # fmt: skip
    if run.method.trainable_layers and abs(run.method.trainable_layers) > run.model.architecture.layers:
        found.append(
            ("method.trainable_layers", run.method.trainable_layers,
             f"model={run.model.name} has {run.model.architecture.layers} decoder layers")
        )  # fmt: skip
    if run.lora.variant == "loraplus" and run.lora.loraplus_ratio is None:
        found.append(("lora.loraplus_ratio", None, "lora.variant=loraplus needs a ratio; lora=loraplus sets it to 16"))
    if run.quant.name != "none" and run.lora.variant == "pissa":
        found.append(
            ("lora.variant", "pissa", "PiSSA takes the singular vectors of unquantized weights; use quant=none")
        )
    if run.quant.name == "int8" and run.lora.variant == "dora":
        found.append(
            (
                "lora.variant",
                "dora",
                "DoRA cannot read the scales of int8 weights after their first use; use quant=nf4",
            )
        )
    found += _stage_mistakes(run.stage)
    if not run.phases and run.data.max_length > run.model.architecture.max_positions:
        found.append(
            ("data.max_length", run.data.max_length, f"model={run.model.name} has a context of "
             f"{run.model.architecture.max_positions} tokens; set data.max_length to that or less")
        )  # fmt: skip
    # grpo looks at the longest prompt that there is.
    answer = run.stage.max_new_tokens if isinstance(run.stage, PpoStage) else 0
    if not run.phases and answer and run.data.max_length + answer > run.model.architecture.max_positions:
        reason = f"with prompts of data.max_length={run.data.max_length} it is more than the context of "
        reason += f"model={run.model.name}, {run.model.architecture.max_positions} tokens"
        found.append(("stage.max_new_tokens", answer, reason))
    if run.data.overlap >= run.data.max_length:
        found.append(("data.overlap", run.data.overlap, f"must be less than data.max_length={run.data.max_length}"))
    if run.data.packing == "wrapped" and run.stage.name != "pt":
        found.append(("data.packing", "wrapped", f"cuts texts anywhere; stage={run.stage.name} needs true or false"))
    if run.data.packing == "wrapped" and run.data.overlap:
        found.append(("data.overlap", run.data.overlap, "wrapped rows follow each other without overlap; use 0"))
    if run.data.path is not None and run.data.format is None:
        found.append(
            ("data.format", None, f"data.path={run.data.path} needs data.format, one of: {', '.join(get_args(Format))}")
        )
    if run.data.path is None and run.data.name is None:
        found.append(("data.path", None, "no data: choose data=NAME, or give data.path and data.format"))
    if run.deepspeed.stage == 3 and run.quant.name == "int8":
        found.append(("deepspeed", run.deepspeed.name, "ZeRO-3 cannot shard int8 weights; use z2 or quant=nf4"))
    if run.deepspeed.stage is not None and run.hardware.fsdp:
        found.append(("hardware.fsdp", True, "FSDP and DeepSpeed both shard; choose one"))
    names = [phase.name for phase in run.phases]
    twice = sorted({name for name in names if names.count(name) > 1})
    return found + [("phases", name, "two phases have this name") for name in twice]


def _stage_mistakes(stage: Stage) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = []
    if isinstance(stage, DpoStage) and stage.loss_type == "exo" and stage.label_smoothing == 0:
        reason = "loss_type=exo needs more than 0, how likely a pair's label is wrong; its paper takes 1e-3"
        found.append(("stage.label_smoothing", stage.label_smoothing, reason))
    if isinstance(stage, PpoStage) and stage.rollout_batch_size % stage.mini_batch_size:
        reason = f"does not divide stage.rollout_batch_size={stage.rollout_batch_size}"
        found.append(("stage.mini_batch_size", stage.mini_batch_size, reason))
    if isinstance(stage, PpoStage) and stage.kl_target is not None and stage.kl_coefficient == 0:
        reason = "kl_target moves the coefficient by a factor, and 0 stays 0; start from more than 0"
        found.append(("stage.kl_coefficient", stage.kl_coefficient, reason))
    return found
