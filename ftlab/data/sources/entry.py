"""One data set of a registry, as its file describes it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ftlab.data.formats import COLUMNS, TAGS
from ftlab.errors import DataError, Mistake, nearest
from ftlab.schema import Format, Positive

SPLITS = ("train", "validation", "test", "golden")
_PLACES = ("files", "hub", "modelscope")
Paths = str | tuple[str, ...]


class Files(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    golden: Paths | None = None


class HubSplits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    golden: str | None = None


class Entry(BaseModel):
    """One data set of the registry. ``dataset/dataset_info.yaml`` says what the keys mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Format
    files: Files | None = None
    hub: str | None = None
    modelscope: str | None = None
    revision: str | None = None
    subset: str | None = None
    folder: str | None = None
    split: str | None = None
    splits: HubSplits = HubSplits()
    columns: dict[str, str | None] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    ranking: bool = False
    num_samples: Positive | None = None
    make: str | None = None

    def for_stage(self, stage: str) -> Entry:
        return self

    @property
    def kind(self) -> str:
        """The format of its rows: the one it names, or pairs of it."""
        return "preference" if self.ranking else self.format


def raise_all(path: Path, mistakes: Sequence[Mistake]) -> None:
    """:raises DataError: if there is a mistake."""
    if len(mistakes) == 1:
        raise DataError(f"data.registry={path}: {mistakes[0]}")
    if mistakes:
        lines = "".join(f"\n  - {mistake}" for mistake in mistakes)
        raise DataError(f"data.registry={path}: {len(mistakes)} mistakes:{lines}")


def contradictions(name: str, entry: Entry) -> Iterator[Mistake]:
    places = [place for place in _PLACES if getattr(entry, place) is not None]
    if len(places) != 1:
        has = f"not {' and '.join(places)}" if places else "it has none of them"
        yield Mistake(name, f"must have one of the keys {', '.join(_PLACES)}; {has}.")
    if entry.files is not None:
        of_hubs = [key for key in ("revision", "subset", "folder", "split") if getattr(entry, key) is not None]
        of_hubs += ["splits"] if entry.splits.model_fields_set else []
        for key in of_hubs:
            yield Mistake(f"{name}.{key}", "is of a set on a hub; files name their splits themselves.")
    if entry.split and entry.splits.train:
        yield Mistake(f"{name}.split", f"splits.train={entry.splits.train} says the same; give one.", entry.split)
    if entry.ranking and entry.format in ("kto", "prompts", "text"):
        yield Mistake(f"{name}.ranking", f"format {entry.format} has no chosen and rejected answers.", True)
    yield from unknown_columns(f"{name}.columns", entry.kind, entry.columns)
    yield from unknown_tags(f"{name}.tags", entry.tags)


def unknown_columns(key: str, format_: str, columns: Mapping[str, str | None]) -> Iterator[Mistake]:
    known = COLUMNS[format_]
    reason = f"format {format_} has no such column. Known: {', '.join(known)}."
    for name, column in columns.items():
        if name not in known:
            yield Mistake(f"{key}.{name}", reason, column, nearest(name, known))


def unknown_tags(key: str, tags: Mapping[str, str]) -> Iterator[Mistake]:
    for name, word in tags.items():
        if name not in TAGS:
            yield Mistake(f"{key}.{name}", f"no such tag. Known: {', '.join(TAGS)}.", word, nearest(name, TAGS))
