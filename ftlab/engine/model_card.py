"""The model card: ``README.md`` beside the final weights, with what the run knows of them and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftlab.engine.session import Session
from ftlab.rundir.files import write_atomic
from ftlab.rundir.model_card import (
    WITHOUT_LEDGER,
    base_name,
    data_section,
    front_matter,
    public,
    rerun_section,
    results_section,
    training_section,
)
from ftlab.rundir.names import MODEL_CARD
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import read_ledger
from ftlab.schema import Run


def write_model_card(session: Session, phase: Phase, result: Mapping[str, Any], folder: Path) -> None:
    """Write the card of a phase that is done into the folder of its final weights. :param result: as the manifest will
    have it."""
    ledger = read_ledger(session.run_dir.ledger(phase.name)) or WITHOUT_LEDGER
    front = front_matter(phase.config, ledger, is_adapter=phase.config.method.name == "lora")
    body = "\n".join(_body(session, phase, result, ledger))
    text = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"
    write_atomic(folder / MODEL_CARD, public(text))


def _body(session: Session, phase: Phase, result: Mapping[str, Any], ledger: Mapping[str, Any]) -> Iterator[str]:
    own = phase.config
    what = "A LoRA adapter for" if own.method.name == "lora" else "Weights that began as"
    if own.model.init == "random" and own.method.name != "lora":
        what = "Weights that began at random, in the shape of"
    quant = "" if own.quant.name == "none" else f", quantized as {own.quant.name}"
    yield f"# {session.plan.title}\n"
    yield f"{what} `{base_name(own)}`{quant}, trained by stage `{own.stage.name}`, method `{own.method.name}`."
    if session.has_several_phases:
        names = [f"`{one.name}` ({one.config.stage.name})" for one in session.plan.phases]
        yield f"\nThis is phase `{phase.name}` of {', '.join(names)}."
    yield "\nNo license is stated here; see those of the base model and of the data.\n"
    yield "## Use\n"
    yield from _code(own)
    yield "\n## Data\n"
    yield from data_section(own, ledger)
    yield "\n## Results\n"
    yield from results_section(session.run_dir, phase, result)
    yield "\n## Training\n"
    yield from training_section(own)
    yield ""
    yield from rerun_section(session.manifest.values)


def _code(config: Run) -> Iterator[str]:
    """Python that loads the folder, and does with it what the stage trains for: go on, score or answer."""
    is_adapter, is_judge = config.method.name == "lora", config.stage.name == "rm"
    task = "SequenceClassification" if is_judge else "CausalLM"
    kind = f"{'AutoPeftModelFor' if is_adapter else 'AutoModelFor'}{task}"
    more = ", num_labels=1" if is_judge else ""
    answers = is_adapter and not is_judge  # without its own, the base's tokens would end them
    lines = [
        f"from {'peft' if is_adapter else 'transformers'} import {kind}",
        f"from transformers import AutoTokenizer{', GenerationConfig' if answers else ''}",
        "",
        'folder = "."  # where this file is',
        f"model = {kind}.from_pretrained(folder{more})",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if answers:
        lines.append(
            "model.generation_config = GenerationConfig.from_pretrained(folder)  # the tokens that end an answer"
        )
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
