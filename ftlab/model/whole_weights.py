"""Whole weights, of a model in memory for a folder, and from the folder into the model: all of them, or an error."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftlab.distributed.sharding import Sharding
from ftlab.errors import RunDirError
from ftlab.model.guests import TRAINED, has_adapter


def whole_weights(model: Any, sharding: Sharding) -> dict[str, Any] | None:
    """What ``save_pretrained`` needs of sharded weights, of which every process gives its part; None where the first
    process has all of them."""
    if not has_adapter(model):
        return sharding.state_dict(model, lambda parameter: True)
    # PEFT saves embeddings beside the adapter where tokens were added.
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    embeddings = {id(parameter) for layer in layers if layer is not None for parameter in layer.parameters()}
    return sharding.state_dict(model, lambda parameter: parameter.requires_grad or id(parameter) in embeddings)


def weights_to_save(model: Any, whole: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """What a file of a model's weights is made of: of an adapter its own, by the names of the file, without those of
    other adapters; of a model all, by the names of its modules.

    :param whole: see :func:`whole_weights`.
    """
    if not has_adapter(model):
        return model.state_dict() if whole is None else whole
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, state_dict=whole, adapter_name=TRAINED)


def save_weights(model: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Write them into a folder, with the config that loads them. Of the model itself no weight is read.

    :param weights: see :func:`weights_to_save`.
    """
    if not has_adapter(model):
        model.save_pretrained(folder, state_dict=dict(weights))
        return
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    # As PEFT does it, but for a model card: its is a form to fill in, and takes longer than the weights of a small one.
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_apart(weights), folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config = copy.copy(model.peft_config[TRAINED])
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: none has memory of another, as a head that is tied to the embeddings."""
    known: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in known else tensor.contiguous()
        known.add(place)
    return found


@torch.no_grad()
def load_whole_model(model: Any, folder: Path, sharding: Sharding) -> None:
    """Copy every weight of ``folder`` into ``model``, in place.

    Of some families, mixtures of experts above all, the names in the file are not those of the modules: transformers
    splits at saving what it fuses at loading. ``from_pretrained`` alone puts it together again, so it reads those.

    :param model: a model of transformers, without adapters.
    :raises RunDirError: a weight of the model is not in the folder, or one of the folder not in the model.
    """
    tensors = {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }
    expected = model.state_dict(keep_vars=True)
    unknown = tensors.keys() - expected.keys()
    if unknown:
        known = {name: tensors[name] for name in tensors.keys() & expected.keys()}
        tensors = {**_converted(model, folder), **known}
    _check_complete(model, expected, tensors, folder)
    for name, tensor in tensors.items():
        sharding.put(expected[name], tensor)


def _converted(model: Any, folder: Path) -> dict[str, Tensor]:
    """The weights under the names of the model's modules.

    :raises RunDirError: the folder has weights that the model has no place for.
    """
    with torch.random.fork_rng():  # what the folder lacks would be drawn
        loaded, info = type(model).from_pretrained(
            folder,
            config=copy.deepcopy(model.config),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if mismatched := sorted(entry[0] for entry in info["mismatched_keys"]):
        raise RunDirError(_message(folder, f"{mismatched[0]} has another shape than the model's"))
    if unknown := set(info["unexpected_keys"]) - model.state_dict().keys():
        raise RunDirError(_message(folder, f"it has {min(unknown)}, which this model has not"))
    missing = set(info["missing_keys"])
    state: Mapping[str, Tensor] = loaded.state_dict()
    return {name: tensor for name, tensor in state.items() if name not in missing}


def _check_complete(model: Any, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """:raises RunDirError: a tensor is missing, too many, or of another shape. A tied one is saved once."""
    if extra := sorted(tensors.keys() - expected.keys()):
        raise RunDirError(_message(folder, f"it has {extra[0]}, which this model has not"))
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, and the model's is {tuple(expected[name].shape)}"
            raise RunDirError(_message(folder, f"{name} has the shape {shapes}"))
    present = {id(expected[name]) for name in tensors}
    unsaved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    lacking = sorted(n for n, t in expected.items() if n not in tensors and id(t) not in present and n not in unsaved)
    if lacking:
        raise RunDirError(
            _message(folder, f"it has no {lacking[0]}" + (f" and {len(lacking) - 1} more" * (len(lacking) > 1)))
        )


@torch.no_grad()
def load_whole_adapter(model: Any, folder: Path, sharding: Sharding) -> None:
    """Copy every weight of an adapter into the one that a model trains, and see that each is there to the last bit.

    :raises RunDirError: a weight is in one of them alone, or has not arrived.
    """
    from peft import get_peft_model_state_dict, load_peft_weights

    saved, loaded = load_peft_weights(str(folder), device="cpu"), get_peft_model_state_dict(model)
    if apart := sorted(saved.keys() ^ loaded.keys()):
        has = "it has no" if apart[0] in loaded else "the model has no"
        raise RunDirError(_message(folder, f"{has} {apart[0]}"))
    for name, tensor in saved.items():
        sharding.put(loaded[name], tensor)
    loaded = get_peft_model_state_dict(model)
    for name, tensor in saved.items():
        if not torch.equal(tensor, sharding.whole(loaded[name]).detach().cpu().to(tensor.dtype)):
            raise RunDirError(_message(folder, f"{name} was not loaded"))


def _message(folder: Path, reason: str) -> str:
    return (
        f"{folder} cannot be continued from: {reason}. The weights would not be those that were saved. Remove the "
        "folder to go on from the checkpoint before it, or start another run."
    )
