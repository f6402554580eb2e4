"""Rules that span groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from ftlab.config.compiled import compile_obstacles
from ftlab.distributed.world import planned_devices
from ftlab.pretrained.architecture import is_bounded
from ftlab.pretrained.liger import LIGER_FAMILIES
from ftlab.rundir.names import EXACT_MATCH, OF_GOLDEN
from ftlab.schema import DpoStage, Format, PpoStage, Run, SftStage, Stage

FP8_CAPABILITY = 8.9  # compute capability from which on NVIDIA's GPUs multiply in fp8 (torchao.utils.is_sm_at_least_89)
FP8_MULTIPLE = 16  # of the sizes of a weight that they take (torchao.float8.float8_utils.pad_tensor_for_matmul)
TRL_STAGES = ("sft", "rm", "dpo", "kto")  # that train.engine=trl has a trainer for


def cross_group_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """Rules that span groups, as ``(key, value, reason)``."""
    found: list[tuple[str, Any, str]] = []
    if run.method.name != "lora" and run.quant.name != "none":
        found.append(
            ("quant", run.quant.name, f"quantized weights cannot be trained whole; method={run.method.name} needs "
             "quant=none, or use method=qlora")
        )  # fmt: skip
    found += _method_mistakes(run) + _quant_mistakes(run) + _training_mistakes(run)
    if run.lora.variant != "loraplus" and run.lora.loraplus_ratio is not None:
        reason = f"only lora=loraplus has it, and this is lora.variant={run.lora.variant}"
        found.append(("lora.loraplus_ratio", run.lora.loraplus_ratio, reason))
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
    if run.lora.experts is True and run.lora.variant in ("dora", "pissa"):
        reason = (
            f"lora.variant={run.lora.variant} needs linear layers, which fused experts are not; use lora, rslora or "
        )
        found.append(("lora.experts", "true", f"{reason}loraplus, or lora.experts=false"))
    found += _stage_mistakes(run.stage)
    if run.train.engine == "trl" and not run.phases:
        found += _trl_mistakes(run)
    shape = run.model.architecture
    if run.model.kernels == "liger" and not run.phases and shape.family not in LIGER_FAMILIES:
        reason = f"Liger has no layers for {shape.family} that were found right, but for {', '.join(LIGER_FAMILIES)}; "
        found.append(("model.kernels", "liger", f"{reason}use none, or auto, which takes them where there are any"))
    is_longer = not run.phases and run.data.max_length > shape.max_positions
    if is_longer and is_bounded(shape.family, shape.position_embeddings):
        found.append(
            ("data.max_length", run.data.max_length, f"model={run.model.name} has learned {shape.max_positions} "
             "positions and can compute no more; set data.max_length to that or less")
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
    return found + _generation_mistakes(run) + _deepspeed_mistakes(run) + _fsdp_mistakes(run)


# Optimizers that compute with the shape of a weight: ZeRO gives them rows of numbers.
_OF_SHAPES = ("adafactor", "galore", "apollo")


def _deepspeed_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """What DeepSpeed cannot do together with the rest of the run, or with itself."""
    chosen, found = run.deepspeed, list[tuple[str, Any, str]]()
    if chosen.offload_optimizer and not chosen.stage:
        reason = "only a sharded optimizer is kept in the host's memory; use deepspeed=z2_offload or z3_offload"
        found.append(("deepspeed.offload_optimizer", True, reason))
    if chosen.offload_parameters and chosen.stage != 3:
        reason = "only sharded parameters are kept in the host's memory; use deepspeed=z3_offload"
        found.append(("deepspeed.offload_parameters", True, reason))
    if not chosen.stage:
        return found
    if chosen.stage == 3 and run.train.gradient_checkpointing == "selective":
        reason = "was not run with weights that ZeRO-3 gathers layer by layer; use true, or deepspeed=z2"
        found.append(("train.gradient_checkpointing", "selective", reason))
    if chosen.stage == 3 and run.quant.name == "int8":
        found.append(("deepspeed", chosen.name, "ZeRO-3 cannot shard int8 weights; use z2 or quant=nf4"))
    if run.train.optimizer.startswith(_OF_SHAPES):
        reason = f"deepspeed={chosen.name} gives an optimizer rows of numbers, and this one needs the shapes of weights"
        found.append(("train.optimizer", run.train.optimizer, f"{reason}; use adamw_torch, or deepspeed=none"))
    return found


# torch's optimizers, whose arithmetic on a share of a weight is that on the whole of it.
_OF_SHARDS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


def _fsdp_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """What FSDP cannot shard, or has nothing to shard for."""
    found: list[tuple[str, Any, str]] = []
    if not run.hardware.fsdp:
        return found
    if run.deepspeed.stage is not None:
        return [("hardware.fsdp", True, "FSDP and DeepSpeed both shard; choose one")]
    if planned_devices(run.hardware) == 1:
        found.append(
            ("hardware.fsdp", True, "FSDP shares a model out among several devices, and this is one; give "
             "hardware.devices=N, or use hardware.fsdp=false")
        )  # fmt: skip
    if run.phases:
        return found
    if run.quant.name == "int8":
        found.append(("quant", "int8", "FSDP cannot shard int8 weights; use quant=nf4, or hardware.fsdp=false"))
    if run.hardware.precision == "fp16":
        reason = "under FSDP no gradients are scaled, as fp16 needs it; use bf16, or hardware.fsdp=false"
        found.append(("hardware.precision", "fp16", reason))
    if run.train.optimizer not in _OF_SHARDS:
        reason = f"it does not know sharded weights; under hardware.fsdp=true use one of: {', '.join(_OF_SHARDS)}"
        found.append(("train.optimizer", run.train.optimizer, reason))
    return found


def _generation_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """Weights in shards where a policy writes: one token at a time, and beside other roles."""
    if run.phases or run.stage.name not in ("ppo", "grpo"):
        return []
    what = f"stage={run.stage.name} writes answers with weights that {{}} gathers for every token, and computes "
    what += "with the policy as it is and as it was; use {}"
    found: list[tuple[str, Any, str]] = []
    if run.hardware.fsdp:
        found.append(("hardware.fsdp", True, what.format("FSDP", "hardware.fsdp=false, or deepspeed=z2 instead of it")))
    if run.deepspeed.stage == 3:
        found.append(("deepspeed", run.deepspeed.name, what.format("ZeRO-3", "deepspeed=z2 or z2_offload")))
    return found


def _method_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """What trains of the base model, where that is a part of it."""
    method = run.method
    found: list[tuple[str, Any, str]] = []
    besides = {"train_embeddings": method.train_embeddings, "train_norms": method.train_norms}
    if method.name != "freeze":
        given = {"trainable_modules": method.trainable_modules, **besides}
        reason = f"only method=freeze has it, and this is method={method.name}"
        found += [(f"method.{key}", value, reason) for key, value in given.items() if value]
    elif not (method.trainable_layers or method.trainable_modules or any(besides.values())):
        found.append(
            ("method.trainable_layers", method.trainable_layers, "method=freeze needs a number other than 0: n "
             "trains the last n decoder layers, -n the first n. Or name method.trainable_modules, or set "
             "method.train_embeddings or method.train_norms")
        )  # fmt: skip
    if method.trainable_layers and abs(method.trainable_layers) > run.model.architecture.layers:
        found.append(
            ("method.trainable_layers", method.trainable_layers,
             f"model={run.model.name} has {run.model.architecture.layers} decoder layers")
        )  # fmt: skip
    return found


def _quant_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """What a quantization does not have, or has nothing to do with."""
    quant, found = run.quant, list[tuple[str, Any, str]]()
    if quant.name not in ("nf4", "fp4"):
        reason = f"only quant=nf4 and fp4 have it, and this is quant={quant.name}"
        given = {"compute_dtype": quant.compute_dtype != "auto", "double_quantization": quant.double_quantization}
        found += [(f"quant.{key}", getattr(quant, key), reason) for key, is_given in given.items() if is_given]
    if quant.name != "none" and run.model.init == "random":
        found.append(("quant", quant.name, "model.init=random has no weights that could be quantized; use quant=none"))
    return found


# What evaluations log of the validation split, so that they can be compared by it; of grpo also each reward function.
_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies")
_PAIR_STAGES = ("loss", "preference_accuracy", *_REWARDS, "rewards/margins", "logps/chosen", "logps/rejected")
_MEASURES = {
    "pt": ("loss", "perplexity"),
    "sft": ("loss", "perplexity"),
    "rm": ("loss", "accuracy", "score/chosen", "score/rejected", "score/margin"),
    "dpo": _PAIR_STAGES,
    "kto": ("loss", "kl", *_REWARDS),
    "orpo": (*_PAIR_STAGES, "nll", "log_odds"),
    "ppo": ("loss", "reward", "kl", "answer_length"),
    "grpo": ("loss", "reward", "kl", "completion_length", "ended"),
}


# Of these, what lines of training have no means of.
_OF_EVALUATIONS = ("perplexity", "answer_length", "completion_length", "ended")


def validation_measures(run: Run) -> tuple[str, ...]:
    """What an evaluation logs of the validation split; of grpo also each reward function."""
    return ("loss",) if run.train.engine == "trl" else _MEASURES[run.stage.name]


def training_measures(run: Run) -> tuple[str, ...]:
    """What lines of training log that runs can be compared by."""
    return tuple(name for name in validation_measures(run) if name not in _OF_EVALUATIONS)


def _offload_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """Where activations cannot go to the host's memory."""
    key, train = "train.activation_offload", run.train
    found: list[tuple[str, Any, str]] = []
    if not train.gradient_checkpointing:
        reason = "what is kept without checkpointing is more than can be copied beside the computing; give "
        found.append((key, True, f"{reason}train.gradient_checkpointing=true or selective as well"))
    if train.engine == "trl":
        found.append((key, True, "needs train.engine=ftlab"))
    if run.stage.name == "grpo" and not run.phases:
        reason = "stage=grpo switches checkpointing off and on between generations, and would lose it; use false"
        found.append((key, True, reason))
    return found


def _training_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    train, stage, found = run.train, run.stage, list[tuple[str, Any, str]]()
    if train.global_batch_size is not None and not run.phases:
        found += _batch_mistakes(run, train.global_batch_size)
    if train.label_smoothing and stage.name not in ("pt", "sft"):
        own = "; its own key is stage.label_smoothing" if isinstance(stage, DpoStage) else ""
        reason = f"smooths the cross-entropy of pt and sft, and this is stage={stage.name}{own}"
        found.append(("train.label_smoothing", train.label_smoothing, reason))
    if train.router_aux_loss_coef and stage.name == "ppo":
        reason = "ppo has no load-balancing loss; use another stage, or null"
        found.append(("train.router_aux_loss_coef", train.router_aux_loss_coef, reason))
    if train.engine == "trl":
        ours: dict[str, float | None] = {"train.label_smoothing": train.label_smoothing}
        if isinstance(stage, SftStage):
            ours["stage.neftune_alpha"] = stage.neftune_alpha
        found += [(key, value, "needs train.engine=ftlab") for key, value in ours.items() if value]
        if run.data.share_prompts is True:
            found.append(("data.share_prompts", "true", "needs train.engine=ftlab"))
    if train.activation_offload:
        found += _offload_mistakes(run)
    if train.fp8 != "none" and not run.phases:
        found += [("train.fp8", train.fp8, reason) for reason in _fp8_obstacles(run)]
    if train.compile != "none" and not run.phases:
        found += [("train.compile", train.compile, reason) for reason in compile_obstacles(run)]
    if train.optimizer.startswith(("galore", "apollo")) and run.method.name == "lora":
        reason = f"projects whole weight matrices; method={run.method.name} has none that train, so use method=full"
        found.append(("train.optimizer", train.optimizer, reason))
    if train.keeps_best:
        found += _best_metric_mistakes(run)
    return found


def _fp8_obstacles(run: Run) -> Iterator[str]:
    """Why the linear layers of the decoder cannot multiply in fp8, or what for they would have to."""
    stage, hardware = run.stage.name, run.hardware
    if run.method.name == "lora":
        yield (
            "is for weights that train whole: torchao's layers compute a gradient for every weight, and none is needed "
            "below an adapter. Use method=full or freeze, or none; what takes less memory is method=qlora"
        )
    if stage in ("ppo", "grpo"):
        yield (
            f"stage={stage} compares what a policy wrote with what it computes in other batches, which round otherwise "
            "in fp8; use none"
        )
    if run.train.engine == "trl":
        yield "needs train.engine=ftlab"
    if run.deepspeed.stage == 3:
        yield (
            "keeps the weights for the backward that ZeRO-3 has gathered for the forward, those of all layers; use "
            "deepspeed=z2, hardware.fsdp=true, or none"
        )
    if hardware.precision == "fp16":
        yield "goes with hardware.precision=bf16: what multiplies in fp8 has bf16, too"
    if hardware.compute_capability is not None and hardware.compute_capability < FP8_CAPABILITY:
        yield (
            f"hardware={hardware.name} does not multiply in fp8: its compute capability is "
            f"{hardware.compute_capability}, and {FP8_CAPABILITY} is needed (L4, RTX 4090, H100); use none"
        )


def _best_metric_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """Where evaluations cannot be compared as ``train.early_stopping`` or ``train.keep_best`` want it."""
    train, stage, found = run.train, run.stage.name, list[tuple[str, Any, str]]()
    wanted: tuple[str, Any] = ("train.early_stopping", train.early_stopping)
    if train.early_stopping is None:
        wanted = ("train.keep_best", "true")
    known = [*validation_measures(run)]
    if stage == "grpo":
        known.append("rewards/FUNCTION")
    answers = stage not in ("pt", "rm")
    known += golden_measures(run) if answers else []
    metric, split, key, steps = train.best_metric, "validation", "eval.steps", run.eval.steps
    is_golden = answers and metric.startswith(OF_GOLDEN) and run.eval.measures(metric.removeprefix(OF_GOLDEN))
    if metric not in known and not is_golden and not (stage == "grpo" and metric.startswith("rewards/")):
        of = "train.engine=trl" if train.engine == "trl" else f"stage={stage}"
        found.append(("train.best_metric", metric, f"{of} measures {', '.join(known)}"))
    elif metric.startswith(OF_GOLDEN):
        if run.eval.generate_every is None:
            reason = f"{wanted[0]} compares the answers to the golden prompts; say how many steps lie between them"
            return [*found, ("eval.generate_every", "null", reason)]
        split, key, steps = "golden", "eval.generate_every", run.eval.generate_every
    if getattr(run.data.split, split) == "none":
        reason = f"compares evaluations, and data.split.{split}=none leaves nothing to evaluate on"
        found.append((*wanted, reason))
    if train.max_steps is not None and steps > train.max_steps:
        found.append((key, steps, f"more than train.max_steps={train.max_steps}: there is no evaluation to compare"))
    return found


def golden_measures(run: Run) -> list[str]:
    """What is logged of answers to golden prompts; a user's function may give more, each NAME_KEY."""
    return list(dict.fromkeys([EXACT_MATCH, *(f"{OF_GOLDEN}{name}" for name in run.eval.metric_names)]))


def _batch_mistakes(run: Run, total: int) -> list[tuple[str, Any, str]]:
    if isinstance(run.stage, PpoStage):
        reason = "an optimizer step of ppo takes stage.mini_batch_size answers, on however many devices; set that"
        return [("train.global_batch_size", total, reason)]
    micro, devices = run.train.micro_batch_size, planned_devices(run.hardware)
    if total % (micro * devices) == 0:
        return []
    reason = f"must be a multiple of train.micro_batch_size x devices = {micro * devices}"
    fits = [str(size) for size in range(1, total // devices + 1) if total % (size * devices) == 0]
    near = sorted(fits, key=lambda size: abs(int(size) - micro))[:2]
    if near:
        reason += f"; with {total}, train.micro_batch_size could be {' or '.join(sorted(near, key=int))}"
    return [("train.global_batch_size", total, reason)]


def _stage_mistakes(stage: Stage) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = []
    if isinstance(stage, DpoStage) and stage.loss_type == "exo" and stage.label_smoothing == 0:
        reason = "loss_type=exo needs more than 0, how likely a pair's label is wrong; its paper takes 1e-3"
        found.append(("stage.label_smoothing", stage.label_smoothing, reason))
    if isinstance(stage, PpoStage) and stage.rollout_batch_size % stage.mini_batch_size:
        reason = f"does not divide stage.rollout_batch_size={stage.rollout_batch_size}"
        found.append(("stage.mini_batch_size", stage.mini_batch_size, reason))
    if isinstance(stage, PpoStage) and stage.reward_model is None and not stage.rewards:
        reason = "ppo needs something to reward: name reward functions, or a reward run in stage.reward_model"
        found.append(("stage.rewards", "[]", reason))
    if isinstance(stage, PpoStage) and stage.kl_target is not None and stage.kl_coefficient == 0:
        reason = "kl_target moves the coefficient by a factor, and 0 stays 0; start from more than 0"
        found.append(("stage.kl_coefficient", stage.kl_coefficient, reason))
    return found


def _trl_mistakes(run: Run) -> list[tuple[str, Any, str]]:
    """What TRL's own trainers cannot do, or do otherwise under the same name."""
    if run.stage.name not in TRL_STAGES:
        reason = f"TRL's own trainers here are those of {', '.join(TRL_STAGES)}; stage={run.stage.name} needs "
        return [("train.engine", "trl", f"{reason}train.engine=ftlab")]
    found: list[tuple[str, Any, str]] = []
    several = {
        f"hardware.devices makes {planned_devices(run.hardware)}": planned_devices(run.hardware) > 1,
        f"deepspeed={run.deepspeed.name}": bool(run.deepspeed.stage), "hardware.fsdp=true": run.hardware.fsdp,
    }  # fmt: skip
    if asked := [name for name, is_asked in several.items() if is_asked]:
        reason = f"trains in one process, on one device ({' and '.join(asked)}); use train.engine=ftlab, which takes "
        found.append(("train.engine", "trl", f"{reason}the same rows on any number of devices"))
    if run.stage.name == "kto" and run.train.micro_batch_size == 1:
        reason = "TRL's KTO refuses one row at a time; use 2 or more, or train.engine=ftlab"
        found.append(("train.micro_batch_size", 1, reason))
    if not isinstance(run.stage, DpoStage):
        return found
    if run.stage.loss_type in ("simpo", "cpo"):
        reason = "TRL's DPO has only losses with a reference; use train.engine=ftlab"
        found.append(("stage.loss_type", run.stage.loss_type, reason))
    if run.stage.loss_type == "sigmoid" and run.stage.label_smoothing:
        reason = "TRL's DPO ignores it under loss_type=sigmoid; use robust, or train.engine=ftlab"
        found.append(("stage.label_smoothing", run.stage.label_smoothing, reason))
    if run.stage.sft_weight:
        reason = "TRL averages this term over the tokens of a micro-batch and not over pairs; use train.engine=ftlab"
        found.append(("stage.sft_weight", run.stage.sft_weight, reason))
    return found
