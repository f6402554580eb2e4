"""What of the base model trains: all of it, some layers, or adapters on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Lora, Run


@dataclass(frozen=True)
class Parameters:
    trainable: int
    total: int

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({self.trainable / self.total:.2%})"


def apply_method(model: Any, run: Run, new_tokens: Sequence[int] = ()) -> Any:
    """The model with ``method`` applied; adapters and everything else that trains in fp32.

    :param new_tokens: ids that the model never saw: their embeddings are trained whatever the method.
    :raises ConfigError: ``lora.target_modules`` names modules that the model does not have.
    """
    if run.quant.name != "none":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=run.train.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    if run.method.name == "lora":
        from peft import get_peft_model

        if isinstance(run.lora.target_modules, tuple):
            _check_targets(model, run.lora.target_modules)
        model = get_peft_model(model, _lora_config(run.lora, _embeddings(model, new_tokens)))
    elif run.method.name == "freeze":
        assert run.method.trainable_layers, "the schema refuses 0 and null"
        _freeze(model, run.method.trainable_layers)
        if new_tokens:
            model.get_input_embeddings().requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return model


def count(model: Any) -> Parameters:
    """Parameters as the model has them unquantized: a packed 4-bit weight counts each of its elements."""
    trainable = total = 0
    for parameter in model.parameters():
        elements = parameter.numel()
        if type(parameter).__name__ == "Params4bit":
            elements = parameter.quant_state.shape.numel()
        total += elements
        trainable += elements if parameter.requires_grad else 0
    return Parameters(trainable, total)


def _embeddings(model: Any, new_tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """Names of the embeddings with the rows to train beside the adapter; tied ones are one."""
    if not new_tokens:
        return None
    layers = [model.get_input_embeddings()]
    if model.get_output_embeddings().weight is not layers[0].weight:
        layers.append(model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    return {name: list(new_tokens) for name in names}


def _lora_config(lora: Lora, trained_rows: dict[str, list[int]] | None) -> Any:
    from peft import LoraConfig

    # None lets PEFT choose its default modules for the model's family.
    targets = {"all-linear": "all-linear", "default": None}.get(str(lora.target_modules), lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets) if isinstance(targets, tuple) else targets,
        use_dora=lora.variant == "dora",
        use_rslora=lora.variant == "rslora",
        init_lora_weights="pissa" if lora.variant == "pissa" else True,
        trainable_token_indices=trained_rows,
        task_type="CAUSAL_LM",
    )


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        raise ConfigError(
            [
                Mistake(
                    "lora.target_modules",
                    f"the model has no such linear layer or embedding. Its linear layers: {', '.join(sorted(linear))}.",
                    name,
                    nearest(name, linear),
                )
                for name in unknown
            ]
        )


def _freeze(model: Any, trainable_layers: int) -> None:
    """Train the last n decoder layers (n > 0) or the first -n (n < 0)."""
    model.requires_grad_(False)
    layers = model.get_decoder().layers
    for layer in layers[-trainable_layers:] if trainable_layers > 0 else layers[:-trainable_layers]:
        layer.requires_grad_(True)
