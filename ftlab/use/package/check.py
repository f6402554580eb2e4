"""Whether a package does what the run does: the same prompts, asked of both, the package in a process of its own.

What is compared: the chat template and the tokens that end an answer, the ids that prompts become, the logits beside
each token of the run's own answers, and the greedy answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.data.formats import Message, RowError
from ftlab.errors import PackageError
from ftlab.policy.from_run import Policy, TrainedPolicy
from ftlab.policy.tokens import Tokens

MAX_NEW_TOKENS = 32  # of each answer
_CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "What is 3 plus 4?"},),
    ({"role": "user", "content": "Write one sentence about the sea."},),
    (
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Name another one, in French.  Deux\nlignes: 你好 ✓"},
    ),
)
_TEXTS = ("The sea", "def add(a, b):\n", "Once upon a time, in a town of 12,345 people ✓,")
# The largest difference of a logit, in parts of the largest logit, by the coarsest numbers on the way.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "q8_0": 5e-2, "int8": 1e-1}


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what the run answers. :param messages: None of plain text. :param ids: of the prompt.
    :param answer_ids: with the token that ends it, unless it was cut; empty of a reward model."""

    messages: list[Message] | None
    text: str
    ids: list[int]
    answer_ids: list[int]
    answer: str

    @property
    def values(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "text": self.text,
            "ids": self.ids,
            "answer_ids": self.answer_ids,
            "answer": self.answer,
        }


@dataclass(frozen=True)
class Reference:
    """What the run does. :param logits: of each prompt (A, V), those that predict its answer's tokens; of a reward
    model (1, 1), its score."""

    template: str | None
    stop: list[int]
    prompts: list[Prompt]
    logits: list[Any]

    @property
    def scale(self) -> float:
        return max(float(of.abs().max()) for of in self.logits)


@dataclass(frozen=True)
class Outcome:
    """One thing that was compared. :param found: in words, with its limit where it has one."""

    name: str
    found: str
    is_right: bool


def reference_of(policy: Policy, tokens: Tokens) -> Reference:
    """Ask the run's own model: base and adapter in the precision and quantization of the run.

    :raises NotReadyError: the base is not there, or the adapter is one of another model.
    """
    import torch

    if policy.config.stage.name == "rm":
        return _scores(policy, tokens)
    loaded = policy.load(tokens)
    template = None if tokens.template is None else tokens.template.source
    prompts, logits = [], []
    with loaded.autocast(), torch.no_grad():
        for messages, text in _asked(tokens):
            prompt, of_prompt = _answered(loaded, messages, text)
            prompts.append(prompt)
            logits.append(of_prompt)
    return Reference(template, tokens.stop, prompts, logits)


def _scores(policy: Policy, tokens: Tokens) -> Reference:
    """Of a reward model: texts that end with an answer, and the score of each."""
    import torch

    from ftlab.stages.rewards.alone import load_judge

    template, folder = tokens.template, policy.weights.folder
    assert template is not None, "stage=rm has conversations"
    conversations = [[*one, Message(role="assistant", content="Seven.")] for one in _CONVERSATIONS]
    texts = [template.text(one).rstrip() for one in conversations]  # it is judged where it ends
    ids = tokens.tokenizer(texts, add_special_tokens=False)["input_ids"]
    judge = load_judge(policy.config, str(folder), f"run.dir={policy.run_dir.path}", tokens.tokenizer)
    scores = [torch.tensor([[score]]) for score in judge([[]] * len(ids), ids)]
    prompts = [Prompt(one, text, of, [], "") for one, text, of in zip(conversations, texts, ids)]
    return Reference(template.source, tokens.stop, prompts, scores)


def _asked(tokens: Tokens) -> list[tuple[list[Message] | None, str]]:
    """Conversations that the template takes, or plain texts where there is none."""
    if tokens.template is None:
        return [(None, text) for text in _TEXTS]
    found: list[tuple[list[Message] | None, str]] = []
    for conversation in _CONVERSATIONS:
        try:
            found.append(([*conversation], tokens.template.prompt(conversation)))
        except RowError:  # a template may want a system message, or a single turn
            continue
    if not found:
        raise PackageError("The chat template takes no conversation of a user and an assistant, so nothing can be "
                           "compared. check=false packs it unchecked.")  # fmt: skip
    return found


def _answered(loaded: TrainedPolicy, messages: list[Message] | None, text: str) -> tuple[Prompt, Any]:
    import torch

    from ftlab.measure.generate import generate_ids

    tokenizer, model = loaded.tokenizer, loaded.model
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    (answer_ids,) = generate_ids(
        model, tokenizer, [text], stop=loaded.stop, max_new_tokens=MAX_NEW_TOKENS, batch_size=1, max_tokens=1 << 30
    )
    given = torch.tensor([[*ids, *answer_ids]], device=model.device)
    logits_AV = model(input_ids=given, use_cache=False).logits[0, len(ids) - 1 : -1].float().cpu()
    answer = tokenizer.decode(answer_ids, skip_special_tokens=True)
    return Prompt(messages, text, ids, answer_ids, answer), logits_AV


def serve(folder: Path, facts: Mapping[str, Any], prompts: Sequence[Mapping[str, Any]], work: Path) -> Found:
    """Load a package in a process of its own, and ask it.

    :param folder: of its files. :param facts: how it is loaded; see :mod:`ftlab.use.package.serve`.
    :param work: an empty folder for what goes to and fro.
    :raises PackageError: it cannot be loaded, with the reason.
    """
    from safetensors.torch import load_file

    request = work / "request.json"
    values = {**facts, "folder": str(folder), "prompts": list(prompts), "max_new_tokens": MAX_NEW_TOKENS}
    request.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-P", str(Path(__file__).with_name("serve.py"))]
    done = subprocess.run(command, input=str(request), capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise PackageError(f"The package cannot be loaded: {lines[-1]}")
    said = json.loads((work / "said.json").read_text(encoding="utf-8"))
    tensors = load_file(work / "logits.safetensors")
    return Found(said["template"], said["stop"], said["prompts"], [tensors[str(i)] for i in range(len(prompts))])


@dataclass(frozen=True)
class Found:
    """What a package does: as :class:`Reference`, from the other side."""

    template: str | None
    stop: list[int]
    prompts: list[dict[str, Any]]
    logits: list[Any]


def tolerance(*kinds: str) -> float:
    """In parts of the largest logit. :param kinds: of numbers that are on the way."""
    return max(TOLERANCES[kind] for kind in kinds if kind in TOLERANCES)


def compare(reference: Reference, found: Found, part: float) -> list[Outcome]:
    """:param part: a logit may differ by so much of the largest one."""
    limit = part * reference.scale
    outcomes = [
        Outcome("chat template", "the same", True)
        if found.template == reference.template
        else Outcome("chat template", "another", False),
        _same("tokens that end an answer", reference.stop, found.stop),
    ]
    if reference.template is None:
        outcomes.pop(0)
    pairs = list(zip(reference.prompts, found.prompts, strict=True))
    same = sum(ours.text == theirs["text"] and ours.ids == theirs["ids"] for ours, theirs in pairs)
    outcomes.append(Outcome("ids of prompts", f"{same} of {len(pairs)} the same", same == len(pairs)))
    apart = max(float((ours - theirs).abs().max()) for ours, theirs in zip(reference.logits, found.logits))
    outcomes.append(
        Outcome(
            "scores" if not reference.prompts[0].answer_ids else "logits",
            f"largest difference {apart:.2g} of {reference.scale:.3g} (limit {limit:.2g})",
            apart <= limit,
        )
    )
    if reference.prompts[0].answer_ids:
        outcomes.append(answers_outcome("greedy answers", reference, found.prompts, limit))
    return outcomes


def _same(name: str, ours: Sequence[int], theirs: Sequence[int]) -> Outcome:
    if {*ours} == {*theirs}:
        return Outcome(name, ", ".join(map(str, ours)), True)
    return Outcome(name, f"{theirs}, and {list(ours)} of the run", False)


def answers_outcome(name: str, reference: Reference, found: Sequence[Mapping[str, Any]], limit: float) -> Outcome:
    """Greedy answers are the same, ids and text, but where two tokens are so near each other that rounding decides.

    :param found: ``answer_ids`` and ``answer`` to each prompt. :param limit: that a logit may differ by.
    """
    same, by_rounding, wrong = 0, 0, 0
    for ours, theirs, logits_AV in zip(reference.prompts, found, reference.logits):
        a, b = ours.answer_ids, theirs["answer_ids"]
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
        if at is None:
            is_same = a == b and ours.answer == theirs["answer"]
            same, wrong = same + is_same, wrong + (not is_same)
        elif float(logits_AV[at, a[at]] - logits_AV[at, b[at]]) <= 2 * limit:
            by_rounding += 1
        else:
            wrong += 1
    text = f"{same} of {len(reference.prompts)} the same"
    if by_rounding:
        text += f", {by_rounding} part{'s' * (by_rounding == 1)} where two tokens are as likely as rounding can tell"
    return Outcome(name, text, not wrong)


def check_right(outcomes: Sequence[Outcome]) -> None:
    """:raises PackageError: something is not right; with all of that."""
    wrong = [f"  - {one.name}: {one.found}" for one in outcomes if not one.is_right]
    if wrong:
        raise PackageError("\n".join(["The package does not do what the run does:", *wrong, "Nothing was written."]))


def likeliest(logits_AV: Any, count: int = 8) -> list[tuple[int, float]]:
    """The tokens that may come first in an answer, with their log-probabilities; of a reward model the score."""
    if logits_AV.shape[-1] == 1:
        return [(0, float(logits_AV[0, 0]))]
    found = logits_AV[0].log_softmax(-1).topk(min(count, logits_AV.shape[-1]))
    return [(int(token), float(value)) for token, value in zip(found.indices, found.values)]
