"""Source files of the curriculum: composed from templates, so that every edit of one is known exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from generator.cases import capital
from generator.code_templates import ENTITIES, LANGUAGES, ROLES
from generator.code_types import Edit, Function, Language

_PLACEHOLDER = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class SourceFile:
    """A generated file: the language, the slots that its templates were filled with, and its functions."""

    language: Language
    slots: dict[str, str]
    functions: tuple[Function, ...]

    @property
    def path(self) -> str:
        return self.fill(self.language.path)

    @property
    def text(self) -> str:
        gap = "\n\n" if self.language.name == "python" else "\n"
        return gap.join([self.fill(self.language.head), *(self.fill(function.text) for function in self.functions)])

    def fill(self, template: str) -> str:
        """Replace every ``<name>`` that is a slot; other angle brackets belong to the code."""
        return _PLACEHOLDER.sub(lambda match: self.slots.get(match[1], match[0]), template)

    def apply(self, text: str, edit: Edit) -> str:
        """``text`` of this file after ``edit``. The piece that it replaces occurs exactly once."""
        old, new = self.fill(edit.old), self.fill(edit.new)
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {self.path}"
        return text.replace(old, new)


def source_file(rng: Random, fewest: int = 2, most: int = 4) -> SourceFile:
    """Draw a file of ``fewest`` to ``most`` functions (or as many as its language has)."""
    language = rng.choices([language for language, _ in LANGUAGES], [share for _, share in LANGUAGES])[0]
    entity, entities, count, label, package = rng.choice(ENTITIES)
    role = rng.choice(ROLES)
    slots = {
        "entity": entity,
        "Entity": capital(entity),
        "entities": entities,
        "Entities": capital(entities),
        "count": count,
        "Count": capital(count),
        "label": label,
        "package": package,
        "role": role,
        "Role": capital(role),
        "LIMIT": f"{count.upper()}_LIMIT",
        "number": str(rng.randint(2, 99) * 10),
    }
    size = min(rng.randint(fewest, most), len(language.functions))
    return SourceFile(language, slots, tuple(rng.sample(language.functions, size)))
