"""The model card of a package: README.md, with what the run knows of its weights, their data, measures and licences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftlab.base.numbers import readable
from ftlab.pretrained.files import local_folder
from ftlab.rundir.evaluations import finished_evaluations
from ftlab.rundir.files import weight_hashes
from ftlab.rundir.model_card import (
    WITHOUT_LEDGER,
    cell,
    data_section,
    front_matter,
    is_of_hub,
    public,
    rerun_section,
    results_section,
    training_section,
)
from ftlab.rundir.names import MODEL_CARD
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import read_ledger
from ftlab.use.package.check import Outcome
from ftlab.use.package.choice import Choice
from ftlab.use.package.documents import LICENCES

_LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*")
_LARGEST = 1 << 20  # bytes of a licence


@dataclass(frozen=True)
class Licence:
    """Of the base. :param name: as the hub writes it; None where its folder does not say. :param link: to its text.
    :param files: its texts."""

    name: str | None
    link: str | None
    files: tuple[Path, ...]


def base_licence(choice: Choice) -> Licence:
    """What the folder of the base says of its licence: the front matter of its card, and files of that name."""
    model = choice.base.model
    folder = local_folder(model.path, model.revision)
    if folder is None:
        return Licence(None, None, ())
    found = {path for pattern in _LICENCE_FILES for path in folder.glob(pattern)}
    files = tuple(sorted(path for path in found if path.is_file() and path.stat().st_size <= _LARGEST))
    front = _front_matter(folder / MODEL_CARD)
    name = front.get("license_name") if front.get("license") == "other" else front.get("license")
    link = front.get("license_link")
    return Licence(name if isinstance(name, str) else None, link if isinstance(link, str) else None, files)


def _front_matter(file: Path) -> dict[str, Any]:
    try:
        parts = file.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def model_card(choice: Choice, licence: Licence, snippet: str, outcomes: Sequence[Outcome]) -> str:
    """:param snippet: the code that uses it. :param outcomes: of the check; none where it was not made."""
    run_dir, phase = choice.policy.run_dir, choice.policy.weights.phase
    ledger = read_ledger(run_dir.ledger(phase.name)) or WITHOUT_LEDGER
    evaluations = _evaluations(choice)
    front = _hub_data(choice, licence, ledger, evaluations)
    body = "\n".join(_body(choice, licence, snippet, outcomes, evaluations))
    return public(f"---\n{front}\n---\n\n{body}\n")


def _hub_data(
    choice: Choice, licence: Licence, ledger: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    front = front_matter(choice.base, ledger, choice.form == "peft")
    front["base_model_relation"] = {"peft": "adapter", "hf": "merge" if choice.merges else "finetune"}.get(
        choice.form, "quantized"
    )
    if not is_of_hub(choice.base):
        del front["base_model_relation"]
    if choice.form == "gguf":
        front["library_name"], front["tags"] = "gguf", [*front["tags"], "gguf"]
    results = [
        EvalResult(
            task_type=front["pipeline_tag"],
            dataset_type=one["data"],
            dataset_name=one["data"],
            dataset_split=one["split"],
            metric_type=name,
            metric_value=value["value"],
        )
        for one in evaluations
        for name, value in one["metrics"].items()
    ]
    more: dict[str, Any] = {"eval_results": results, "model_name": choice.name} if results else {}
    chosen = choice.task.license or licence.name
    if chosen is not None:
        more["license"] = chosen
    data: str = ModelCardData(**front, **more).to_yaml()
    return data


def _body(
    choice: Choice,
    licence: Licence,
    snippet: str,
    outcomes: Sequence[Outcome],
    evaluations: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    run_dir, weights, config = choice.policy.run_dir, choice.policy.weights, choice.config
    plan, manifest = run_dir.plan(), run_dir.manifest()
    yield f"# {choice.name}\n"
    yield f"{_what(choice)}, trained by stage `{config.stage.name}`, method `{config.method.name}`."
    if weights.remark is not None:
        yield f"\n{weights.remark[0].upper()}{weights.remark[1:]}."
    yield "\n## Use\n"
    yield snippet
    yield "\n## Licences\n"
    yield from _licences(choice, licence)
    if outcomes:
        yield "\n## Compared with the run\n"
        yield "| | |\n|---|---|"
        yield from (f"| {one.name} | {one.found} |" for one in outcomes)
    yield "\n## Evaluation\n"
    if not evaluations:
        yield "None was made of these weights but what was measured while training."
    for one in evaluations:
        yield f"\n{one['rows']:,} {one['split']} rows of `{one['data']}`:\n"
        yield "| metric | value | 95 % interval |\n|---|---:|---:|"
        yield from (_metric(name, value) for name, value in one["metrics"].items())
    for phase in plan.phases[: _place(plan.phases, weights.phase) + 1]:
        heading = f" of phase `{phase.name}` ({phase.config.stage.name})" if len(plan.phases) > 1 else ""
        yield f"\n## Data{heading}\n"
        yield from data_section(phase.config, read_ledger(run_dir.ledger(phase.name)) or WITHOUT_LEDGER)
        if (result := manifest.get("phases", {}).get(phase.name)) is not None:
            yield f"\n## Results{heading}\n"
            yield from results_section(run_dir, phase, result)
        yield f"\n## Training{heading}\n"
        yield from training_section(phase.config)
    yield "\n## Run again\n"
    yield from rerun_section(manifest)


def _place(phases: Sequence[Phase], wanted: Phase) -> int:
    return next(place for place, phase in enumerate(phases) if phase.name == wanted.name)


def _what(choice: Choice) -> str:
    config = choice.base
    quant = "" if config.quant.name == "none" else f", quantized as {config.quant.name}"
    if choice.form == "peft":
        return f"A LoRA adapter for `{choice.base_name}`{quant}"
    kind = "GGUF" if choice.form == "gguf" else "Whole"
    made = f"`{choice.base_name}`{quant}, with a LoRA adapter merged" if choice.merges else f"`{choice.base_name}`"
    began = "Weights that began as" if not choice.merges else f"{kind} weights ({choice.dtype}) of"
    return f"{began} {made}"


def _licences(choice: Choice, licence: Licence) -> Iterator[str]:
    base = choice.base_name
    own = choice.task.license
    yield f"Of these weights: {own or 'none is stated beside that of the base'}.\n"
    link = f" ({licence.link})" if licence.link else ""
    where = f"; its text is in `{LICENCES}/`" if licence.files else ""
    if licence.name or licence.files:
        yield f"Of the base model, `{base}`: {licence.name or 'see its text'}{link}{where}.\n"
    else:
        hub = f" See https://huggingface.co/{base}." if is_of_hub(choice.base) else ""
        yield f"Of the base model, `{base}`: its folder does not say.{hub}\n"
    yield "Of the data: ftlab does not know; see where the files that are listed below come from."


def _metric(name: str, value: Mapping[str, Any]) -> str:
    shown = readable(value["value"]) if isinstance(value["value"], int | float) else str(value["value"])
    bounds = [value["low"], value["high"]]
    interval = " to ".join(map(readable, bounds)) if all(isinstance(one, int | float) for one in bounds) else ""
    return f"| {cell(name)} | {shown} | {interval} |"


def _evaluations(choice: Choice) -> list[dict[str, Any]]:
    """What ``ftlab evaluate`` has found of these very weights."""
    hashes = weight_hashes(choice.policy.weights.folder)
    return [one for one in finished_evaluations(choice.policy.run_dir.path) if one["identity"]["weights"] == hashes]
