"""What the curriculum's source files are built from: functions, and the edits that their history consists of.

Placeholders are ``<name>``: braces belong to the languages. An edit replaces one exact piece of its function, so every
diff made from it applies.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One change of a function: what it replaces, how a commit explains it and what a reviewer says who wants it."""

    old: str
    new: str
    subject: str
    body: str
    review: str


@dataclass(frozen=True)
class Function:
    """A function of one language with the edits that it may receive (each applies on its own and after the other)."""

    text: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Language:
    name: str
    path: str
    comment: str
    head: str  # what stands above the functions
    functions: tuple[Function, ...]
