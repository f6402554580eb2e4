"""The pre-training corpus: notes that state skills, stories, lists, code-like lines and chats."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from generator.cases import Skill, capital
from generator.chat import chat_document
from generator.context_skills import CONTEXT_SKILLS
from generator.table_skills import TABLE_SKILLS
from generator.words import COLOURS, DAYS, FOODS, HOBBIES, LETTER_WORDS, NAMES, PLACES, THINGS, WEATHER

SKILLS: tuple[Skill, ...] = TABLE_SKILLS + CONTEXT_SKILLS
_CORPUS_WEIGHTS = tuple(skill.corpus_weight for skill in SKILLS)

# (kind of document, share). Notes carry the skills, chats the marks; the rest is there so that it reads as a corpus.
_KINDS = (
    ("notes", 0.46),
    ("word", 0.25),
    ("facts", 0.02),
    ("chat", 0.17),
    ("story", 0.04),
    ("list", 0.03),
    ("code", 0.03),
)

_BY_WORD: dict[str, list[Skill]] = {}
for _skill in TABLE_SKILLS:
    for _word in _skill.words:
        _BY_WORD.setdefault(_word, []).append(_skill)
_WORDS = tuple(_BY_WORD)
_TELLERS = tuple(skill for skill in CONTEXT_SKILLS if skill.tell)


def _joined(rng: Random, sentences: list[str]) -> str:
    """The sentences in a row or one a line. What stands on two lines (an answer below its heading) ends its line."""
    gap = rng.choice(("\n", " "))
    pieces = [capital(sentence) + ("\n" if "\n" in sentence else gap) for sentence in sentences]
    return "".join(pieces).rstrip()


def _notes(rng: Random) -> str:
    sentences = []
    for _ in range(rng.randint(3, 9)):
        skill = rng.choices(SKILLS, _CORPUS_WEIGHTS)[0]
        sentences.append(skill.draw(rng, "all").fill(rng.choice(skill.statements)))
    return _joined(rng, sentences)


def _word(rng: Random) -> str:
    """What there is to say about one word. As the word returns in each line, copying is learned here first."""
    sentences: list[str] = []
    for word in rng.sample(_WORDS, rng.randint(1, 2)):
        lines = []
        for skill in _BY_WORD[word]:
            assert skill.about is not None
            case = skill.about(word)
            lines += [case.fill(text) for text in rng.sample(skill.statements, rng.randint(1, 3))]
        rng.shuffle(lines)
        sentences += lines
    return _joined(rng, sentences[:9])


def _facts(rng: Random) -> str:
    """One or two little stories, and all that follows from each."""
    parts = []
    for _ in range(rng.randint(1, 2)):
        skill = rng.choice(_TELLERS)
        assert skill.tell is not None
        cases = skill.tell(rng)
        parts.append(cases[0].slots["story"])
        for case in rng.sample(cases, 3):
            parts.append(case.fill(rng.choice(skill.statements).replace("{story} ", "")))
    return _joined(rng, parts)


def _story(rng: Random) -> str:
    hero, friend = rng.sample(NAMES, 2)
    thing, gift = rng.sample(THINGS, 2)
    place, goal = rng.sample(PLACES, 2)
    colour, weather, day = rng.choice(COLOURS), rng.choice(WEATHER), rng.choice(DAYS)
    food, hobby = rng.choice(FOODS), rng.choice(HOBBIES)
    opening = rng.choice(
        (
            f"On a {weather} {day} {hero} went to the {place}.",
            f"It was {day} and the weather was {weather}. {hero} was in the {place}.",
            f"{hero} and {friend} lived near the {place}.",
        )
    )
    middle = rng.sample(
        (
            f"There {hero} found a {colour} {thing}.",
            f"{friend} was there too and talked about {hobby}.",
            f"They sat down and had {food}.",
            f"{friend} asked for the {thing}, and {hero} smiled.",
            f"Nobody knew who had left the {gift} at the {goal}.",
            f"{hero} liked {hobby} more than anything else.",
            f"{hero} gave {friend} a {gift} and got a {thing} back.",
        ),
        rng.randint(2, 5),
    )
    ending = rng.choice(
        (
            f"In the evening they walked to the {goal} together.",
            f"Then {hero} went home and {friend} stayed at the {goal}.",
            f"So the {thing} came to the {goal}, and all was well.",
        )
    )
    return " ".join([opening, *middle, ending])


def _list(rng: Random) -> str:
    title, table = rng.choice(
        (
            ("Things to pack", THINGS),
            ("Food to buy", FOODS),
            ("Places to see", PLACES),
            ("People to write to", NAMES),
            ("Words of the week", LETTER_WORDS),
        )
    )
    items = rng.sample(table, rng.randint(3, 6))
    numbered = rng.random() < 0.5
    lines = [f"{number}. {item}" if numbered else f"- {item}" for number, item in enumerate(items, 1)]
    return "\n".join([f"{title}:", *lines])


def _code(rng: Random) -> str:
    first, second = rng.sample(LETTER_WORDS, 2)
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return rng.choice(
        (
            f"{first} = {a}\n{second} = {first} + {b}\nprint({second})  # shows {a + b}",
            f"def {first}({second}):\n    return {second} + {a}\n\n\nprint({first}({b}))  # shows {a + b}",
            f'words = ["{first}", "{second}"]\nfor word in words:\n    print(word)',
            f'print("{first}")\nprint("{second}")',
            f'if "{first}" in {second}:\n    {second} = {a}\nelse:\n    {second} = {b}',
        )
    )


_MAKERS = {"notes": _notes, "word": _word, "facts": _facts, "story": _story, "list": _list, "code": _code}


def lexicon() -> list[str]:
    """Every answer and every word that a table, list or story asks about, once each, in a fixed order."""
    words: list[str] = [*LETTER_WORDS, *THINGS, *COLOURS]
    for skill in TABLE_SKILLS:
        for word in skill.words:
            assert skill.about is not None
            words += [word, skill.about(word).answer]
    return list(dict.fromkeys(word for word in words if word.isalpha()))


def document(seed: int, index: int) -> str:
    """Document ``index``. Each has its own random stream, so a longer corpus starts with the shorter one."""
    rng = Random(f"tiny corpus {seed} {index}")
    kind = rng.choices([name for name, _ in _KINDS], [share for _, share in _KINDS])[0]
    if kind == "chat":
        return chat_document(rng, SKILLS, _CORPUS_WEIGHTS)
    return _MAKERS[kind](rng)


def documents(seed: int, count: int) -> Iterator[str]:
    """The first ``count`` documents of the corpus of ``seed``."""
    for index in range(count):
        yield document(seed, index)
