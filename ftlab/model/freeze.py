"""method=freeze: some of the model's own parameters train, the rest stands still."""

from __future__ import annotations

from typing import Any

from ftlab.errors import ConfigError
from ftlab.model.module_names import last_names, matches_name, unknown_module_mistakes
from ftlab.model.modules import decoder_layers, norms
from ftlab.schema import Method


def freeze(model: Any, method: Method) -> None:
    """Leave ``requires_grad`` to what ``method`` names.

    :raises ConfigError: ``method.trainable_modules`` names modules that are not there.
    """
    chosen = [model]
    if method.trainable_layers:
        layers = list(decoder_layers(model))
        count = method.trainable_layers
        chosen = layers[-count:] if count > 0 else layers[:-count]
    if method.trainable_modules is not None:
        chosen = _select_parameters(chosen, method.trainable_modules, within_layers=bool(method.trainable_layers))
    elif not method.trainable_layers:
        chosen = []
    if method.train_embeddings:
        chosen += [model.get_input_embeddings(), model.get_output_embeddings()]
    if method.train_norms:
        chosen += norms(model)
    model.requires_grad_(False)
    for module in chosen:
        module.requires_grad_(True)


def _select_parameters(parents: list[Any], names: tuple[str, ...], within_layers: bool) -> list[Any]:
    found = [
        (path, module)
        for parent in parents
        for path, module in parent.named_modules()
        if next(module.parameters(), None) is not None
    ]
    where = "the chosen layers have" if within_layers else "the model has"
    paths = [path for path, _ in found]
    reason = f"{where} no such module. They are called"
    mistakes = unknown_module_mistakes("method.trainable_modules", names, paths, reason, last_names(paths))
    if mistakes:
        raise ConfigError(mistakes)
    return [module for path, module in found if any(matches_name(path, name) for name in names)]
