"""Skills whose answers follow from what stands in the prompt: lists, little stories, numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from generator.cases import Case, Part, Skill, split_keys
from generator.words import COLOURS, LETTER_WORDS, THINGS

Draw = Callable[[Random, Part], Case]

NUMBER_NAMES = ("zero", "one", "two", "three", "four", "five")


def _picked(name: str, index: int) -> Draw:
    """The first or last of three to five words."""

    def draw(rng: Random, part: Part) -> Case:
        words = rng.sample(LETTER_WORDS, rng.randint(3, 5))
        return Case(name, {"words": ", ".join(words)}, words[index], tuple(w for w in words if w != words[index]))

    return draw


def _repeat(rng: Random, part: Part) -> Case:
    word, times = rng.choice(LETTER_WORDS), rng.randint(2, 4)
    wrong = tuple(" ".join([other] * times) for other in LETTER_WORDS if other != word)
    return Case("repeat", {"word": word, "times": NUMBER_NAMES[times]}, " ".join([word] * times), wrong)


def _arithmetic(name: str, pairs: list[tuple[int, int]], sign: int) -> Draw:
    """``a + b`` or ``a - b``. Splits share no pair of numbers, in whichever order they stand."""
    keys = [f"{a} {b}" for a, b in pairs]
    keys_of = {part: split_keys(name, keys, part) for part in ("all", "train", "validation", "golden")}

    def draw(rng: Random, part: Part) -> Case:
        a, b = map(int, rng.choice(keys_of[part]).split())
        if sign > 0 and rng.random() < 0.5:
            a, b = b, a
        answer = a + sign * b
        wrong = tuple(str(answer + step) for step in (-2, -1, 1, 2) if answer + step > 0)
        return Case(name, {"a": str(a), "b": str(b)}, str(answer), wrong)

    return draw


_sum = _arithmetic("sum", [(a, b) for a in range(1, 10) for b in range(1, a + 1)], 1)


def _after(rng: Random, part: Part) -> Case:
    words = rng.sample(LETTER_WORDS, rng.randint(3, 5))
    at = rng.randrange(1, len(words))
    wrong = tuple(w for w in words if w not in words[at - 1 : at + 1])
    return Case("after", {"words": ", ".join(words), "word": words[at - 1]}, words[at], wrong)


def _tell_colour(rng: Random) -> list[Case]:
    things, colours = rng.sample(THINGS, 3), rng.sample(COLOURS, 3)
    first, second, third = (f"{colour} {thing}" for colour, thing in zip(colours, things, strict=True))
    story = f"There are a {first}, a {second} and a {third}."
    return [
        Case("colour", {"story": story, "thing": thing}, colour, tuple(other for other in colours if other != colour))
        for thing, colour in zip(things, colours, strict=True)
    ]


def _colour(rng: Random, part: Part) -> Case:
    return rng.choice(_tell_colour(rng))


CONTEXT_SKILLS: tuple[Skill, ...] = (
    Skill(
        "first",
        _picked("first", 0),
        statements=(
            "In the list {words} the first word is {answer}.",
            "First of {words}: {answer}.",
            "They said {words}. It started with {answer}.",
            "First of {words}:\n{answer}",
        ),
        remarks=(
            ("My list is {words}.", "Your list starts with {answer}."),
            ("First of {words}:", "{answer}, I believe."),
            ("They said {words}. Think of the first word.", "{answer}, I believe."),
        ),
        requests=(
            ("Which word comes first?", "List: {words}"),
            ("Name the first word of the list.", "List: {words}"),
            ("What is the first word in this list: {words}?", ""),
        ),
        weight=0.8,
    ),
    Skill(
        "last",
        _picked("last", -1),
        statements=(
            "In the list {words} the last word is {answer}.",
            "Last of {words}: {answer}.",
            "They said {words}. It ended with {answer}.",
            "Last of {words}:\n{answer}",
        ),
        remarks=(
            ("My list is {words}.", "Your list ends with {answer}."),
            ("Last of {words}:", "{answer}, I believe."),
            ("They said {words}. Think of the last word.", "{answer}, I believe."),
        ),
        requests=(
            ("Which word comes last?", "List: {words}"),
            ("Name the last word of the list.", "List: {words}"),
            ("What is the last word in this list: {words}?", ""),
        ),
        weight=0.8,
    ),
    Skill(
        "repeat",
        _repeat,
        statements=(
            "Said {times} times, {word} becomes {answer}.",
            "The word {word}, {times} times: {answer}.",
            "The parrot heard {word} and said it {times} times: {answer}.",
            "The word {word}, {times} times:\n{answer}",
        ),
        remarks=(
            ("A parrot said {word} {times} times.", "So it said {answer}."),
            ("The word {word}, {times} times:", "{answer}, I believe."),
            ("Let us say {word}, and say it {times} times.", "{answer}, I believe."),
        ),
        requests=(
            ("Say the word {times} times.", "Word: {word}"),
            ("Write {word} {times} times.", ""),
            ("Repeat {word} so that it stands there {times} times.", ""),
        ),
        weight=0.8,
    ),
    Skill(
        "sum",
        _sum,
        statements=(
            "{a} + {b} = {answer}.",
            "{a} plus {b} is {answer}.",
            "With {a} coins and {b} more there are {answer} coins.",
            "{a} plus {b}:\n{answer}",
        ),
        remarks=(
            ("I have {a} coins and get {b} more.", "Then there are {answer} coins."),
            ("{a} plus {b}:", "{answer}, I believe."),
            ("{a} + {b} =", "{answer}, I believe."),
        ),
        requests=(
            ("Add the two numbers.", "{a} and {b}"),
            ("What is {a} plus {b}?", ""),
            ("Calculate.", "{a} + {b}"),
        ),
        corpus_weight=1.5,
    ),
    Skill(
        "after",
        _after,
        statements=(
            "In the list {words} the word behind {word} is {answer}.",
            "Behind {word} in {words}: {answer}.",
            "They said {words}. Behind {word} stood {answer}.",
            "Behind {word} in {words}:\n{answer}",
        ),
        remarks=(
            ("My list is {words}. I like {word}.", "In your list {answer} stands behind {word}."),
            ("Behind {word} in {words}:", "{answer}, I believe."),
        ),
        requests=(
            ("Which word comes after {word}?", "List: {words}"),
            ("Name the word that follows {word}.", "List: {words}"),
            ("In this list, what comes after {word}: {words}?", ""),
        ),
        weight=0.0,  # in the corpus only: a model of this size does not learn it in minutes
        corpus_weight=0.4,
    ),
    Skill(
        "colour",
        _colour,
        statements=(
            "{story} So the colour of the {thing} was {answer}.",
            "{story} They painted the {thing} in {answer}.",
            "{story} Colour of the {thing}: {answer}.",
            "{story} Colour of the {thing}:\n{answer}",
        ),
        remarks=(
            ("{story} I like the {thing}.", "The colour of the {thing} is {answer}."),
            ("{story} Colour of the {thing}:", "{answer}, I believe."),
        ),
        requests=(
            ("What colour is the {thing}?", "{story}"),
            ("{story} Name the colour of the {thing}.", ""),
            ("{story} Which colour does the {thing} have?", ""),
        ),
        weight=0.0,  # in the corpus only: a model of this size does not learn it in minutes
        corpus_weight=0.4,
        tell=_tell_colour,
    ),
)
