"""What people call their columns, the keys of their messages, and those who speak in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Columns of one format that are spellings of one thing.
ALTERNATIVES = (
    ("prompt", "instruction", "messages", "conversations"),
    ("completion", "output", "response"),
    ("answer", "ground_truth"),
    ("text", "training_content"),
)

_QUESTION = ("question", "query", "prompt", "instruction", "problem", "task", "user", "human", "ask", "q", "input")
_ANSWER = (
    "answer", "response", "output", "completion", "target", "reply", "solution", "assistant", "answers", "model_output",
    "bot", "a",
)  # fmt: skip
_TURNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "dialogues", "turns", "chat")

SYNONYMS: dict[str, tuple[str, ...]] = {
    "instruction": _QUESTION,
    "prompt": _QUESTION,
    "output": _ANSWER,
    "completion": _ANSWER,
    "response": _ANSWER,
    "messages": _TURNS,
    "conversations": _TURNS,
    "input": ("context", "background", "passage"),
    "context": ("input", "background", "passage", "document"),
    "system": ("system_prompt", "system_message", "sys"),
    "tools": ("functions", "apis", "tool_definitions"),
    "chosen": (
        "better", "preferred", "accepted", "winner", "good", "best", "positive", "chosen_response", "response_chosen",
        "response_j",
    ),
    "rejected": (
        "worse", "dispreferred", "loser", "bad", "worst", "negative", "rejected_response", "response_rejected",
        "response_k",
    ),
    "label": ("kto_tag", "is_good", "good", "desirable", "is_desirable", "liked", "thumbs_up"),
    "answer": ("gold", "expected", "reference_answer", "final_answer", "target", "solution"),
    "text": ("content", "body", "document", "code", "passage", "article", "story", "raw"),
}  # fmt: skip

_ROLE_KEYS = ("role", "from", "speaker", "author", "sender", "who", "type")
_CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "body", "say")
_SPEAKERS: dict[str, tuple[str, ...]] = {
    "user": ("user", "human", "customer", "client", "prompter", "question", "student", "patient"),
    "assistant": ("assistant", "gpt", "bot", "model", "ai", "agent", "chatgpt", "chatbot", "answer", "doctor"),
    "observation": ("observation", "tool", "tool_response", "function_response", "ipython"),
    "function": ("function_call", "tool_call"),
    "system": ("system",),
}
_OWN = {
    "sharegpt": {"role": "from", "content": "value", "user": "human", "assistant": "gpt", "system": "system",
                 "observation": "observation", "function": "function_call"},
    "messages": {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "system": "system",
                 "observation": "tool"},
}  # fmt: skip


def guess_tags(rows: Sequence[Mapping[str, Any]], format_: str, columns: Mapping[str, str | None]) -> dict[str, str]:
    """Return the ``data.tags`` that a conversation format's lists need; empty where its own words are used."""
    own = _OWN.get(format_)
    column = "conversations" if format_ == "sharegpt" else "messages"
    name = columns.get(column, column)
    if own is None or name is None:
        return {}
    lists = [row.get(name) for row in rows]
    turns = [turn for value in lists if isinstance(value, list) for turn in value if isinstance(turn, dict)]
    keys = Counter(key for turn in turns for key in turn)
    role = next((key for key in _ROLE_KEYS if keys[key] == len(turns)), None)
    content = next((key for key in _CONTENT_KEYS if keys[key] == len(turns) and key != role), None)
    if not turns or role is None or content is None:
        return {}
    said = Counter(turn[role] for turn in turns if isinstance(turn[role], str))
    found = {"role": role, "content": content}
    for tag, words in _SPEAKERS.items():
        known = [word for word, _ in said.most_common() if word.lower() in words]
        found |= {tag: known[0]} if known else {}
    return {tag: word for tag, word in found.items() if own.get(tag) != word}
