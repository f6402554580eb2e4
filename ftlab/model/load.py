"""The base model, quantized or not, in the precision that the hardware has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ftlab.errors import NotReadyError, first_line
from ftlab.model import remote_code
from ftlab.model.generation import make_savable
from ftlab.model.prequantized import quantization_kind
from ftlab.model.unadapted import unquantized_layers
from ftlab.schema import Run

# What configs call the types of numbers.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def uses_cpu(run: Run) -> bool:
    return run.hardware.name == "cpu" or not torch.accelerator.is_available()


def compute_dtype(run: Run) -> torch.dtype:
    """Return the dtype of matrix products: ``hardware.precision``; auto is bf16 where available, else fp32."""
    if run.hardware.precision != "auto":
        return DTYPES[run.hardware.precision]
    bf16 = not uses_cpu(run) and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if bf16 else torch.float32


def precision_name(run: Run) -> str:
    """What ``hardware.precision`` has come to: fp32, bf16 or fp16."""
    return next(name for name, dtype in DTYPES.items() if dtype == compute_dtype(run))


def load_model(run: Run) -> Any:
    """A causal language model, in training precision: frozen weights in the compute dtype, trained ones in fp32.

    :raises NotReadyError: the files are not those of a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if run.hardware.name not in ("auto", "cpu") and not torch.accelerator.is_available():
        raise NotReadyError(
            f"hardware={run.hardware.name} asks for an accelerator; PyTorch sees none here. Use hardware=auto or cpu."
        )
    if run.model.attention == "flex_attention" and uses_cpu(run):
        raise NotReadyError("model.attention=flex_attention needs a GPU; use model.attention=auto or sdpa.")
    compute = compute_dtype(run)
    frozen = run.method.name == "lora"
    options: dict[str, Any] = {"dtype": compute if frozen else torch.float32}
    if run.model.attention != "auto":
        options["attn_implementation"] = run.model.attention
    source = {"revision": run.model.revision, "trust_remote_code": run.model.trust_remote_code}
    try:
        if run.model.init == "random":
            config = AutoConfig.from_pretrained(run.model.path, **source)
            return AutoModelForCausalLM.from_config(config, **options)
        if run.quant.name != "none":
            options["quantization_config"] = _quantization(run, compute)
        elif quantization_kind(run.model) in ("gptq", "awq"):
            options["quantization_config"] = _trainable_kernels(str(quantization_kind(run.model)))
        if run.quant.name != "none" or quantization_kind(run.model) is not None:
            # What is sharded goes to the device part by part.
            on_cpu = uses_cpu(run) or run.hardware.fsdp
            options["device_map"] = {"": "cpu" if on_cpu else torch.accelerator.current_device_index()}
        model, report = AutoModelForCausalLM.from_pretrained(
            run.model.path, output_loading_info=True, **source, **options
        )
    except Exception as error:  # transformers and torch raise anything at all on files that are damaged
        if remote_code.is_untrusted(run.model, error):
            raise NotReadyError(f"{remote_code.explain(run.model)}.") from None
        raise NotReadyError(f"model.path={run.model.path} cannot be loaded: {_reason(error)}") from error
    _check_complete(run.model.path, report)
    make_savable(model.generation_config, run.model.path)
    if (uses_cpu(run) or run.hardware.fsdp) and getattr(model, "is_loaded_in_4bit", False):
        _keep_gradients(model)
    return model


def _reason(error: Exception) -> str:
    """An error in one line."""
    if "ignore_mismatched_sizes" in str(error):
        return "tensors of its files have other shapes than its config.json says. Copy the folder again."
    return first_line(error)


def _check_complete(path: str, report: Mapping[str, Any]) -> None:
    """transformers draws what a file lacks at random, and goes on.

    :param report: what it says of its loading. :raises NotReadyError: something was drawn.
    """
    lacking = sorted(report["missing_keys"])
    if not lacking:
        return
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    surplus = sorted(report["unexpected_keys"])
    instead = f" They have {surplus[0]}, which the model has no place for." if surplus else ""
    raise NotReadyError(
        f"model.path={path}: its files lack {', '.join(lacking[:3])}{more}, and training would start from random "
        f"numbers there.{instead} Copy the folder again."
    )


def load_reference(run: Run, path: str) -> Any:
    """Another model, or an adapter on the run's own, to compare with: nothing of it trains.

    :raises NotReadyError: there is none at ``path``.
    """
    if (Path(path) / "adapter_config.json").is_file():
        from ftlab.model.adapter import load_adapter

        return load_adapter(load_model(run), path, f"stage.reference_model={path}").eval().requires_grad_(False)
    model = load_model(
        run.model_copy(update={"model": run.model.model_copy(update={"path": path, "revision": "main"})})
    )
    return model.eval().requires_grad_(False)


def fit_embeddings(model: Any, tokenizer: Any) -> int:
    """Give every token of the tokenizer a row in the embeddings, and return how many rows were added.

    New rows are drawn about the mean of the others (Hewitt 2021), so that at first they change little.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    lacking = len(tokenizer) - rows
    if lacking > 0:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    return max(lacking, 0)


def _quantization(run: Run, compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    unquantized = unquantized_layers(run.model.architecture.family)
    if run.quant.name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=unquantized)
    chosen = compute if run.quant.compute_dtype == "auto" else DTYPES[run.quant.compute_dtype]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=unquantized,  # of four bits too
        bnb_4bit_quant_type=run.quant.name,
        bnb_4bit_use_double_quant=run.quant.double_quantization,
        bnb_4bit_compute_dtype=chosen,
    )


def _trainable_kernels(kind: str) -> Any:
    """The kernels that gradients pass through: by itself gptqmodel takes the fastest, which may have no backward. All
    else is read from the checkpoint, whatever is said here."""
    from transformers import AwqConfig, GPTQConfig
    from transformers.utils.quantization_config import AwqBackend

    if kind == "gptq":
        return GPTQConfig(bits=4, backend="auto_trainable")
    return AwqConfig(backend=AwqBackend.AUTO_TRAINABLE)


def _keep_gradients(model: Any) -> None:
    """Keep 4-bit layers off the AVX512-BF16 path, which repacks the weights at the first evaluation and from then on
    gives no gradients."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
