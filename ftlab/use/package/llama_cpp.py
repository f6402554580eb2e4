"""The check of a GGUF file in llama.cpp itself, where there is a build of it: that of npm's node-llama-cpp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ftlab.errors import ConfigError, Mistake, PackageError
from ftlab.use.package.check import MAX_NEW_TOKENS, Outcome, Reference, answers_outcome

VARIABLE = "FTLAB_LLAMA_CPP"
INSTALL = "npm install --ignore-scripts node-llama-cpp"
_LIBRARY = Path("node-llama-cpp") / "dist" / "index.js"
_COMPARED = 32  # of the likeliest tokens at each place


@dataclass(frozen=True)
class Build:
    """:param node: the program. :param library: the module that has llama.cpp."""

    node: str
    library: Path


def find_build(given: str | None) -> Build | None:
    """Where llama.cpp is.

    :param given: the folder that ``npm install`` was run in, or its node_modules, as the user typed it; None: the one
        in the environment, else the current folder.

    :raises ConfigError: it is not where it was said to be.
    """
    named = given or os.environ.get(VARIABLE)
    node = shutil.which("node")
    folder = Path(named).expanduser() if named else Path.cwd()
    library = next((path for path in (folder / _LIBRARY, folder / "node_modules" / _LIBRARY) if path.is_file()), None)
    if library is not None and node is not None:
        return Build(node, library.absolute())
    if named:
        reason = "the command node is not in PATH" if library is not None else f"it has no node-llama-cpp: {INSTALL}"
        raise ConfigError([Mistake("task.llama_cpp", reason, named)])
    return None


def not_checked() -> Outcome:
    """What is said where there is no build."""
    reason = f"no build found; {INSTALL}, and llama_cpp=FOLDER or {VARIABLE}=FOLDER names where"
    return Outcome("in llama.cpp", f"not checked: {reason}", True)


def ask(build: Build, file: Path, reference: Reference, part: float, work: Path) -> list[Outcome]:
    """Compare what llama.cpp makes of the file with what the run does.

    :param part: a logit may differ by so much of the largest one. :param work: a folder for what goes to and fro.
    :raises PackageError: llama.cpp cannot load it.
    """
    import torch

    likely = [logits_AV.topk(min(_COMPARED, logits_AV.shape[-1])) for logits_AV in reference.logits]
    out = work / "llama_cpp.json"
    request = {
        "library": str(build.library),
        "file": str(file),
        "out": str(out),
        "max_new_tokens": MAX_NEW_TOKENS,
        "threads": torch.get_num_threads(),
        "context": max(len(one.ids) + MAX_NEW_TOKENS + 8 for one in reference.prompts),
        "prompts": [{**one.values, "likely": found.indices.tolist()} for one, found in zip(reference.prompts, likely)],
    }
    script = Path(__file__).with_name("llama_cpp.mjs")
    command = [build.node, str(script)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, errors="replace")
    if done.returncode != 0 or not out.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if "rror" in line), lines[-1] if lines else f"exit code {done.returncode}")
        raise PackageError(f"llama.cpp cannot load the file: {said}")
    prompts = json.loads(out.read_text(encoding="utf-8"))["prompts"]
    limit = part * reference.scale
    same = sum(ours.ids == theirs["ids"] for ours, theirs in zip(reference.prompts, prompts))
    apart = max(
        abs(ours - theirs)
        for found, of_prompt in zip(likely, prompts)
        for ours_A, theirs_A in zip(found.values.tolist(), of_prompt["logits"])
        for ours, theirs in zip(ours_A, theirs_A)
    )
    return [
        Outcome("in llama.cpp: ids of prompts", f"{same} of {len(prompts)} the same", same == len(prompts)),
        Outcome(
            "in llama.cpp: logits",
            f"largest difference {apart:.2g} of {reference.scale:.3g} (limit {limit:.2g})",
            apart <= limit,
        ),
        answers_outcome("in llama.cpp: greedy answers", reference, prompts, limit),
    ]
