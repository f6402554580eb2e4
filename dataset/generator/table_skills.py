"""Skills whose answers come from a table: the model has to know them, no prompt contains them."""

from __future__ import annotations

from generator.cases import Skill, table_skill
from generator.words import CAPITALS, LETTER_WORDS, PASTS, PLURALS, kinds, opposites


def spelled(word: str) -> str:
    """The letters joined by dashes, so that each letter is a token of its own: ``cat`` -> ``c-a-t``."""
    return "-".join(word)


_SPELL = tuple((word, spelled(word)) for word in LETTER_WORDS)
_BACKWARDS = tuple((word, spelled(word[::-1])) for word in LETTER_WORDS)

TABLE_SKILLS: tuple[Skill, ...] = (
    table_skill(
        "opposite",
        opposites(),
        statements=(
            "The opposite of {word} is {answer}.",
            "Opposite of {word}: {answer}.",
            "What is not {word} may be {answer}.",
            "{Word} is the opposite, as everyone knows, of {answer}.",
            "Opposite of {word}:\n{answer}",
        ),
        remarks=(
            ("Tell me about the word {word}.", "The opposite of {word} is {answer}."),
            ("I learned the word {word} today.", "Good. Its opposite is {answer}."),
            ("Opposite of {word}:", "{answer}, I believe."),
            ("Let us talk about {word} and its opposite.", "{answer}, I believe."),
        ),
        requests=(
            ("What is the opposite of {word}?", ""),
            ("Give the opposite of this word.", "Word: {word}"),
            ("Which word means the opposite of {word}?", ""),
            ("Name the opposite.", "Word: {word}"),
        ),
    ),
    table_skill(
        "plural",
        PLURALS,
        statements=(
            "One {word}, two {answer}.",
            "The plural of {word} is {answer}.",
            "Plural of {word}: {answer}.",
            "There was one {word}, and soon there were many {answer}.",
            "Plural of {word}:\n{answer}",
        ),
        remarks=(
            ("I have one {word}.", "Then you may soon have two {answer}."),
            ("Here comes the word {word} again.", "Its plural is {answer}."),
            ("Plural of {word}:", "{answer}, I believe."),
            ("One {word} is here, and now there are two.", "{answer}, I believe."),
        ),
        requests=(
            ("What is the plural of {word}?", ""),
            ("Write the plural of this noun.", "Noun: {word}"),
            ("Give the plural form.", "Noun: {word}"),
            ("How do you call more than one {word}?", ""),
        ),
    ),
    table_skill(
        "past",
        PASTS,
        statements=(
            "Today they {word}, yesterday they {answer}.",
            "The past of {word} is {answer}.",
            "Past of {word}: {answer}.",
            "To {word} is easy; last week we all {answer}.",
            "Past of {word}:\n{answer}",
        ),
        remarks=(
            ("I like to {word}.", "I know. Yesterday you {answer} too."),
            ("We will {word} tomorrow.", "The past of {word} is {answer}."),
            ("Past of {word}:", "{answer}, I believe."),
            ("Today we {word}, and yesterday we did the same.", "{answer}, I believe."),
        ),
        requests=(
            ("What is the past tense of {word}?", ""),
            ("Put this verb into the past.", "Verb: {word}"),
            ("Give the past form of the verb.", "Verb: {word}"),
            ("Today I {word}. Which verb form fits yesterday?", ""),
        ),
    ),
    table_skill(
        "capital",
        CAPITALS,
        statements=(
            "The capital of {word} is {answer}.",
            "Capital of {word}: {answer}.",
            "In {word} the capital is called {answer}.",
            "Whoever travels to {word} should see its capital, {answer}.",
            "Capital of {word}:\n{answer}",
        ),
        remarks=(
            ("I am going to {word}.", "Then you should see its capital, {answer}."),
            ("I read a book about {word}.", "The capital of {word} is {answer}."),
            ("Capital of {word}:", "{answer}, I believe."),
            ("I have been to the capital of {word}.", "{answer}, I believe."),
        ),
        requests=(
            ("What is the capital of {word}?", ""),
            ("Name the capital of this country.", "Country: {word}"),
            ("Which city is the capital of {word}?", ""),
            ("Give the capital city.", "Country: {word}"),
        ),
    ),
    table_skill(
        "kind",
        kinds(),
        statements=(
            "The word {word} names a kind of {answer}.",
            "Kind of thing, {word}: {answer}.",
            "{Word} belongs with the others of its kind: {answer}.",
            "If it is called {word}, its kind is {answer}.",
            "Kind of thing, {word}:\n{answer}",
        ),
        remarks=(
            ("I saw the word {word} on a sign.", "The word {word} names a kind of {answer}."),
            ("They talked about {word}.", "That is a kind of {answer}."),
            ("Kind of thing, {word}:", "{answer}, I believe."),
            ("I wonder about {word} and its kind.", "{answer}, I believe."),
        ),
        requests=(
            ("What kind of thing is {word}?", ""),
            ("To which group does this belong?", "Thing: {word}"),
            ("Name the kind.", "Thing: {word}"),
        ),
        weight=0.6,
    ),
    table_skill(
        "spell",
        _SPELL,
        statements=(
            "The word {word} is spelled {answer}.",
            "Letters of {word}: {answer}.",
            "To spell {word}, say {answer}.",
            "{Word} has these letters: {answer}.",
            "Letters of {word}:\n{answer}",
        ),
        remarks=(
            ("I can read the word {word}.", "It is spelled {answer}."),
            ("The child wrote {word} on the wall.", "The letters of {word} are {answer}."),
            ("Letters of {word}:", "{answer}, I believe."),
            ("Let us spell {word}.", "{answer}, I believe."),
        ),
        requests=(
            ("Spell the word {word}.", ""),
            ("Spell this word with dashes.", "Word: {word}"),
            ("Which letters make the word {word}?", ""),
            ("List the letters.", "Word: {word}"),
        ),
        corpus_weight=1.3,
    ),
    table_skill(
        "backwards",
        _BACKWARDS,
        statements=(
            "The word {word} backwards is {answer}.",
            "Backwards letters of {word}: {answer}.",
            "Read {word} from its end and you get {answer}.",
            "In the mirror {word} turns into {answer}.",
            "Backwards letters of {word}:\n{answer}",
        ),
        remarks=(
            ("I saw {word} in a mirror.", "In the mirror {word} turns into {answer}."),
            ("They read {word} from the wrong side.", "The word {word} backwards is {answer}."),
            ("Backwards letters of {word}:", "{answer}, I believe."),
            ("Let us read {word} from its end.", "{answer}, I believe."),
        ),
        requests=(
            ("Spell {word} backwards.", ""),
            ("Write this word backwards, with dashes.", "Word: {word}"),
            ("What does {word} look like from back to front?", ""),
            ("Reverse the letters.", "Word: {word}"),
        ),
        corpus_weight=1.5,
    ),
)
