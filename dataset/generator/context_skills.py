"""Skills whose answers follow from what stands in the prompt: lists, little stories, numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from generator.cases import Case, Part, Skill, split_keys
from generator.words import COLOURS, LETTER_WORDS, NAMES, PLACES, THINGS

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


def _printed(rng: Random, part: Part) -> Case:
    first, second = rng.sample(LETTER_WORDS, 2)
    wrong = tuple(f'print("{a} {b}")' for a in (first, second) for b in LETTER_WORDS if (a, b) != (first, second))
    return Case("printed", {"first": first, "second": second}, f'print("{first} {second}")', wrong)


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


_sum = _arithmetic("sum", [(a, b) for a in range(1, 13) for b in range(1, min(a, 9) + 1)], 1)
_difference = _arithmetic("difference", [(a, b) for a in range(2, 19) for b in range(1, 10) if 0 < a - b < 10], -1)


def _ordered(rng: Random, part: Part) -> Case:
    digits = [str(n) for n in rng.sample(range(1, 10), 3)]
    wrong = (" ".join(sorted(digits, reverse=True)), " ".join(digits), " ".join([*digits[1:], digits[0]]))
    answer = " ".join(sorted(digits))
    return Case("ordered", {"numbers": " ".join(digits)}, answer, tuple(w for w in wrong if w != answer))


def _told(
    name: str, slot: str, sentence: str, asked: tuple[str, ...], answers: tuple[str, ...]
) -> tuple[Draw, Callable[[Random], list[Case]]]:
    """Three facts of one form, and the question about one of them."""

    def tell(rng: Random) -> list[Case]:
        keys, values = rng.sample(asked, 3), rng.sample(answers, 3)
        story = " ".join(sentence.format(key, value) for key, value in zip(keys, values, strict=True))
        return [
            Case(name, {"story": story, slot: key}, value, tuple(other for other in values if other != value))
            for key, value in zip(keys, values, strict=True)
        ]

    return lambda rng, part: rng.choice(tell(rng)), tell


_owner, _tell_owner = _told("owner", "thing", "The {} belongs to {}.", THINGS, NAMES)
_colour, _tell_colour = _told("colour", "thing", "The {} is {}.", THINGS, COLOURS)
_place, _tell_place = _told("place", "name", "{} is in the {}.", NAMES, PLACES)


CONTEXT_SKILLS: tuple[Skill, ...] = (
    Skill(
        "first",
        _picked("first", 0),
        statements=(
            "In the list {words} the first word is {answer}.",
            "First of {words}: {answer}.",
            "They said {words}. It started with {answer}.",
        ),
        remarks=(("My list is {words}.", "Your list starts with {answer}."),),
        requests=(
            ("Which word comes first?", "{words}"),
            ("Name the first word of the list.", "{words}"),
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
        ),
        remarks=(("My list is {words}.", "Your list ends with {answer}."),),
        requests=(
            ("Which word comes last?", "{words}"),
            ("Name the last word of the list.", "{words}"),
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
        ),
        remarks=(("A parrot said {word} {times} times.", "So it said {answer}."),),
        requests=(
            ("Say the word {times} times.", "{word}"),
            ("Write {word} {times} times.", ""),
            ("Repeat {word} so that it stands there {times} times.", ""),
        ),
        weight=0.8,
    ),
    Skill(
        "printed",
        _printed,
        statements=(
            "The line that shows {first} {second} is {answer}",
            "# show {first} {second}\n{answer}",
            "To show {first} {second} on the screen, the program says {answer}",
        ),
        remarks=(("My program shows {first} {second}.", "The line for that is {answer}"),),
        requests=(
            ("Write a line of Python that prints the words.", "{first} {second}"),
            ("Print {first} {second} in Python.", ""),
            ("Which Python call prints {first} {second}?", ""),
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
        ),
        remarks=(("I have {a} coins and get {b} more.", "Then there are {answer} coins."),),
        requests=(
            ("Add the two numbers.", "{a} and {b}"),
            ("What is {a} plus {b}?", ""),
            ("Calculate.", "{a} + {b}"),
        ),
        corpus_weight=1.5,
    ),
    Skill(
        "difference",
        _difference,
        statements=(
            "{a} - {b} = {answer}.",
            "{a} minus {b} is {answer}.",
            "From {a} coins {b} were lost, so there are {answer} coins.",
        ),
        remarks=(("I had {a} coins and lost {b}.", "So there are {answer} coins."),),
        requests=(
            ("Take the second number from the first.", "{a} and {b}"),
            ("What is {a} minus {b}?", ""),
            ("Calculate.", "{a} - {b}"),
        ),
        corpus_weight=1.5,
    ),
    Skill(
        "ordered",
        _ordered,
        statements=(
            "The numbers {numbers} in order are {answer}.",
            "In order, {numbers}: {answer}.",
            "They drew {numbers} and laid them in order: {answer}.",
        ),
        remarks=(("I drew the numbers {numbers}.", "Laid in order they are {answer}."),),
        requests=(
            ("Put the numbers in order.", "{numbers}"),
            ("Sort {numbers} from small to large.", ""),
        ),
        corpus_weight=1.3,
    ),
    Skill(
        "owner",
        _owner,
        statements=(
            "{story} So the {thing} is with {answer}.",
            "{story} If you want the {thing}, ask {answer}.",
            "{story} Owner of the {thing}: {answer}.",
        ),
        remarks=(("{story} I need the {thing}.", "If you want the {thing}, ask {answer}."),),
        requests=(
            ("Whose {thing} is it?", "{story}"),
            ("{story} Name the owner of the {thing}.", ""),
        ),
        corpus_weight=1.5,
        tell=_tell_owner,
    ),
    Skill(
        "colour",
        _colour,
        statements=(
            "{story} So the colour of the {thing} was {answer}.",
            "{story} They painted the {thing} in {answer}.",
            "{story} Colour of the {thing}: {answer}.",
        ),
        remarks=(("{story} I like the {thing}.", "The colour of the {thing} is {answer}."),),
        requests=(
            ("What colour is the {thing}?", "{story}"),
            ("{story} Name the colour of the {thing}.", ""),
        ),
        corpus_weight=1.5,
        tell=_tell_colour,
    ),
    Skill(
        "place",
        _place,
        statements=(
            "{story} To meet {name}, go to the {answer}.",
            "{story} So {name} was found in the {answer}.",
            "{story} Place of {name}: {answer}.",
        ),
        remarks=(("{story} I look for {name}.", "To meet {name}, go to the {answer}."),),
        requests=(
            ("Where is {name}?", "{story}"),
            ("{story} Name the place where {name} is.", ""),
        ),
        corpus_weight=1.5,
        tell=_tell_place,
    ),
)
