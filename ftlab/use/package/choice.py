"""What a package is of: which weights, in which form. Decided before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.model.prequantized import quantization_kind
from ftlab.policy.from_run import Policy
from ftlab.pretrained.files import ADAPTER, stored_dtype
from ftlab.rundir.model_card import base_name, is_of_hub
from ftlab.rundir.names import FINAL, MERGED_BASE
from ftlab.schema import PackageTask, Run
from ftlab.use.package.gguf_families import family_of
from ftlab.use.package.gguf_file import check_installed

Form = Literal["peft", "hf", "gguf"]
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # as config.json names them
_LONGEST = 48  # letters of a name: with the longest file in the package it has a place in the header of a member


@dataclass(frozen=True)
class Choice:
    """:param name: of the archive and of the folder in it. :param form: of the weights.
    :param dtype: that they are written in; of an adapter the one that its base is loaded in.
    """

    policy: Policy
    task: PackageTask
    name: str
    form: Form
    dtype: str

    @property
    def config(self) -> Run:
        return self.policy.config

    @property
    def base(self) -> Run:
        """The config with the model that a reader elsewhere begins from."""
        return self.config if self.form == "peft" else self.policy.base.config

    @property
    def base_name(self) -> str:
        """What a reader elsewhere knows the base by: an id of the hub, or the name of its folder."""
        path = Path(str(self.base.model.path))
        return base_name(self.base) if is_of_hub(self.base) or path.name == FINAL else path.name

    @property
    def is_adapter(self) -> bool:
        """Whether the run trained one, whatever is packed."""
        return (self.policy.weights.folder / ADAPTER).is_file()

    @property
    def is_reward_model(self) -> bool:
        return self.config.stage.name == "rm"

    @property
    def merges(self) -> bool:
        return self.is_adapter and self.form != "peft"


def choose(policy: Policy, task: PackageTask) -> Choice:
    """:raises ConfigError: keys that do not go together, or with the run. :raises NotReadyError: its base cannot be
    made whole."""
    from ftlab.model.load import precision_name

    is_adapter = (policy.weights.folder / ADAPTER).is_file()
    if wrong := _mistakes(policy, task, is_adapter):
        raise ConfigError(wrong)
    form = _form(task, is_adapter)
    if form == "gguf":
        check_installed()
        family_of(policy.base.config.model.architecture.family)
    kind = quantization_kind(policy.config.model) if is_adapter else None
    if form != "peft" and kind not in (None, "bitsandbytes"):
        raise NotReadyError(
            f"The base is quantized by {kind}, and an adapter cannot be merged into such weights: use format=peft."
        )
    dtype: str = task.dtype
    if form == "peft":
        dtype = precision_name(policy.config)
    elif task.dtype == "auto":
        dtype = _stored(policy, is_adapter)
    return Choice(policy, task, _name(policy, task, form, dtype), form, dtype)


def task_mistakes(task: PackageTask) -> list[Mistake]:
    """What does not go together whatever the run is."""
    found = []
    if task.format in ("table", "json"):
        found.append(
            Mistake("task.format", "is how ftlab package verify prints; a package is peft, hf or gguf", task.format)
        )
    if task.format == "peft" and task.merge:
        found.append(Mistake("task.merge", "makes whole weights, and format=peft is the adapter alone", True))
    if task.format == "peft" and task.dtype != "auto":
        found.append(Mistake("task.dtype", "is of whole weights; an adapter is packed as it was saved", task.dtype))
    if task.dtype == "q8_0" and task.format != "gguf":
        found.append(Mistake("task.dtype", "is a type of GGUF: use format=gguf, or fp32, bf16 or fp16", task.dtype))
    if task.format != "gguf" and task.llama_cpp is not None:
        found.append(Mistake("task.llama_cpp", "is of format=gguf", task.llama_cpp))
    if task.repo is not None and not task.push:
        found.append(Mistake("task.repo", "is of push=true", task.repo))
    for key, value in (("file", task.file), ("base", task.base), ("load", task.load or None)):
        if value is not None:
            found.append(Mistake(f"task.{key}", "is of ftlab package verify", value))
    return found


def _mistakes(policy: Policy, task: PackageTask, is_adapter: bool) -> list[Mistake]:
    found = []
    if not is_adapter and task.format == "peft":
        reason = "the run trained whole weights, and has no adapter: use format=hf"
        found.append(Mistake("task.format", reason, "peft"))
    if not is_adapter and task.merge:
        found.append(Mistake("task.merge", "the run trained whole weights; there is no adapter to merge", True))
    if is_adapter and task.format in ("hf", "gguf") and task.merge is False:
        reason = f"format={task.format} is whole weights, made of the adapter and its base: leave merge out"
        found.append(Mistake("task.merge", reason, False))
    if is_adapter and _form(task, is_adapter) == "peft" and task.dtype != "auto":
        reason = "is of whole weights, and this would be the adapter as it was saved: add merge=true"
        found.append(Mistake("task.dtype", reason, task.dtype))
    if is_adapter and _form(task, is_adapter) == "peft" and Path(str(policy.config.model.path)).name == MERGED_BASE:
        reason = "the base of this adapter is one that the run made (start: merge), which is nowhere else: merge=true"
        found.append(Mistake("task.merge", reason))
    if policy.config.stage.name == "rm" and task.format == "gguf":
        found.append(Mistake("task.format", "a reward model answers with a score, which GGUF has no place for", "gguf"))
    if policy.config.stage.name == "rm" and is_adapter and (task.merge or task.format == "hf"):
        reason = "the adapter of a reward model is packed as it is: use format=peft"
        found.append(Mistake("task.merge" if task.merge else "task.format", reason, task.merge or task.format))
    return found


def _form(task: PackageTask, is_adapter: bool) -> Form:
    if task.format in ("peft", "hf", "gguf"):
        return task.format
    return "peft" if is_adapter and not task.merge else "hf"


def _stored(policy: Policy, is_adapter: bool) -> str:
    """What the weights are stored in that these are made of, or the run's precision where nobody knows."""
    from ftlab.model.load import precision_name

    model = policy.config.model
    found = stored_dtype(model.path, model.revision) if is_adapter else stored_dtype(str(policy.weights.folder))
    return DTYPES.get(str(found), precision_name(policy.config))


def _name(policy: Policy, task: PackageTask, form: Form, dtype: str) -> str:
    weights, run_dir = policy.weights, policy.run_dir
    parts = [run_dir.path.resolve().name]
    parts += [weights.phase.name] if len(run_dir.plan().phases) > 1 else []
    parts += [f"step-{weights.step}"] if weights.step is not None else []
    parts += [form] if task.dtype == "auto" else [form, dtype]
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)).strip(".-") or "package"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}-{text[-19:]}".replace("..", ".")
