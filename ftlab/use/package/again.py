"""``ftlab package verify FILE load=true``: whether a package gives here the answers that it says it gives."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ftlab.base.progress import Progress
from ftlab.errors import ConfigError, Mistake, NotReadyError, PackageError
from ftlab.pretrained.files import CONFIG, local_folder
from ftlab.pretrained.weights import ADAPTER_FILES, inspect_weights
from ftlab.rundir.files import weight_hashes
from ftlab.use.package.archive import unpack
from ftlab.use.package.check import Found, Outcome, serve
from ftlab.use.package.documents import CHECK, Metadata
from ftlab.use.package.verify import Verified


class _Prompt(BaseModel):
    messages: list[dict[str, str]] | None
    text: str
    ids: list[int]
    answer_ids: list[int]
    answer: str
    likeliest: list[tuple[int, float]]


class _Check(BaseModel):
    tolerance: float
    stop: list[int]
    is_reward_model: bool
    prompts: list[_Prompt]


def answers_again(found: Verified, base: str | None, progress: Progress) -> list[Outcome]:
    """Unpack a package to a folder that is removed again, load it in a process of its own, and ask what it was asked
    when it was made.

    :param base: where the model is that an adapter is for; None: an id of the hub, as the package names it.
    :raises ConfigError: the base is not told. :raises NotReadyError: it is another, or not there.
    :raises PackageError: it cannot be loaded, or answers otherwise.
    """
    check = _read_check(found)
    metadata = found.metadata
    facts = {
        "form": metadata.form,
        "is_reward_model": check.is_reward_model,
        "dtype": metadata.dtype,
        "device": "cpu",
        "base": None if metadata.form != "peft" else _base(metadata, base),
        "revision": metadata.base.revision if base is None else None,
        "quantization": metadata.quantization,
    }
    if metadata.form == "gguf":
        raise NotReadyError("A package of GGUF is loaded by llama.cpp: see its USAGE.md.")
    with tempfile.TemporaryDirectory(prefix="ftlab-package-") as name:
        folder, asked = Path(name) / metadata.name, Path(name) / "check"
        folder.mkdir()
        asked.mkdir()
        if found.file.is_dir():
            shutil.copytree(found.file, folder, dirs_exist_ok=True)
        else:
            with progress("unpacking", found.file.stat().st_size, "bytes", only_live=True) as bar:
                unpack(found.file, folder, bar.advance)
        weights = inspect_weights(folder, ADAPTER_FILES) if metadata.form == "peft" else inspect_weights(folder)
        if weights.problems:
            raise PackageError(weights.problems[0])
        prompts = [one.model_dump() for one in check.prompts]
        outcomes = _outcomes(check, serve(folder, facts, prompts, asked))
    wrong = [f"  - {one.name}: {one.found}" for one in outcomes if not one.is_right]
    if wrong:
        raise PackageError("\n".join([f"{found.file} does not answer here as it says it does:", *wrong]))
    return outcomes


def _read_check(found: Verified) -> _Check:
    if CHECK not in found.documents:
        raise PackageError(f"{found.file} has no {CHECK}: it was packed with check=false, so there is nothing to ask.")
    try:
        return _Check.model_validate_json(found.documents[CHECK])
    except ValidationError as error:
        raise PackageError(f"{found.file}: {CHECK}: {error.errors()[0]['msg']}.") from None


def _base(metadata: Metadata, given: str | None) -> str:
    if given is None and metadata.base.path is None:
        reason = f"this adapter is for the model {metadata.base.name}; say where that is: base=FOLDER"
        raise ConfigError([Mistake("task.base", reason)])
    base = given or str(metadata.base.path)
    folder = local_folder(base, metadata.base.revision or "main")
    if folder is None or not (folder / CONFIG).is_file():
        raise NotReadyError(f"task.base={base}: there is no model. The adapter is for {metadata.base.name}.")
    there = weight_hashes(folder)
    for name, value in metadata.base.sha256.items():
        if there.get(name) != value:
            has = f"has sha256 {there[name]}" if name in there else "is not there"
            raise NotReadyError(
                f"task.base={base} is another model than {metadata.base.name}, which the adapter was trained on: its "
                f"{name} {has}, and should be {value}."
            )
    return base


def _outcomes(check: _Check, found: Found) -> list[Outcome]:
    pairs = list(zip(check.prompts, found.prompts))
    same_ids = sum(ours.text == theirs["text"] and ours.ids == theirs["ids"] for ours, theirs in pairs)
    outcomes = [Outcome("ids of prompts", f"{same_ids} of {len(pairs)} the same", same_ids == len(pairs))]
    if not check.is_reward_model:
        same = {*check.stop} == {*found.stop}
        outcomes.append(Outcome("tokens that end an answer", ", ".join(map(str, found.stop)), same))
        answers = sum(ours.answer_ids == theirs["answer_ids"] for ours, theirs in pairs)
        outcomes.append(Outcome("greedy answers", f"{answers} of {len(pairs)} the same", answers == len(pairs)))
    apart, limit = _apart(check, found), _limit(check)
    outcomes.append(
        Outcome(
            "score" if check.is_reward_model else "first tokens",
            f"log-probabilities differ by {apart:.2g} at most (limit {limit:.2g})",
            apart <= limit,
        )
    )
    return outcomes


def _limit(check: _Check) -> float:
    """In parts of the largest number that was recorded."""
    return check.tolerance * max([1.0, *(abs(value) for one in check.prompts for _, value in one.likeliest)])


def _apart(check: _Check, found: Found) -> float:
    largest = 0.0
    for one, logits_AV in zip(check.prompts, found.logits):
        ours: Mapping[int, float] = dict(one.likeliest)
        theirs: Any = logits_AV[0] if check.is_reward_model else logits_AV[0].log_softmax(-1)
        largest = max([largest, *(abs(float(theirs[token]) - value) for token, value in ours.items())])
    return largest
