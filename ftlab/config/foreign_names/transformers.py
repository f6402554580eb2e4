"""Names of transformers' TrainingArguments, of this and earlier versions, which LLaMA-Factory and TRL have, too."""

from __future__ import annotations

from typing import Any

from ftlab.config.foreign_names.lines import Absent, Answer, Line, NotNeeded, as_list, as_word

_FP32, _DOES_SO = "hardware.precision=fp32", "ftlab does so"
_COMPILED = "train.compile=layers", "each decoder layer, for micro-batches padded to a few sizes"
_NO_SCHEDULE = Absent("there is no such schedule here; train.lr_scheduler takes cosine, linear, constant and others")
_TRACKERS = ("tensorboard", "wandb", "mlflow")


LIGER: Line = {
    "true": ("model.kernels=liger", "its layers; the loss goes without the full logits in any case"),
    "false": NotNeeded("off, there as here"),
}


def all_of(line: Line, names: str) -> dict[str, Line]:
    """The same line for several names."""
    return dict.fromkeys(names.split(), line)


def unless(reason: str, *harmless: str) -> Line:
    """There is none here, which does not matter for values that change nothing."""
    return {**dict.fromkeys(harmless, NotNeeded("that changes nothing, there as here")), "": Absent(reason)}


def deepspeed(value: Any) -> Answer:
    """The choice of the group for a file of DeepSpeed's, by its name, or for a config that is given whole."""
    if isinstance(value, dict):
        zero = value.get("zero_optimization") or {}
        moved = [key for key in ("offload_optimizer", "offload_param") if _is_moved(zero.get(key))]
        return _zero(zero.get("stage", 0), bool(moved))
    name = as_word(value).rpartition("/")[2]
    digits = [letter for letter in name.replace("fp16", "").replace("bf16", "") if letter in "0123"]
    if value is None:
        return "deepspeed=z3"
    if not digits:
        return Absent("its name says no stage of ZeRO: deepspeed=z1, z2, z2_offload, z3 or z3_offload")
    return _zero(int(digits[0]), "offload" in name)


def _is_moved(part: Any) -> bool:
    return isinstance(part, dict) and part.get("device") not in (None, "none")


def _zero(stage: Any, is_moved: bool) -> Answer:
    if stage not in (0, 1, 2, 3):
        return Absent(f"zero_optimization.stage={stage} is no stage of ZeRO")
    if is_moved and stage < 2:
        return f"deepspeed=z{stage}", "offload comes with z2_offload and z3_offload"
    return f"deepspeed=z{stage}{'_offload' if is_moved else ''}"


def trackers(value: Any) -> Answer:
    wanted = [as_word(one) for one in as_list(value)] if value is not None else []
    if wanted == ["all"]:
        return Absent("tracker=NAME chooses one, and tracker.also=[NAME] more of them")
    if wanted in ([], ["none"]):
        return "tracker=none" if value is not None else "tracker={}"
    known = [name for name in wanted if name in _TRACKERS]
    others = [name for name in wanted if name not in _TRACKERS]
    if not known:
        return Absent(f"there is no {' or '.join(others)} here: tracker=tensorboard, wandb or mlflow")
    also = f" tracker.also=[{', '.join(known[1:])}]" if known[1:] else ""
    line = f"tracker={known[0]}{also}"
    return (line, f"there is no {' or '.join(others)} here") if others else line


def _warmup(value: Any) -> Answer:
    """A share of all steps since transformers 5, where it is less than 1."""
    return "train.warmup_ratio={}" if isinstance(value, float) and 0 < value < 1 else "train.warmup_steps={}"


def _max_steps(value: Any) -> Answer:
    is_unset = isinstance(value, int) and value <= 0
    return NotNeeded("no bound is what train.epochs has") if is_unset else "train.max_steps={}"


def _save_steps(value: Any) -> Answer:
    if isinstance(value, float) and 0 < value < 1:
        return Absent("a share of all steps; train.save_steps takes a number of them, or epoch")
    return "train.save_steps={}"


def _eval_steps(value: Any) -> Answer:
    if isinstance(value, float) and 0 < value < 1:
        return Absent("a share of all steps; eval.steps takes a number of them")
    return "eval.steps={}"


def _best_metric(value: Any) -> Answer:
    return f"train.best_metric={str(value).removeprefix('eval_')}" if value is not None else "train.best_metric={}"


_HUB = Absent("the weights stay in final/ of the run directory; hf upload sends them")
_STEPS = "evaluations come every eval.steps=N steps"
_EVALUATIONS = {
    "no": "data.split.validation=none", "false": "data.split.validation=none", "steps": NotNeeded(_STEPS),
    "epoch": Absent(f"{_STEPS}, not at the end of an epoch"), "": Absent(_STEPS),
}  # fmt: skip

TRANSFORMERS: dict[str, Line] = {
    # how long, how fast, in what batches
    "num_train_epochs": "train.epochs={}", "max_steps": _max_steps, "learning_rate": "train.learning_rate={}",
    "per_device_train_batch_size": "train.micro_batch_size={}", "per_gpu_train_batch_size": "train.micro_batch_size={}",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps={}",
    "weight_decay": "train.weight_decay={}", "max_grad_norm": "train.max_grad_norm={}",
    "warmup_ratio": "train.warmup_ratio={}", "warmup_steps": _warmup,
    "lr_scheduler_type": {
        "cosine_with_min_lr": _NO_SCHEDULE, "cosine_warmup_with_min_lr": _NO_SCHEDULE, "greedy": _NO_SCHEDULE,
        "reduce_lr_on_plateau": _NO_SCHEDULE, "warmup_stable_decay": _NO_SCHEDULE,
        "": "train.lr_scheduler={}",
    },
    "optim": "train.optimizer={}",
    "adam_beta1": "train.adam_betas=[{}, 0.999]", "adam_beta2": "train.adam_betas=[0.9, {}]",
    "adam_epsilon": unless("AdamW's own is taken, 1e-8", "1e-08", "1e-8"),
    "label_smoothing_factor": "train.label_smoothing={}",
    "gradient_checkpointing": "train.gradient_checkpointing={}",
    "activation_checkpointing": "train.gradient_checkpointing={}",
    "neftune_noise_alpha": "stage.neftune_alpha={}",
    "auto_find_batch_size": NotNeeded("train.on_oom=halve, which is the default, halves batches that do not fit"),
    "seed": "seed={}", "data_seed": "seed={}",
    # evaluations and checkpoints
    "eval_strategy": _EVALUATIONS, "evaluation_strategy": _EVALUATIONS, "eval_steps": _eval_steps,
    "per_device_eval_batch_size": "eval.batch_size={}",
    "load_best_model_at_end": "train.keep_best={}", "metric_for_best_model": _best_metric,
    "greater_is_better": NotNeeded("loss, perplexity, nll and kl are better lower, all other measures higher"),
    "save_strategy": {
        "steps": NotNeeded("checkpoints come every train.save_steps=N steps"), "epoch": "train.save_steps=epoch",
        "no": Absent("there are always checkpoints, so that a run can be killed: train.save_steps=N, "
                     "train.save_total_limit=1"),
        "best": "train.keep_best=true",
    },
    "save_steps": _save_steps, "save_total_limit": "train.save_total_limit={}",
    "save_only_model": Absent("a checkpoint has the optimizer, too, so that a killed run goes on to the same weights"),
    "resume_from_checkpoint": Absent("a run goes on by itself when its command is given again; ftlab resume RUN does "
                                     "it too, and run.checkpoint=STEP goes back to an earlier checkpoint"),
    "predict_with_generate": "eval.generate_every=50", "generation_max_length": "eval.max_new_tokens={}",
    "do_train": NotNeeded("ftlab trains; leave it out"),
    "do_eval": NotNeeded("the validation split is evaluated where there is one; leave it out"),
    "do_predict": Absent("golden prompts are answered before and after training: data.split.golden=FILE"),
    # where it goes, and who is told
    "output_dir": "run.dir={}", "run_name": "run.name={}", "overwrite_output_dir": {
        "false": NotNeeded("nothing is ever overwritten"), "": "run.if_exists=new",
    },
    "report_to": trackers, "project": "tracker.project={}", "logging_steps": "train.logging_steps={}",
    "logging_strategy": {
        "steps": NotNeeded("lines come every train.logging_steps=N steps"),
        "": Absent("lines come every train.logging_steps=N steps"),
    },
    "logging_dir": Absent("logs are in the run directory: run.dir=FOLDER"),
    **all_of(_HUB, "push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision "
                   "push_to_hub_model_id push_to_hub_organization"),
    **all_of(Absent("comes from the environment: HF_TOKEN, or hf auth login"), "hub_token push_to_hub_token"),
    # what it runs on
    "bf16": {"true": "hardware.precision=bf16", "false": _FP32},
    "fp16": {"true": "hardware.precision=fp16", "false": _FP32},
    "deepspeed": deepspeed,
    "fsdp": {"": ("hardware.fsdp=true", "FSDP2, layer by layer; it needs hardware.devices=N above 1")},
    "use_cpu": {"true": "hardware=cpu", "false": NotNeeded("hardware=auto takes the accelerators that there are")},
    "no_cuda": {"true": "hardware=cpu", "false": NotNeeded("hardware=auto takes the accelerators that there are")},
    "ddp_timeout": Absent("hardware.hang_minutes=N stops a run of several processes in which one does not go on"),
    # what there is no need to say
    **all_of(NotNeeded("rows are encoded once, before training, and read from a file"),
             "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
             "dataloader_multiprocessing_context dataloader_in_order"),
    "remove_unused_columns": NotNeeded("columns are chosen by data.columns; leave it out"),
    "save_safetensors": NotNeeded(_DOES_SO), "average_tokens_across_devices": NotNeeded(_DOES_SO),
    "include_num_input_tokens_seen": NotNeeded("tokens are always counted"),
    "include_tokens_per_second": NotNeeded("tokens are always counted"),
    "full_determinism": NotNeeded("a run is the same to the bit each time, on the same machine"),
    "gradient_checkpointing_kwargs": NotNeeded("activations are computed anew by torch's own rules"),
    "activation_checkpointing_kwargs": NotNeeded("activations are computed anew by torch's own rules"),
    "use_cache": NotNeeded("there is no cache in training"),
    **all_of(NotNeeded("rows are packed, so there is next to no padding"),
             "group_by_length train_sampling_strategy length_column_name pad_to_multiple_of"),
    **all_of(NotNeeded("it tells the process what it is, and each finds that out itself"),
             "local_rank ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
             "ddp_static_graph"),
    **all_of(NotNeeded("it is about what is printed"),
             "disable_tqdm log_level log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter "
             "debug skip_memory_metrics past_index"),
    **all_of(NotNeeded("an evaluation is computed as training is"),
             "prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
             "batch_eval_metrics include_for_metrics include_inputs_for_metrics label_names bf16_full_eval "
             "fp16_full_eval"),
    **all_of(NotNeeded("a run goes on with the rows, and everything else, as they stood"),
             "ignore_data_skip restore_callback_states_from_checkpoint save_on_each_node enable_jit_checkpoint"),
    **all_of(NotNeeded("mixed precision is torch's own: hardware.precision"),
             "fp16_opt_level half_precision_backend fp16_backend"),
    # what there is not
    **all_of(Absent("there is no such option here; the schedule has its published form"), "lr_scheduler_kwargs"),
    **all_of(Absent("an optimizer has its own values here, but for train.adam_betas and train.weight_decay"),
             "optim_args optim_target_modules adafactor"),
    **all_of(Absent("evaluations begin after eval.steps=N steps"), "eval_on_start eval_delay"),
    "torch_compile": {"true": _COMPILED, "auto": _COMPILED, "false": "train.compile=none"},
    **all_of(NotNeeded("train.compile=layers compiles with inductor, by its own rules"),
             "torch_compile_backend torch_compile_mode torchdynamo"),
    "jit_mode_eval": Absent("layers are compiled for training alone: train.compile=layers"),
    "use_liger_kernel": LIGER,
    "liger_kernel_config": Absent("model.kernels=liger takes all of Liger's layers, and none of its losses"),
    **all_of(Absent("torch's defaults hold"), "tf32 torch_empty_cache_steps use_ipex use_mps_device tpu_num_cores"),
    **all_of(Absent("hardware.fsdp=true shards layer by layer, and takes no options"),
             "fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap"),
    **all_of(Absent("sharding is chosen by deepspeed= or hardware.fsdp"), "accelerator_config parallelism_config"),
    **all_of(Absent("there is no trackio here: tracker=tensorboard, wandb or mlflow"),
             "trackio_space_id trackio_bucket_id trackio_static_space_id"),
    "dataloader_drop_last": Absent("every row is trained on"),
    "sortish_sampler": Absent("rows come in an order drawn by seed"),
    "generation_num_beams": Absent("answers are greedy, or sampled one token at a time"),
    "generation_config": Absent("eval.max_new_tokens and the keys of stage say how answers are made"),
}  # fmt: skip
