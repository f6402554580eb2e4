"""Names of axolotl and ms-swift, whose files are not imported, and of what starts a training."""

from __future__ import annotations

from typing import Any

from ftlab.config.foreign_names.lines import Absent, Answer, Line, NotNeeded
from ftlab.config.foreign_names.transformers import LIGER, all_of, deepspeed
from ftlab.config.foreign_names.trl import FP8, PRECISION

_FLASH = {"true": "model.attention=flash_attention_2", "": "model.attention={}"}

AXOLOTL: dict[str, Line] = {
    "base_model": "model.path={}", "lora_model_dir": "model.adapter={}", "chat_template": "model.template={}",
    "flash_attention": _FLASH,
    "adapter": {"lora": "method=lora", "qlora": "method=qlora", "": "model.adapter={}"},
    "lora_r": "lora.r={}", "lora_alpha": "lora.alpha={}", "lora_dropout": "lora.dropout={}",
    "lora_target_linear": "lora.target_modules=all-linear", "lora_target_modules": "lora.target_modules={}",
    "rl": "stage={}", "datasets": "data={}", "dataset_prepared_path": "data.cache={}",
    "val_set_size": "data.split.fraction={}", "sequence_len": "data.max_length={}",
    "sample_packing": "data.packing={}", "train_on_inputs": "data.train_on=all",
    "dataset_processes": "data.workers={}", "micro_batch_size": "train.micro_batch_size={}",
    "num_epochs": "train.epochs={}", "optimizer": "train.optimizer={}", "lr_scheduler": "train.lr_scheduler={}",
    "wandb_project": "tracker.project={}", "fp8": FP8,
    "fp8_enable_fsdp_float8_all_gather": Absent("FSDP gathers in bf16; the products of train.fp8 are in fp8"),
    **all_of(LIGER, "liger_rms_norm liger_rope liger_swiglu liger_glu_activation liger_layer_norm"),
    **all_of(NotNeeded("the loss goes without the full logits"),
             "liger_fused_linear_cross_entropy liger_cross_entropy"),
}  # fmt: skip
MS_SWIFT: dict[str, Line] = {
    "model_id": "model.path={}", "tokenizer_name_or_path": "model.path={}", "train_type": "method={}",
    "peft_type": "method={}", "rlhf_type": "stage={}", "rlhf": "stage={}", "dpo_beta": "stage.beta={}",
    "compute_dtype": PRECISION, "bnb_4bit_use_double_quant": "quant.double_quantization={}",
    "lora_target_modules": "lora.target_modules={}", "train_file": "data.path={}", "data_files": "data.path={}",
    "data_path": "data.path={}", "dataset_path": "data.path={}", "val_dataset": "data.split.validation={}",
    "max_seq_len": "data.max_length={}", "model_max_length": "data.max_length={}", "n_epochs": "train.epochs={}",
    "train_batch_size": "train.global_batch_size={}", "batch_size": "train.micro_batch_size={}",
    "lr": "train.learning_rate={}", "early_stopping_patience": "train.early_stopping={}", "random_seed": "seed={}",
    "use_wandb": "tracker=wandb",
}  # fmt: skip


def _config_file(value: Any) -> Answer:
    """accelerate's configs are called after what they choose, as TRL's are: deepspeed_zero3.yaml, fsdp2.yaml."""
    name = str(value or "").rpartition("/")[2].lower()
    if "fsdp" in name:
        return "hardware.fsdp=true", "FSDP2, layer by layer; it needs hardware.devices=N above 1"
    if "zero" in name or "deepspeed" in name or "ds_" in name:
        return deepspeed(value)
    return NotNeeded("hardware= says what there is")


PROCESSES = "num_processes"  # of accelerate launch: on all machines together
# Of accelerate launch, torchrun and deepspeed, which stand before a script.
LAUNCHERS: dict[str, Line] = {
    PROCESSES: "hardware.devices={}", "nproc_per_node": "hardware.devices={}", "num_gpus": "hardware.devices={}",
    "nnodes": "hardware.nodes={}", "num_machines": "hardware.nodes={}", "num_nodes": "hardware.nodes={}",
    "mixed_precision": {"bf16": "hardware.precision=bf16", "fp16": "hardware.precision=fp16", "fp8": FP8["true"],
                        "no": "hardware.precision=fp32"},
    "deepspeed_config": "deepspeed=z3", "use_deepspeed": NotNeeded("deepspeed= chooses how"),
    "zero_stage": {str(stage): f"deepspeed=z{stage}" for stage in range(4)},
    "use_fsdp": "hardware.fsdp=true", "config_file": _config_file,
    "accelerate_config": _config_file,
    **all_of(NotNeeded("processes are started by ftlab, which finds their addresses"),
             "main_process_port main_process_ip master_port master_addr machine_rank node_rank rdzv_backend "
             "rdzv_endpoint rdzv_id multi_gpu standalone gpu_ids include module dynamo_backend same_network"),
    "hostfile": Absent("several machines are hardware.nodes=N, a cluster hydra/launcher=slurm"),
}  # fmt: skip
