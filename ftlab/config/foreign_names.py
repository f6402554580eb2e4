"""What other tools call a key that has another name here: LLaMA-Factory, TRL and transformers, axolotl, ms-swift.

Each line is what to give here, with ``{}`` for the value that was given there; a mapping has a line for each value that
means something of its own, and "" for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

Line = str | Mapping[str, str]

_PRECISION = {name: f"hardware.precision={short}" for name, short in (
    ("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("", "auto"),
)}  # fmt: skip
_ATTENTION = {"fa2": "model.attention=flash_attention_2", "true": "model.attention=flash_attention_2",
              "": "model.attention={}"}  # fmt: skip
_PAIRS: dict[str, Line] = {
    # the model
    "model_name_or_path": "model.path={}", "base_model": "model.path={}", "model_id": "model.path={}",
    "tokenizer_name_or_path": "model.path={}", "adapter_name_or_path": "model.adapter={}",
    "lora_model_dir": "model.adapter={}", "model_revision": "model.revision={}", "chat_template": "model.template={}",
    "attn_implementation": "model.attention={}", "flash_attn": _ATTENTION, "flash_attention": _ATTENTION,
    "torch_dtype": _PRECISION, "dtype": _PRECISION, "compute_dtype": _PRECISION,
    "bf16": {"false": "hardware.precision=fp32", "": "hardware.precision=bf16"},
    "fp16": {"false": "hardware.precision=fp32", "": "hardware.precision=fp16"},
    # the method
    "finetuning_type": "method={}", "train_type": "method={}", "peft_type": "method={}",
    "use_peft": {"false": "method=full", "": "method=lora"},
    "adapter": {"lora": "method=lora", "qlora": "method=qlora", "": "model.adapter={}"},
    "lora_rank": "lora.r={}", "lora_r": "lora.r={}", "lora_alpha": "lora.alpha={}", "lora_dropout": "lora.dropout={}",
    "lora_target": {"all": "lora.target_modules=all-linear", "": "lora.target_modules=[{}]"},
    "lora_target_modules": "lora.target_modules={}", "lora_target_linear": "lora.target_modules=all-linear",
    "use_rslora": "lora=rslora", "use_dora": "lora=dora", "pissa_init": "lora=pissa",
    "loraplus_lr_ratio": "lora.loraplus_ratio={}", "freeze_trainable_layers": "method.trainable_layers={}",
    "load_in_4bit": "method=qlora", "load_in_8bit": "quant=int8",
    "quantization_bit": {"4": "method=qlora", "8": "quant=int8", "": "method=qlora"},
    "bnb_4bit_quant_type": "quant={}", "bnb_4bit_use_double_quant": "quant.double_quantization={}",
    # the stage
    "pref_beta": "stage.beta={}", "dpo_beta": "stage.beta={}", "pref_loss": "stage.loss_type={}", "rlhf": "stage={}",
    "rl": "stage={}", "rlhf_type": "stage={}", "ref_model": "stage.reference_model={}",
    "reward_funcs": "stage.rewards=[{}]", "max_completion_length": "stage.max_new_tokens={}",
    "neftune_noise_alpha": "stage.neftune_alpha={}",
    # the data
    "dataset": "data={}", "datasets": "data={}", "dataset_name": "data={}", "train_file": "data.path={}",
    "data_files": "data.path={}", "data_path": "data.path={}", "dataset_path": "data.path={}",
    "dataset_dir": "data.registry={}/dataset_info.json", "dataset_text_field": "data.columns.text={}",
    "eval_dataset": "data.split.validation={}", "val_dataset": "data.split.validation={}",
    "val_size": "data.split.fraction={}", "val_set_size": "data.split.fraction={}", "cutoff_len": "data.max_length={}",
    "max_seq_length": "data.max_length={}", "max_seq_len": "data.max_length={}", "sequence_len": "data.max_length={}",
    "model_max_length": "data.max_length={}", "sample_packing": "data.packing={}", "neat_packing": "data.packing={}",
    "mix_strategy": "data.mix={}", "interleave_probs": "data.probabilities=[{}]",
    "preprocessing_num_workers": "data.workers={}", "dataset_num_proc": "data.workers={}",
    "dataset_processes": "data.workers={}", "train_on_prompt": "data.train_on=all",
    "train_on_inputs": "data.train_on=all",
    "mask_history": "data.train_on=last", "assistant_only_loss": "data.train_on=assistant",
    "dataset_prepared_path": "data.cache={}", "overwrite_cache": "data.cache=null",
    "truncation_mode": "data.truncation=left",
    # training
    "num_train_epochs": "train.epochs={}", "num_epochs": "train.epochs={}", "n_epochs": "train.epochs={}",
    "per_device_train_batch_size": "train.micro_batch_size={}", "train_batch_size": "train.global_batch_size={}",
    "batch_size": "train.micro_batch_size={}", "lr": "train.learning_rate={}",
    "lr_scheduler_type": "train.lr_scheduler={}", "optim": "train.optimizer={}",
    "adam_beta1": "train.adam_betas=[{}, 0.999]", "adam_beta2": "train.adam_betas=[0.9, {}]",
    "label_smoothing_factor": "train.label_smoothing={}",
    "load_best_model_at_end": "train.keep_best={}", "metric_for_best_model": "train.best_metric={}",
    "early_stopping_patience": "train.early_stopping={}", "eval_steps": "eval.steps={}",
    "per_device_eval_batch_size": "eval.batch_size={}", "predict_with_generate": "eval.generate_every=50",
    "generation_max_length": "eval.max_new_tokens={}", "data_seed": "seed={}", "random_seed": "seed={}",
    "seed": "seed={}",
    # the run and where it runs
    "output_dir": "run.dir={}", "run_name": "run.name={}", "overwrite_output_dir": "run.if_exists=new",
    "report_to": "tracker={}", "wandb_project": "tracker.project={}", "use_wandb": "tracker=wandb",
    "deepspeed_config": "deepspeed=z3", "num_gpus": "hardware.devices={}",
    "nnodes": "hardware.nodes={}", "num_machines": "hardware.nodes={}",
}  # fmt: skip
# Names without a key here, and what takes their place.
_SENTENCES = {
    "resume_from_checkpoint": "a run goes on by itself when its command is given again; ftlab resume RUN does it too, "
    "and run.checkpoint=STEP goes back to an earlier checkpoint",
    "do_train": "ftlab trains; leave it out",
    "do_eval": "the validation split is evaluated where there is one; leave it out",
    "do_predict": "golden prompts are answered before and after training: data.split.golden=FILE",
    "eval_strategy": "evaluations come every eval.steps=N steps",
    "evaluation_strategy": "evaluations come every eval.steps=N steps",
    "logging_dir": "logs are in the run directory: run.dir=FOLDER",
    "plot_loss": "tracker=tensorboard shows the losses of metrics.jsonl",
    "push_to_hub": "the weights stay in final/ of the run directory; hf upload sends them",
    "hub_model_id": "the weights stay in final/ of the run directory; hf upload sends them",
    "remove_unused_columns": "columns are chosen by data.columns; leave it out",
    "packing_strategy": "packing is best fit: data.packing=true, wrapped or false",
}


def keys() -> set[str]:
    """Every key, group and choice that a line names, as ``key`` or ``key=value``."""
    return {line for found in _PAIRS.values() for line in ([found] if isinstance(found, str) else found.values())}


def translation(name: str, value: str | None) -> str | None:
    """What to give here for another tool's key; a sentence where no key takes its place; None for an unknown name.

    :param name: without dashes at its front; of a dotted one the last part counts. :param value: as it was given.
    """
    if name in _PAIRS and _PAIRS[name] == f"{name}={{}}":  # ours, where it stands right
        return None
    name = name.rpartition(".")[2].replace("-", "_").lower()
    if name in _SENTENCES:
        return _SENTENCES[name]
    line = _PAIRS.get(name)
    if line is None:
        return None
    if not isinstance(line, str):
        line = line.get((value or "").lower(), line[""])
    given = "VALUE" if value in (None, "") else str(value)
    return f"that is {line.format(given.strip('[]') if '[{}]' in line else given)} here"
