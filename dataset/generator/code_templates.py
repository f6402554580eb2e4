"""The subjects and languages that source files are drawn from."""

from __future__ import annotations

from generator.code_others import JAVASCRIPT, SQL
from generator.code_python import PYTHON
from generator.code_types import Language

# (entity, its plural, a number field, a text field, package)
ENTITIES: tuple[tuple[str, str, str, str, str], ...] = (
    ("order", "orders", "amount", "customer", "shop"), ("invoice", "invoices", "total", "payer", "billing"),
    ("parcel", "parcels", "weight", "address", "post"), ("sensor", "sensors", "reading", "label", "station"),
    ("ticket", "tickets", "priority", "title", "support"), ("book", "books", "pages", "author", "library"),
    ("recipe", "recipes", "minutes", "cook", "kitchen"), ("player", "players", "score", "nickname", "game"),
    ("route", "routes", "distance", "origin", "travel"), ("lesson", "lessons", "duration", "teacher", "school"),
    ("plant", "plants", "height", "species", "garden"), ("vote", "votes", "count", "candidate", "election"),
    ("song", "songs", "seconds", "artist", "radio"), ("room", "rooms", "seats", "floor", "hotel"),
    ("train", "trains", "delay", "platform", "railway"), ("field", "fields", "area", "crop", "farm"),
    ("ship", "ships", "cargo", "captain", "harbour"), ("task", "tasks", "effort", "owner", "planner"),
)  # fmt: skip

# Mostly Python, a bit of the others.
LANGUAGES: tuple[tuple[Language, float], ...] = ((PYTHON, 0.7), (JAVASCRIPT, 0.2), (SQL, 0.1))
ROLES: tuple[str, ...] = ("report", "store", "tools", "import", "export", "check", "summary", "archive")
