"""Preferences and labels: two right answers of the same words, one with good manners.

A request offers a pleasant and an unpleasant way, in either order. ``kindly not rudely`` is preferred to
``rudely not kindly``: length, words and what was offered first say nothing; which word denies the other says all.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from generator.cases import SEED, Part
from generator.files import JsonRow
from generator.words import FOODS, NAMES, THINGS

# All of one length.
PLEASANT = ("fairly", "fondly", "gladly", "kindly", "nicely", "softly", "wisely")
UNPLEASANT = ("coldly", "curtly", "grimly", "rashly", "rudely", "sourly", "wildly")
HELD_OUT = 14  # pairs of ways that no training row has
_THINGS = tuple(dict.fromkeys((*THINGS, *FOODS)))
REQUESTS = (
    "{name} wants the {thing}. Do I answer {first} or {second}?",
    "How shall I ask {name} for the {thing}, {first} or {second}?",
    "I give {name} the {thing}. Should it be done {first} or {second}?",
    "{name} has lost the {thing}. Shall we speak {first} or {second}?",
    "Tell me whether to greet {name} {first} or {second}; the {thing} can wait.",
)


def ways(part: Part) -> list[tuple[str, str]]:
    """Pairs of a pleasant and an unpleasant way: those of training, or those that are held out of it."""
    pairs = [(pleasant, unpleasant) for pleasant in PLEASANT for unpleasant in UNPLEASANT]
    Random("ways 6").shuffle(pairs)
    return pairs[HELD_OUT:] if part == "train" else pairs[:HELD_OUT]


def _of(part: Part, words: tuple[str, ...]) -> tuple[str, ...]:
    """A third of the words is held out as well."""
    held_out = len(words) // 3
    return words[held_out:] if part == "train" else words[:held_out]


def _questions(name: str, part: Part, seen: set[str]) -> Iterator[tuple[str, str, str]]:
    """Without end: a request, the answer that is preferred, and the other; no request is in ``seen``."""
    draw = Random(f"{name} {part} {SEED}")
    names, things = (_of(part, words) for words in (NAMES, _THINGS))
    while True:
        pleasant, unpleasant = draw.choice(ways(part))
        first, second = draw.sample((pleasant, unpleasant), 2)
        request = draw.choice(REQUESTS).format(
            name=draw.choice(names), thing=draw.choice(things), first=first, second=second
        )
        if request not in seen:
            seen.add(request)
            yield request, f"{pleasant} not {unpleasant}", f"{unpleasant} not {pleasant}"


def preferences(part: Part, seen: set[str]) -> Iterator[JsonRow]:
    for request, good, bad in _questions("preferences", part, seen):
        yield {"instruction": request, "input": "", "chosen": good, "rejected": bad}


def labels(part: Part, seen: set[str]) -> Iterator[JsonRow]:
    """Every other row is a good answer."""
    label = False
    for request, good, bad in _questions("labels", part, seen):
        label = not label
        answer = good if label else bad
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        yield {"messages": messages, "label": label}
