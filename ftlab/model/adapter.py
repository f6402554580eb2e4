"""What of the base model trains: all of it, some layers, or adapters on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ftlab.errors import NotReadyError
from ftlab.model import score
from ftlab.model.adapter_weights import put_adapter_weights
from ftlab.model.experts import adapter_rank, untouched_experts
from ftlab.model.freeze import freeze
from ftlab.model.guests import TRAINED
from ftlab.model.merge import merge_adapter
from ftlab.model.modules import is_packed
from ftlab.model.targets import Targets, adapter_targets
from ftlab.model.unadapted import unadapted_layers
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
    :raises ConfigError: ``lora.target_modules`` or ``method.trainable_modules`` names what the model does not have.
    """
    if run.model.adapter is not None and run.method.name != "lora":
        # Wrapping it froze the model; what trains of it is decided below.
        model = merge_adapter(load_adapter(model, run.model.adapter, _spec(run))).requires_grad_(True)
    if getattr(model, "is_quantized", False):
        from peft import prepare_model_for_kbit_training

        with untouched_experts(model):
            model = prepare_model_for_kbit_training(
                model,
                use_gradient_checkpointing=bool(run.train.gradient_checkpointing),
                gradient_checkpointing_kwargs={"use_reentrant": False},
            )
    if run.method.name == "lora":
        model = _attach_adapter(model, run, new_tokens)
    elif run.method.name == "freeze":
        freeze(model, run.method)
        if run.stage.name == "rm":
            score.score_of(model).requires_grad_(True)
        if new_tokens:
            model.get_input_embeddings().requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)
    if run.stage.name == "rm":
        score.freeze_output_layer(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return model


def _attach_adapter(model: Any, run: Run, new_tokens: Sequence[int]) -> Any:
    """The model with the adapter that trains: a new one, or the one that ``model.adapter`` starts from."""
    options: dict[str, Any] = {}
    if run.stage.name == "rm":
        options = {"task_type": "SEQ_CLS", "modules_to_save": [score.NAME]}
    if layers := unadapted_layers(model):
        options["exclude_modules"] = layers
    if run.model.adapter is not None:
        return load_adapter(model, run.model.adapter, _spec(run), lora_dropout=run.lora.dropout, **options)
    targets = adapter_targets(model, run)
    ranks = {re.escape(name): adapter_rank(model, run.lora.r) for name in targets.expert_names}
    return _wrap(model, _lora_config(run.lora, targets, ranks, _embeddings(model, new_tokens), **options))


def _wrap(model: Any, config: Any) -> Any:
    """The model with an adapter of PEFT's. Dropout goes to the layers that can have it: PEFT refuses any where weights
    such as those of fused experts are adapted, now and whenever the config is loaded."""
    from peft import get_peft_model
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    dropout, config.lora_dropout = config.lora_dropout, 0.0
    adapted = get_peft_model(model, config)
    if not any(isinstance(module, ParamWrapper) for module in adapted.modules()):
        config.lora_dropout = dropout
    for layer in adapted.modules():
        if dropout and isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper):
            layer.lora_dropout[TRAINED] = torch.nn.Dropout(dropout).train(layer.training)
    return adapted


def _spec(run: Run) -> str:
    return f"model.adapter={run.model.adapter}"


def load_adapter(model: Any, adapter: str, spec: str, **options: Any) -> Any:
    """The model with a saved adapter, of the saved shape, to be trained on.

    :param spec: where it is, as the user typed it. :param options: what this run's adapter has otherwise.
    :raises NotReadyError: there is no adapter, it is one of another model, or weights of it are not there.
    """
    from peft import PeftConfig, load_peft_weights

    try:
        config = PeftConfig.from_pretrained(adapter)
        config.inference_mode = False
        for name, value in options.items():
            setattr(config, name, value)
        adapted = _wrap(model, config)
        saved = load_peft_weights(adapter, device="cpu")
        put_adapter_weights(adapted, saved, spec, TRAINED, added=options.get("modules_to_save") or ())
    except NotReadyError:  # which may be a kind of those below
        raise
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        # Of tensors that do not fit torch names every one, in lines of their own.
        reason = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), str(error))
        reason = reason.splitlines()[0]
        raise NotReadyError(f"{spec} cannot be loaded onto this model: {reason}") from None
    return adapted


def count_parameters(model: Any) -> Parameters:
    """Parameters as the model has them unquantized: a packed 4-bit weight counts each of its elements.

    Layers of GPTQ and AWQ checkpoints hold theirs in buffers.
    """
    trainable = 0
    total = sum(m.in_features * m.out_features for m in model.modules() if is_packed(m))
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


def _lora_config(
    lora: Lora,
    targets: Targets,
    ranks: dict[str, int],
    trained_rows: dict[str, list[int]] | None,
    task_type: str = "CAUSAL_LM",
    **options: Any,
) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        rank_pattern=ranks,
        alpha_pattern={name: lora.alpha * rank / lora.r for name, rank in ranks.items()},
        use_dora=lora.variant == "dora",
        use_rslora=lora.variant == "rslora",
        init_lora_weights="pissa" if lora.variant == "pissa" else True,
        trainable_token_indices=trained_rows,
        task_type=task_type,
        **options,
    )
