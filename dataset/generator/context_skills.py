"""Skills whose answers follow from what stands in the prompt: lists, little stories, numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from generator.cases import Case, Part, Skill
from generator.words import COLOURS, LETTER_WORDS, NAMES, PLACES, THINGS

Draw = Callable[[Random, Part], Case]

NUMBER_NAMES = ("zero", "one", "two", "three", "four", "five")


def _picked(name: str, index: int) -> Draw:
    """The first or last of three to five words."""

    def draw(rng: Random, part: Part) -> Case:
        words = rng.sample(LETTER_WORDS, rng.randint(3, 5))
        return Case(name, {"words": ", ".join(words)}, words[index], tuple(w for w in words if w != words[index]))

    return draw


def _turned(rng: Random, part: Part) -> Case:
    words = rng.sample(LETTER_WORDS, 3)
    orders = ((1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1))
    wrong = tuple(" ".join(words[i] for i in order) for order in orders)
    return Case("turned", {"words": " ".join(words)}, " ".join(reversed(words)), wrong)


def _repeat(rng: Random, part: Part) -> Case:
    word, times = rng.choice(LETTER_WORDS), rng.randint(2, 4)
    wrong = tuple(" ".join([other] * times) for other in LETTER_WORDS if other != word)
    return Case("repeat", {"word": word, "times": NUMBER_NAMES[times]}, " ".join([word] * times), wrong)


def _printed(rng: Random, part: Part) -> Case:
    first, second = rng.sample(LETTER_WORDS, 2)
    wrong = tuple(f'print("{a} {b}")' for a in (first, second) for b in LETTER_WORDS if (a, b) != (first, second))
    return Case("printed", {"first": first, "second": second}, f'print("{first} {second}")', wrong)


def _sum(rng: Random, part: Part) -> Case:
    a, b = rng.randint(1, 20), rng.randint(1, 9)
    wrong = tuple(str(a + b + step) for step in (-2, -1, 1, 2, 10) if a + b + step > 0)
    return Case("sum", {"a": str(a), "b": str(b)}, str(a + b), wrong)


def _difference(rng: Random, part: Part) -> Case:
    b = rng.randint(1, 9)
    a = b + rng.randint(1, 15)
    wrong = tuple(str(a - b + step) for step in (-2, -1, 1, 2, 10) if a - b + step > 0)
    return Case("difference", {"a": str(a), "b": str(b)}, str(a - b), wrong)


def _largest(rng: Random, part: Part) -> Case:
    numbers = rng.sample(range(10, 100), 3)
    answer = str(max(numbers))
    return Case(
        "largest", {"numbers": ", ".join(map(str, numbers))}, answer, tuple(str(n) for n in numbers if str(n) != answer)
    )


def _ordered(rng: Random, part: Part) -> Case:
    digits = [str(n) for n in rng.sample(range(1, 10), 3)]
    wrong = (" ".join(sorted(digits, reverse=True)), " ".join(digits), " ".join([*digits[1:], digits[0]]))
    answer = " ".join(sorted(digits))
    return Case("ordered", {"numbers": " ".join(digits)}, answer, tuple(w for w in wrong if w != answer))


def _owner(rng: Random, part: Part) -> Case:
    names, things = rng.sample(NAMES, 3), rng.sample(THINGS, 3)
    at = rng.randrange(3)
    story = " ".join(f"{name} has the {thing}." for name, thing in zip(names, things))
    return Case("owner", {"story": story, "thing": things[at]}, names[at], tuple(n for n in names if n != names[at]))


def _colour(rng: Random, part: Part) -> Case:
    things, colours = rng.sample(THINGS, 3), rng.sample(COLOURS, 3)
    at = rng.randrange(3)
    story = " ".join(f"The {thing} is {colour}." for thing, colour in zip(things, colours))
    others = tuple(c for c in colours if c != colours[at])
    return Case("colour", {"story": story, "thing": things[at]}, colours[at], others)


def _place(rng: Random, part: Part) -> Case:
    names, places = rng.sample(NAMES, 3), rng.sample(PLACES, 3)
    at = rng.randrange(3)
    story = " ".join(f"{name} is in the {place}." for name, place in zip(names, places))
    return Case("place", {"story": story, "name": names[at]}, places[at], tuple(p for p in places if p != places[at]))


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
        "turned",
        _turned,
        statements=(
            "The words {words} in turned order are {answer}.",
            "Turned order of {words}: {answer}.",
            "First came {words}, then on the way back {answer}.",
        ),
        remarks=(("I passed {words}.", "On the way back you pass {answer}."),),
        requests=(
            ("Put these words in turned order.", "{words}"),
            ("Write the three words from last to first.", "{words}"),
            ("What is {words} in turned order?", ""),
        ),
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
        "largest",
        _largest,
        statements=(
            "Among {numbers} the largest is {answer}.",
            "Largest of {numbers}: {answer}.",
            "They counted {numbers}, and the most was {answer}.",
        ),
        remarks=(("We counted {numbers}.", "The most was {answer}."),),
        requests=(
            ("Which number is the largest?", "{numbers}"),
            ("Name the largest of {numbers}.", ""),
        ),
        weight=0.8,
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
            ("Who has the {thing}?", "{story}"),
            ("{story} Name the person with the {thing}.", ""),
        ),
        corpus_weight=1.5,
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
    ),
)
