"""The ``train`` group of a run in the words of transformers."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import TrainingArguments

from ftlab.distributed.deepspeed import deepspeed_config
from ftlab.distributed.sharding import uses_deepspeed
from ftlab.distributed.world import drive_one_device
from ftlab.model.checkpointing import checkpointing_options
from ftlab.model.load import compute_dtype, precision_name, uses_cpu
from ftlab.schema import Run
from ftlab.stages.trainer.optimizers import projected_modules


def training_arguments(run: Run, output_dir: str, cls: type[TrainingArguments] = TrainingArguments, **more: Any) -> Any:
    """The run's ``train`` group in transformers' words."""
    train = run.train
    args = cls(
        output_dir=output_dir,
        seed=run.seed,
        data_seed=run.seed,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        # transformers 5 takes a share below 1 here
        warmup_steps=train.warmup_ratio if train.warmup_steps is None else train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        adam_beta1=train.adam_betas[0],
        adam_beta2=train.adam_betas[1],
        num_train_epochs=train.epochs,
        max_steps=train.max_steps if train.max_steps is not None else -1,
        per_device_train_batch_size=train.micro_batch_size,
        per_device_eval_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        activation_checkpointing=bool(train.gradient_checkpointing),
        activation_checkpointing_kwargs=checkpointing_options(run),
        bf16=compute_dtype(run) == torch.bfloat16,
        fp16=compute_dtype(run) == torch.float16,
        use_cpu=uses_cpu(run),
        logging_steps=train.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it waits for the device at every step, and hides what it finds
        # Steps of an epoch are known once there is a trainer; until then those of its end alone.
        save_steps=sys.maxsize if train.save_steps == "epoch" else train.save_steps,
        save_total_limit=train.save_total_limit,
        eval_strategy="steps",
        eval_steps=run.eval.steps,
        remove_unused_columns=False,
        # Every trained weight has a part in every loss, and the head works outside of what is wrapped.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=not uses_cpu(run),
        accelerator_config={"non_blocking": not uses_cpu(run)},  # batches go to the device while it works
        optim_target_modules=projected_modules(train.optimizer),
        deepspeed=deepspeed_config(run, precision_name(run), uses_cpu(run)) if uses_deepspeed(run) else None,
        **more,
    )
    args.loraplus_ratio = run.lora.loraplus_ratio if run.method.name == "lora" else None
    drive_one_device(args)
    return args
