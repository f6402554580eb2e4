"""What the other tools take where a file says nothing, wherever ftlab takes something else that training depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRANSFORMERS: Mapping[str, Any] = {
    "num_train_epochs": 3.0, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "linear", "warmup_steps": 0,
}  # fmt: skip
_LLAMA_FACTORY: Mapping[str, Any] = {
    **_TRANSFORMERS, "stage": "sft", "finetuning_type": "lora", "learning_rate": 5e-5, "cutoff_len": 2048,
    "packing": False, "val_size": 0.0, "disable_gradient_checkpointing": False,
}  # fmt: skip
_OF_LORA: Mapping[str, Any] = {"lora_rank": 8, "lora_dropout": 0.0, "lora_target": "all"}
_TRL: Mapping[str, Any] = {
    **_TRANSFORMERS, "use_peft": False, "gradient_checkpointing": True, "eval_strategy": "no",
}  # fmt: skip
_PEFT: Mapping[str, Any] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
_OF_STAGES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "LLaMA-Factory": {
        "pt": {"packing": True},
        "ppo": {"ppo_buffer_size": 1, "ppo_epochs": 4, "ppo_target": 6.0, "max_new_tokens": 1024, "temperature": 0.95},
    },
    "TRL": {
        "sft": {"learning_rate": 2e-5, "max_length": 1024, "packing": False, "assistant_only_loss": False},
        "dpo": {"learning_rate": 1e-6, "max_length": 1024},
        "kto": {"learning_rate": 1e-6, "max_length": 1024},
        "rm": {"learning_rate": 1e-4, "max_length": 1024},
        "orpo": {"learning_rate": 1e-6, "max_length": 1024},
        "grpo": {"learning_rate": 1e-6, "num_generations": 8, "beta": 0.0, "temperature": 1.0,
                 "max_completion_length": 512},
    },
}  # fmt: skip


def defaults(tool: str, stage: str, trains_adapter: bool) -> dict[str, Any]:
    """The tool's names and values for a stage. :param stage: by our name. :param trains_adapter: whether LoRA is on."""
    common, of_lora = (_LLAMA_FACTORY, _OF_LORA) if tool == "LLaMA-Factory" else (_TRL, _PEFT)
    return {**common, **(of_lora if trains_adapter else {}), **_OF_STAGES[tool].get(stage, {})}
