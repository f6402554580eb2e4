"""From a run to a package: its folder, what is compared with the run, and the archive."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab import __version__
from ftlab.base.progress import Progress
from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.policy.tokens import Tokens
from ftlab.pretrained.architecture import read_architecture
from ftlab.pretrained.files import CONFIG, local_folder
from ftlab.rundir.files import sha256, size, temporary_folder, weight_hashes, write_atomic
from ftlab.rundir.lock import RunLock
from ftlab.rundir.model_card import is_of_hub, public
from ftlab.rundir.names import MODEL_CARD
from ftlab.rundir.records import read_ledger
from ftlab.use.package import card, usage
from ftlab.use.package import check as checks
from ftlab.use.package.archive import SUFFIX, write_archive
from ftlab.use.package.check import Outcome, Reference
from ftlab.use.package.choice import Choice
from ftlab.use.package.documents import (
    CHECK,
    LICENCES,
    METADATA,
    MODELFILE,
    REQUIREMENTS,
    SCRIPT,
    USAGE,
    VERSION,
    write_json,
    write_sums,
)
from ftlab.use.package.gguf_file import write_gguf
from ftlab.use.package.llama_cpp import Build, ask, not_checked
from ftlab.use.package.modelfile import modelfile
from ftlab.use.package.push import push, token
from ftlab.use.package.verify import verify
from ftlab.use.package.weights import write_weights

FOLDER = "packages"  # of a run directory
_STEPS = 5


@dataclass(frozen=True)
class Made:
    """:param address: on the hub, where it was pushed."""

    file: Path
    outcomes: list[Outcome]
    address: str | None


def build(choice: Choice, output: Path | None, llama_cpp: Build | None, progress: Progress) -> Made:
    """:param output: the file; None: below ``packages/`` of the run. :param llama_cpp: for the check of GGUF.

    :raises ConfigError: something is at ``output``. :raises PackageError: the package does not do what the run does.
    """
    packages = choice.policy.run_dir.path.absolute() / FOLDER
    file = output or packages / f"{choice.name}{SUFFIX}"
    if output is not None and output.exists() and not choice.task.overwrite:
        reason = "is there already; name another, or replace it with overwrite=true"
        raise ConfigError([Mistake("task.output", reason, output)])
    task = choice.task
    if task.push:
        token()
    with _work_folder(packages / choice.name) if output is None else _folder_beside(output) as work:
        with progress(f"packing {choice.name}", _STEPS, "steps") as bar:
            outcomes = _Filling(choice, work, llama_cpp).run(bar)
        folder = work / choice.name
        with progress("writing the archive", size(folder), "bytes", only_live=True) as bar:
            write_archive(folder, file, choice.name, bar.advance)
        write_atomic(file.with_name(f"{file.name}.sha256"), f"{sha256(file)}  {file.name}\n")
        verify(file, progress)
        address = push(folder, choice.name, task.repo, task.private, file) if task.push else None
    return Made(file, outcomes, address)


@contextmanager
def _work_folder(package: Path) -> Iterator[Path]:
    """A folder for the block, below ``packages/``, whose lock is held; what a process that was killed has left there
    goes."""
    folder = temporary_folder(package)
    with RunLock(package.parent, make=True):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """The same beside a file of the user's choice. :raises NotReadyError: nothing can be written there."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise NotReadyError(f"task.output={output} cannot be written: {error.strerror}.") from None
    with folder as name:
        yield Path(name)


class _Filling:
    """Makes all files of a package below a folder of work.

    :ivar folder: of the package, with its name. :ivar model: of the whole model or the adapter: the package's folder
        itself, but for GGUF.
    """

    def __init__(self, choice: Choice, work: Path, llama_cpp: Build | None):
        self._choice, self._work, self._llama_cpp = choice, work, llama_cpp
        self._tokens = choice.policy.tokens()
        self.folder = work / choice.name
        self.model = work / "model" if choice.form == "gguf" else self.folder
        for path in (self.folder, self.model):
            path.mkdir(exist_ok=True)

    def run(self, bar: Any) -> list[Outcome]:
        choice = self._choice
        bar.update(0, "asking the run")
        reference = checks.reference_of(choice.policy, self._tokens) if choice.task.check else None
        _free_memory()
        bar.update(1, "weights")
        write_weights(choice, self._tokens, self.model)
        _free_memory()
        if choice.form == "gguf":
            self._write_gguf()
        bar.update(2, "asking the package")
        outcomes = [] if reference is None else self._compared(reference)
        bar.update(3, "documents")
        _write_documents(choice, self._tokens, reference, outcomes, self.folder)
        bar.update(4, "hashes")
        write_sums(self.folder)
        bar.update(_STEPS, "")
        return outcomes

    def _write_gguf(self) -> None:
        choice, tokens = self._choice, self._tokens
        template = None if tokens.template is None else tokens.template.source
        write_gguf(self.model, self._gguf, choice.name, choice.dtype, tokens, template)
        (self.folder / MODELFILE).write_text(modelfile(self._gguf.name, tokens), encoding="utf-8")

    @property
    def _gguf(self) -> Path:
        return self.folder / f"{self._choice.name}.gguf"

    def _compared(self, reference: Reference) -> list[Outcome]:
        """:raises PackageError: the package does something else than the run."""
        choice, asked = self._choice, self._work / "check"
        asked.mkdir()
        found = checks.serve(self.model, _facts(choice), [one.values for one in reference.prompts], asked)
        outcomes = checks.compare(reference, found, checks.tolerance(*_numbers(choice)))
        if choice.form == "gguf" and self._llama_cpp is None:
            outcomes.append(not_checked())
        elif self._llama_cpp is not None:
            part = checks.tolerance(*_numbers(choice), "fp16")  # of its cache of keys and values
            outcomes += ask(self._llama_cpp, self._gguf, reference, part, asked)
        checks.check_right(outcomes)
        return outcomes


def _free_memory() -> None:
    """Of a model that nobody needs any more: the next one takes its place, or is another process's."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _numbers(choice: Choice) -> tuple[str, ...]:
    """The kinds of numbers that are on the way from the run to the package."""
    from ftlab.model.load import precision_name

    quant = choice.config.quant.name
    # What bitsandbytes loads of four bits, and nobody trains, it computes in bf16 on a CPU that has it.
    serving = "bf16" if choice.form == "peft" and quant in ("nf4", "fp4") else choice.dtype
    return precision_name(choice.config), quant, choice.dtype, serving


def _facts(choice: Choice) -> dict[str, Any]:
    """How the package is loaded."""
    import torch

    from ftlab.model.load import uses_cpu

    return {
        "form": "peft" if choice.form == "peft" else "hf",
        "is_reward_model": choice.is_reward_model,
        "dtype": choice.dtype,
        "device": "cpu" if uses_cpu(choice.config) else str(torch.accelerator.current_accelerator()),
        "base": choice.config.model.path,
        "revision": choice.config.model.revision,
        "quantization": usage.quantization_config(choice) if choice.form == "peft" else None,
    }


def _write_documents(
    choice: Choice, tokens: Tokens, reference: Reference | None, outcomes: Sequence[Outcome], folder: Path
) -> None:
    licence = card.base_licence(choice)
    for path in licence.files:
        target = folder / LICENCES / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    adds_rows = _adds_rows(choice, tokens)
    text = card.model_card(choice, licence, usage.use_section(choice, adds_rows), outcomes)
    (folder / MODEL_CARD).write_text(text, encoding="utf-8")
    if choice.form != "gguf":
        (folder / SCRIPT).write_text(usage.code(choice, adds_rows, is_script=True), encoding="utf-8")
    (folder / USAGE).write_text(usage.usage_page(choice, _checked(outcomes)), encoding="utf-8")
    (folder / REQUIREMENTS).write_text(usage.requirements(choice), encoding="utf-8")
    write_json(folder / METADATA, _metadata(choice, tokens, licence, outcomes))
    if reference is not None:
        write_json(folder / CHECK, _check_values(reference, choice))


def _adds_rows(choice: Choice, tokens: Tokens) -> bool:
    """Whether the tokenizer has more tokens than the base has embeddings."""
    model = choice.config.model
    base = local_folder(model.path, model.revision)
    if base is None or not (base / CONFIG).is_file():
        return False
    rows = read_architecture(base).get("vocab_size", 0)
    return bool(rows and len(tokens.tokenizer) > rows)


def _checked(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "It was not compared with the run that it was made of (`check=false`)."
    return f"Before it was packed it was loaded and compared with the run that it was made of: see `{MODEL_CARD}`."


def _metadata(choice: Choice, tokens: Tokens, licence: card.Licence, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """metadata.json: what a program may want to know. No path of this machine and no secret is in it."""
    run_dir, weights, config = choice.policy.run_dir, choice.policy.weights, choice.config
    manifest, base = run_dir.manifest(), choice.base
    source = local_folder(base.model.path, base.model.revision)
    template = None if tokens.template is None else tokens.template.source
    values = {
        "package": VERSION,
        "name": choice.name,
        "form": choice.form,
        "dtype": choice.dtype,
        "merged": choice.merges,
        "quantization": usage.quantization_config(choice) if choice.form == "peft" else None,
        "base": {
            "name": choice.base_name,
            "path": base.model.path if is_of_hub(base) else None,
            "revision": base.model.revision if is_of_hub(base) else None,
            "family": base.model.architecture.family,
            "licence": licence.name,
            "sha256": {} if source is None else weight_hashes(source),
        },
        "licence": choice.task.license,
        "run": {
            "name": run_dir.path.resolve().name,
            "phase": weights.phase.name,
            "step": weights.step,
            "remark": weights.remark,
            "stage": config.stage.name,
            "method": config.method.name,
            "seed": config.seed,
            "sha256": weight_hashes(weights.folder),
            "rerun": manifest.get("rerun"),
            "git": manifest.get("git"),
        },
        "phases": [_phase(choice, phase.name, phase.config, manifest) for phase in run_dir.plan().phases],
        "tokens": {
            "vocabulary": len(tokens.tokenizer),
            "added": tokens.additions.tokens,
            "stop": tokens.stop,
            "stop_tokens": tokens.tokenizer.convert_ids_to_tokens(tokens.stop),
            "pad": tokens.tokenizer.pad_token_id,
            "template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        },
        "check": [{"name": one.name, "found": one.found} for one in outcomes],
        "ftlab": __version__,
        "packages": manifest.get("packages", {}),
    }
    read: dict[str, Any] = json.loads(public(json.dumps(values)))
    return read


def _phase(choice: Choice, name: str, config: Any, manifest: Mapping[str, Any]) -> dict[str, Any]:
    ledger = read_ledger(choice.policy.run_dir.ledger(name))
    done = manifest.get("phases", {}).get(name, {})
    return {
        "name": name,
        "stage": config.stage.name,
        "method": config.method.name,
        "steps": done.get("steps"),
        "tokens": done.get("tokens"),
        "after": done.get("after"),
        "data": {} if ledger is None else ledger["sha256"],
    }


def _check_values(reference: Reference, choice: Choice) -> dict[str, Any]:
    """check.json: what was asked and answered, for who asks again elsewhere."""
    return {
        "max_new_tokens": checks.MAX_NEW_TOKENS,
        "tolerance": checks.tolerance(*_numbers(choice)),
        "stop": reference.stop,
        "is_reward_model": choice.is_reward_model,
        "prompts": [
            {**one.values, "likeliest": checks.likeliest(logits)}
            for one, logits in zip(reference.prompts, reference.logits)
        ],
    }
