"""The model card: ``README.md`` beside the final weights, with what the run knows of them and nothing else.

Its front matter has the keys that the Hugging Face hub reads (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftlab.base.numbers import readable
from ftlab.base.redaction import redact
from ftlab.base.terminal import escape_controls
from ftlab.engine.session import Session
from ftlab.engine.summary import prompts_asked
from ftlab.rundir.files import write_atomic
from ftlab.rundir.names import MODEL_CARD
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import read_ledger
from ftlab.rundir.summary import GOLDEN, GOLDEN_COUNTS
from ftlab.schema import Run

# An absolute path, of which a reader elsewhere has nothing: its last part stays.
_PATH = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/,'\"\]|]+/)+([^\s/,'\"\]|]*)")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_SET = re.compile(r"^hf://(?:datasets/)?([\w.-]+/[\w.-]+)")
_TRAIN_KEYS = (
    "learning_rate", "lr_scheduler", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm", "optimizer",
    "micro_batch_size", "gradient_accumulation_steps",
)  # fmt: skip


def write_model_card(session: Session, phase: Phase, result: Mapping[str, Any], folder: Path) -> None:
    """Write the card of a phase that is done into the folder of its final weights. :param result: as the manifest will
    have it."""
    ledger = read_ledger(session.run_dir.ledger(phase.name)) or {"sha256": {}, "splits": {}}
    front = _front_matter(phase.config, ledger)
    body = "\n".join(_body(session, phase, result, ledger))
    text = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"
    write_atomic(folder / MODEL_CARD, redact(escape_controls(_PATH.sub(r"\1", text))))


def _front_matter(config: Run, ledger: Mapping[str, Any]) -> dict[str, Any]:
    is_adapter = config.method.name == "lora"
    tags = ["ftlab", config.stage.name, config.method.name]
    sets = [found[1] for file in (str(config.data.path), *ledger["sha256"]) if (found := _HUB_SET.match(file))]
    values: dict[str, Any] = {}
    if _is_of_hub(config):  # the hub makes a link of it
        values = {"base_model": config.model.path, "base_model_relation": "adapter" if is_adapter else "finetune"}
    values["library_name"] = "peft" if is_adapter else "transformers"
    values["pipeline_tag"] = "text-classification" if config.stage.name == "rm" else "text-generation"
    values["tags"] = tags
    return {**values, "datasets": list(dict.fromkeys(sets))} if sets else values


def _base(config: Run) -> str:
    """What a reader elsewhere knows the base by: an id of the hub, or else the recipe's name."""
    path = config.model.path
    return path if path is not None and _is_of_hub(config) else config.model.name


def _is_of_hub(config: Run) -> bool:
    """Whether the weights began as those of the hub's id in ``model.path``."""
    path = config.model.path
    is_id = path is not None and _HUB_ID.fullmatch(path) is not None and not Path(path).is_dir()
    return is_id and config.model.init == "pretrained"


def _body(session: Session, phase: Phase, result: Mapping[str, Any], ledger: Mapping[str, Any]) -> Iterator[str]:
    own, manifest = phase.config, session.manifest.values
    what = "A LoRA adapter for" if own.method.name == "lora" else "Weights that began as"
    if own.model.init == "random" and own.method.name != "lora":
        what = "Weights that began at random, in the shape of"
    quant = "" if own.quant.name == "none" else f", quantized as {own.quant.name}"
    yield f"# {session.plan.title}\n"
    yield f"{what} `{_base(own)}`{quant}, trained by stage `{own.stage.name}`, method `{own.method.name}`."
    if session.has_several_phases:
        names = [f"`{one.name}` ({one.config.stage.name})" for one in session.plan.phases]
        yield f"\nThis is phase `{phase.name}` of {', '.join(names)}."
    yield "\nNo license is stated here; see those of the base model and of the data.\n"
    yield "## Use\n"
    yield from _code(own)
    yield "\n## Data\n"
    yield f"`{_source(own)}`" + (f", format `{own.data.format}`" if own.data.format else "") + ".\n"
    yield "| split | rows | kept | tokens | trained |\n|---|---:|---:|---:|---:|"
    for name, split in ledger["splits"].items():
        rows, tokens = split.get("rows", {}), split.get("tokens", {})
        counts = (rows.get("in"), rows.get("kept"), tokens.get("in"), tokens.get("trained"))
        yield f"| {name} | {' | '.join('' if count is None else f'{count:,}' for count in counts)} |"
    for file, sha256 in ledger["sha256"].items():
        yield f"\n`{file}`: sha256 `{sha256}`"
    yield "\n## Results\n"
    taken = f"{result['steps']:,} steps, {result['tokens']:,} tokens"
    yield f"{taken}; the weights are those of step {result['weights_of_step']:,}.\n"
    losses = [line["loss"] for line in session.run_dir.read_metrics() if line["phase"] == phase.name and "loss" in line]
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
    yield "\n## Training\n"
    yield "| key | value |\n|---|---|"
    for key, value in _hyper_parameters(own):
        yield f"| `{key}` | {_cell(value)} |"
    yield "\nThe command that runs it again:\n"
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


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _code(config: Run) -> Iterator[str]:
    """Python that loads the folder, and does with it what the stage trains for: go on, score or answer."""
    is_adapter, is_judge = config.method.name == "lora", config.stage.name == "rm"
    task = "SequenceClassification" if is_judge else "CausalLM"
    kind = f"{'AutoPeftModelFor' if is_adapter else 'AutoModelFor'}{task}"
    more = ", num_labels=1" if is_judge else ""
    lines = [
        f"from {'peft' if is_adapter else 'transformers'} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        'folder = "."  # where this file is',
        f"model = {kind}.from_pretrained(folder{more})",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if config.stage.name == "pt":
        lines += [
            'inputs = tokenizer("...", return_tensors="pt")',
            f"text = model.generate(**inputs, max_new_tokens={config.eval.max_new_tokens})",
            "print(tokenizer.decode(text[0], skip_special_tokens=True))",
        ]
    elif is_judge:
        lines += [
            'messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
            "text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()  # it is judged where it ends",
            'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
            "print(model(**inputs).logits[0, 0].item())",
        ]
    else:
        lines += [
            'messages = [{"role": "user", "content": "..."}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
            f"answer = model.generate(**inputs, max_new_tokens={config.eval.max_new_tokens})",
            'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    yield "\n".join(["```python", *lines, "```"])
    if config.stage.name == "pt":
        yield "\nIt was trained on plain text, each text to its end token; no chat template was used."
    elif is_judge:
        yield "\nA higher score is a better answer. Only differences between answers to one prompt mean something."
    else:
        yield "\nThe chat template and the tokens that end an answer are in this folder, as they were trained."
    if is_adapter:
        yield "An adapter needs its base model, which `adapter_config.json` names."
