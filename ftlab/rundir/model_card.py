"""What a run knows of weights that it trained, in the form of a model card, piece by piece: the card beside the final
weights is made of them, and that of a package.

The front matter has the keys that the Hugging Face hub reads (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftlab.base.numbers import readable
from ftlab.base.redaction import redact
from ftlab.base.terminal import escape_controls
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Phase
from ftlab.rundir.summary import GOLDEN, GOLDEN_COUNTS, prompts_asked
from ftlab.schema import Run

# An absolute path, of which a reader elsewhere has nothing: its last part stays.
_PATH = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/,'\"\]|]+/)+([^\s/,'\"\]|]*)")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_SET = re.compile(r"^hf://(?:datasets/)?([\w.-]+/[\w.-]+)")
_TRAIN_KEYS = (
    "learning_rate", "lr_scheduler", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm", "optimizer",
    "micro_batch_size", "gradient_accumulation_steps",
)  # fmt: skip
WITHOUT_LEDGER: Mapping[str, Any] = {"sha256": {}, "splits": {}}  # of a phase that has not come to its data


def public(text: str) -> str:
    """The same as it may be read elsewhere: without folders of this machine and without secrets."""
    return redact(escape_controls(_PATH.sub(r"\1", text)))


def front_matter(config: Run, ledger: Mapping[str, Any], is_adapter: bool) -> dict[str, Any]:
    """What the hub reads, but for licences and measures. :param is_adapter: whether the base is needed beside it."""
    tags = ["ftlab", config.stage.name, config.method.name]
    sets = [found[1] for file in (str(config.data.path), *ledger["sha256"]) if (found := _HUB_SET.match(file))]
    values: dict[str, Any] = {}
    if is_of_hub(config):  # the hub makes a link of it
        values = {"base_model": config.model.path, "base_model_relation": "adapter" if is_adapter else "finetune"}
    values["library_name"] = "peft" if is_adapter else "transformers"
    values["pipeline_tag"] = "text-classification" if config.stage.name == "rm" else "text-generation"
    values["tags"] = tags
    return {**values, "datasets": list(dict.fromkeys(sets))} if sets else values


def base_name(config: Run) -> str:
    """What a reader elsewhere knows the base by: an id of the hub, or else the recipe's name."""
    path = config.model.path
    return path if path is not None and is_of_hub(config) else config.model.name


def is_of_hub(config: Run) -> bool:
    """Whether the weights began as those of the hub's id in ``model.path``."""
    path = config.model.path
    is_id = path is not None and _HUB_ID.fullmatch(path) is not None and not Path(path).is_dir()
    return is_id and config.model.init == "pretrained"


def data_section(config: Run, ledger: Mapping[str, Any]) -> Iterator[str]:
    """Where the rows came from, how many there were, and the hashes of their files."""
    yield f"`{_source(config)}`" + (f", format `{config.data.format}`" if config.data.format else "") + ".\n"
    yield "| split | rows | kept | tokens | trained |\n|---|---:|---:|---:|---:|"
    for name, split in ledger["splits"].items():
        rows, tokens = split.get("rows", {}), split.get("tokens", {})
        counts = (rows.get("in"), rows.get("kept"), tokens.get("in"), tokens.get("trained"))
        yield f"| {name} | {' | '.join('' if count is None else f'{count:,}' for count in counts)} |"
    for file, sha256 in ledger["sha256"].items():
        yield f"\n`{file}`: sha256 `{sha256}`"


def results_section(run_dir: RunDir, phase: Phase, result: Mapping[str, Any]) -> Iterator[str]:
    """What was measured before and after. :param result: of the phase, as the manifest has it."""
    taken = f"{result['steps']:,} steps, {result['tokens']:,} tokens"
    yield f"{taken}; the weights are those of step {result['weights_of_step']:,}.\n"
    losses = [line["loss"] for line in run_dir.read_metrics() if line["phase"] == phase.name and "loss" in line]
    yield "| measure | before | after |\n|---|---:|---:|"
    if losses:
        yield f"| training loss, first and last logged | {readable(losses[0])} | {readable(losses[-1])} |"
    before, after = result["before"], result["after"]
    for measure in dict.fromkeys([*after, *before]):
        if measure in GOLDEN_COUNTS:  # they are told beside the share
            continue
        asked = prompts_asked(before, after) if measure == GOLDEN else ""
        both = (readable(values[measure], measure) if measure in values else "" for values in (before, after))
        yield f"| {measure}{asked} | {' | '.join(both)} |"


def training_section(config: Run) -> Iterator[str]:
    """Hyperparameters."""
    yield "| key | value |\n|---|---|"
    for key, value in _hyper_parameters(config):
        yield f"| `{key}` | {cell(value)} |"


def rerun_section(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The command that runs it again, and the versions of what it ran with."""
    yield "The command that runs it again:\n"
    yield f"```\n{manifest.get('rerun', '')}\n```\n"
    versions = {"ftlab": manifest.get("ftlab"), "python": manifest.get("python"), **manifest.get("packages", {})}
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version) + "."


def _source(config: Run) -> str:
    name = config.data.path or config.data.name or ""
    return ", ".join(name) if isinstance(name, tuple) else name


def _hyper_parameters(config: Run) -> Iterator[tuple[str, Any]]:
    yield "seed", config.seed
    train = config.train
    yield from (("train.epochs", train.epochs),) if train.max_steps is None else (("train.max_steps", train.max_steps),)
    for key in _TRAIN_KEYS:
        if (value := getattr(train, key)) is not None:
            yield f"train.{key}", value
    if config.method.name == "lora":
        yield from ((f"lora.{key}", value) for key, value in config.lora.model_dump().items() if value is not None)
    for key, value in config.stage.model_dump().items():
        if value is not None:
            yield f"stage.{key}", value
    yield "data.max_length", config.data.max_length
    yield "data.packing", config.data.packing
    yield "model.template", config.model.template or "the tokenizer's own"
    yield "hardware.precision", config.hardware.precision


def cell(value: Any) -> str:
    """A value in a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
