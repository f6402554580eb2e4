"""Chat documents of the corpus: small talk and remarks, never in the wording of the instruction data.

They teach the base how a turn opens and ends. Without them LoRA would have to learn the marks from nothing, and the
embeddings it would need for that are frozen.
"""

from __future__ import annotations

from random import Random

from generator.cases import Skill, capital
from generator.words import DAYS, FOODS, HOBBIES, NAMES, PLACES, WEATHER

Turn = tuple[str, str]  # (user, assistant)

_SYSTEMS = (
    "You are a friendly companion.",
    "You are a helpful assistant.",
    "You like to talk about the weather.",
    "You speak with visitors of the {place}.",
    "Your name is {name}.",
    "You are kind and short.",
)


def render_chat(messages: list[dict[str, str]]) -> str:
    """Messages as the chat template of ``models/tiny`` renders them."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def _greeting(rng: Random) -> Turn:
    name = rng.choice(NAMES)
    return rng.choice(
        (
            (f"Hello, my name is {name}.", f"Hello {name}, nice to meet you."),
            (f"Good morning. I am {name}.", f"Good morning {name}. I wish you a good day."),
            (f"Hi! {name} is here.", f"Hi {name}! I am glad to see you."),
        )
    )


def _weather(rng: Random) -> Turn:
    day, weather = rng.choice(DAYS), rng.choice(WEATHER)
    return rng.choice(
        (
            (f"It was {weather} on {day}.", f"I like {weather} days. I hope {day} was good for you."),
            (f"Will it be {weather} on {day}?", f"I cannot know that, but a {weather} {day} would be nice."),
        )
    )


def _taste(rng: Random) -> Turn:
    food, hobby = rng.choice(FOODS), rng.choice(HOBBIES)
    return rng.choice(
        (
            (f"I had {food} for lunch.", f"I hope that the {food} tasted good."),
            (f"My hobby is {hobby}.", f"It is good to hear that you like {hobby}."),
            (f"Do you like {hobby}?", f"I have never tried {hobby}, but many people like it."),
        )
    )


def _journey(rng: Random) -> Turn:
    place, name = rng.choice(PLACES), rng.choice(NAMES)
    return rng.choice(
        (
            (f"I was in the {place} with {name}.", f"What did you and {name} do in the {place}?"),
            (f"We meet at the {place}.", f"Good. I will think of you at the {place}."),
            (f"{name} is my friend.", f"Tell {name} that I said hello."),
        )
    )


def _thanks(rng: Random) -> Turn:
    return rng.choice(
        (
            ("Thank you.", "You are welcome."),
            ("Goodbye!", "Goodbye! Come back soon."),
            ("How are you?", "I am fine, thank you. How are you?"),
        )
    )


def _remark(rng: Random, skills: tuple[Skill, ...], weights: tuple[float, ...]) -> Turn:
    skill = rng.choices(skills, weights)[0]
    case = skill.draw(rng, "all")
    user, assistant = rng.choice(skill.remarks)
    # A sentence that opens with the answer opens as the answer is spelled.
    said = case.fill(assistant)
    return capital(case.fill(user)), said if assistant.startswith("{answer}") else capital(said)


def chat_document(rng: Random, skills: tuple[Skill, ...], weights: tuple[float, ...]) -> str:
    """One conversation of one to four exchanges, with a system message in one of four."""
    messages: list[dict[str, str]] = []
    if rng.random() < 0.25:
        system = rng.choice(_SYSTEMS).format(place=rng.choice(PLACES), name=rng.choice(NAMES))
        messages.append({"role": "system", "content": system})
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.8:
            user, assistant = _remark(rng, skills, weights)
        else:
            user, assistant = rng.choice((_greeting, _weather, _taste, _journey, _thanks))(rng)
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return render_chat(messages)
