"""Which data sets a config names, where their rows are, and what they look like."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftlab.data.formats import COLUMNS
from ftlab.data.sources import hub
from ftlab.data.sources.blocks import Location
from ftlab.data.sources.entry import SPLITS, Entry, unknown_columns, unknown_tags
from ftlab.data.sources.hub import Hub
from ftlab.data.sources.paths import check_name, find
from ftlab.data.sources.registry import LlamaFactoryEntry, read_registry
from ftlab.errors import ConfigError, DataError, Mistake, nearest
from ftlab.schema import Data

__all__ = ["STAGE_FORMATS", "Source", "mix_mistakes", "read_registry", "resolve"]

# The formats whose rows a stage can train on.
STAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "pt": ("text",),
    "sft": ("alpaca", "sharegpt", "messages", "instruction", "prompt_completion"),
    "rm": ("preference",),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "kto": ("kto",),
    "ppo": ("prompts",),
    "grpo": ("prompts",),
}
# What a row must have, by format, for who does not know the formats.
_ROWS = {
    "text": "plain text",
    "preference": "pairs, a prompt with a chosen and a rejected answer",
    "kto": "answers with a label, true for a good one",
    "prompts": "prompts, with the right answer where a reward compares with it",
}
_CONVERSATIONS = "conversations, or instructions with their answers"
_HERE = " Relative paths start from the current folder."

VALIDATION = "validation"  # as data.split.golden: the registry's, or else the rows of that split

Registry = Mapping[str, Entry | LlamaFactoryEntry]


@dataclass(frozen=True)
class Source:
    """One data set of a run.

    :param splits: train, and validation, test and golden where they have their own; golden alone, where
        ``data.golden`` says that its rows are others.
    :param columns: the user's column by the format's; None where the data has no such column.
    :param merges: whether turns of one side in a row are joined.
    :param num_samples: how many rows of it to take, with repetition where it has fewer; None takes each once.
    """

    name: str
    format: str
    splits: dict[str, Location]
    columns: dict[str, str | None]
    tags: dict[str, str]
    num_samples: int | None
    merges: bool = False


@dataclass(frozen=True)
class _Selected:
    """A set that the config names, before anybody looked for its files. :param entry: None for a path."""

    name: str
    format: str
    columns: dict[str, str | None]
    tags: dict[str, str]
    entry: Entry | None


def resolve(data: Data, stage: str) -> list[Source]:
    """The sets that the config names, in its order. Local files exist and are not empty; hubs are not asked.

    :raises ConfigError: unknown names, formats that the stage cannot train on, columns that a format has not, rules of
        ``data.mix``; all at once.
    :raises DataError: the registry is wrong, or files are missing or empty; all of them at once.
    """
    registry = read_registry(Path(data.registry))
    mistakes = mix_mistakes(data)
    chosen = [_select_path(data)] if data.path is not None else _select_names(data, registry, stage, mistakes)
    mistakes += [mistake for one in chosen for mistake in _format_mistakes(one, stage, registry, data)]
    mistakes += [*_unknown_columns(data, chosen), *_hub_mistakes(data, chosen), *_golden_mistakes(data, chosen, stage)]
    if mistakes:
        raise ConfigError(mistakes)
    return _sources(data, chosen)


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not what a run read. :param recorded: its hash then; None: it was not read. :param now: None: it
    is read no more."""

    file: str
    recorded: str | None
    now: str | None

    def __str__(self) -> str:
        how = "is gone" if self.now is None else "is new" if self.recorded is None else "has changed"
        return f"{self.file} {how}"


def file_changes(sources: Sequence[Source], recorded: Mapping[str, str] | None) -> list[FileChange]:
    """Compare the files of the data with those that a run began with: changed ones, added ones, then those that are
    gone. :param recorded: hashes by file; None: nothing was read yet, so nothing differs."""
    if recorded is None:
        return []
    locations = [location for source in sources for location in source.splits.values()]
    now = {file: sha256 for location in locations for file, sha256 in location.fingerprint().items()}
    changed = [
        FileChange(file, recorded.get(file), value) for file, value in now.items() if recorded.get(file) != value
    ]
    return changed + [FileChange(file, value, None) for file, value in recorded.items() if file not in now]


def mix_mistakes(data: Data) -> list[Mistake]:
    """Return the mistakes in the list of data sets and in the way to mix them. No file is needed."""
    names = _names(data)
    twice = sorted({name for name in names if names.count(name) > 1})
    found = [Mistake("data.name", "is named twice; data.num_samples takes rows more than once.", one) for one in twice]
    count = 1 if data.path is not None else len(names)
    if data.probabilities is not None:
        shown = f"[{', '.join(map(str, data.probabilities))}]"
        if data.mix == "concat":
            reason = "is of interleaved sets: data.mix=interleave_under or data.mix=interleave_over."
            found.append(Mistake("data.probabilities", reason, shown))
        if len(data.probabilities) != count:
            reason = f"must have one entry for each of the {count} sets, not {len(data.probabilities)}."
            found.append(Mistake("data.probabilities", reason.replace("each of the 1 sets", "the one set"), shown))
    return found


def _names(data: Data) -> tuple[str, ...]:
    return (data.name,) if isinstance(data.name, str) else data.name or ()


# --- what the config names -------------------------------------------------------------------------------------------


def _select_path(data: Data) -> _Selected:
    assert data.path is not None and data.format is not None, "the schema asks for a format beside a path"
    return _Selected(_name_of(data.path), data.format, dict(data.columns), dict(data.tags), None)


def _name_of(path: str) -> str:
    """``corpus`` of ``data/corpus.jsonl.gz``, ``data/corpus/`` or ``data/corpus/**/*.py``."""
    parts = [part for part in Path(path).parts if not any(letter in part for letter in "*?[")]
    name = Path(parts[-1] if parts else path).name
    return Path(name.removesuffix(".gz")).stem or path


def _select_names(data: Data, registry: Registry, stage: str, mistakes: list[Mistake]) -> list[_Selected]:
    """:param mistakes: takes unknown names."""
    chosen = []
    for name in dict.fromkeys(_names(data)):
        if name in registry:
            chosen.append(_select_entry(name, registry[name].for_stage(stage), data))
        else:
            known = sorted(registry)
            reason = f"not in the registry {data.registry}. Known: {', '.join(known)}."
            mistakes.append(Mistake("data.name", reason, name, nearest(name, known)))
    return chosen


def _select_entry(name: str, entry: Entry, data: Data) -> _Selected:
    format_ = data.format or entry.kind
    known = COLUMNS[format_]
    # A column that the entry says it lacks is no mistake where another format was asked for.
    own = {column: user for column, user in entry.columns.items() if user is not None or column in known}
    several = len(_names(data)) > 1
    given = {column: user for column, user in data.columns.items() if column in known or not several}
    return _Selected(name, format_, {**own, **given}, {**entry.tags, **data.tags}, entry)


def _select_golden(data: Data, first: _Selected) -> _Selected | None:
    """The golden file as a set of its own; None where there is none, or its rows are as those of the first set."""
    golden = data.golden
    if data.split.golden in ("auto", VALIDATION, "none") or not _describes_golden(data):
        return None
    name = f"{first.name} (golden)"
    if golden.format is not None:
        return _Selected(name, golden.format, dict(golden.columns), dict(golden.tags), None)
    return _Selected(name, first.format, {**first.columns, **golden.columns}, {**first.tags, **golden.tags}, None)


def _describes_golden(data: Data) -> bool:
    return data.golden.format is not None or bool(data.golden.columns) or bool(data.golden.tags)


# --- what is wrong with it -------------------------------------------------------------------------------------------


def _format_mistakes(one: _Selected, stage: str, registry: Registry, data: Data) -> Iterator[Mistake]:
    allowed = STAGE_FORMATS[stage]
    if one.format in allowed:
        return
    stages = [name for name, formats in STAGE_FORMATS.items() if one.format in formats]
    shipped = sorted(name for name in registry if _kind(registry[name], stage) in allowed)
    needed = f"{_ROWS.get(allowed[0], _CONVERSATIONS)} (data.format={' or '.join(allowed)})"
    reason = f"stage={stage} trains on {needed}; {one.format} rows are for stage={' or '.join(stages)}. "
    reason += f"Sets for this stage, to be chosen with data=NAME: {', '.join(shipped) or 'none'}."
    if one.entry is None or data.format is not None:
        which = f"of {one.name}: " if one.entry is not None and len(_names(data)) > 1 else ""
        yield Mistake("data.format", which + reason, one.format)
    else:
        yield Mistake("data.name", f"has {one.format} rows, and {reason}", one.name)


def _kind(entry: Entry | LlamaFactoryEntry, stage: str) -> str | None:
    try:
        return entry.for_stage(stage).kind
    except DataError:  # of no use here, so not to be recommended
        return None


def _unknown_columns(data: Data, selected: Sequence[_Selected]) -> Iterator[Mistake]:
    """Columns of the config that no chosen format has; with several sets, each takes those that its format has."""
    found: dict[str, Mistake] = {}
    for one in selected:
        for mistake in unknown_columns("data.columns", one.format, {**one.columns, **data.columns}):
            found.setdefault(mistake.key, mistake)
    known = {f"data.columns.{column}" for one in selected for column in COLUMNS[one.format]}
    yield from (mistake for key, mistake in found.items() if key not in known)
    yield from unknown_tags("data.tags", data.tags)


def _golden_mistakes(data: Data, selected: Sequence[_Selected], stage: str) -> Iterator[Mistake]:
    if not _describes_golden(data) or not selected:
        return
    key, value = next((f"data.golden.{key}", value) for key, value in data.golden if value)
    one = _select_golden(data, selected[0])
    if one is None:
        reason = f"describes the rows of data.split.golden=FILE, and data.split.golden={data.split.golden}."
        yield Mistake(key, reason, value)
    elif stage == "pt":
        yield Mistake(key, "stage=pt has no chat template to ask golden prompts with.", value)
    elif one.format == "text":
        asked = ", ".join(name for name in COLUMNS if name != "text")
        yield Mistake(key, f"text has no prompts; golden rows are {asked}.", value)
    else:
        yield from unknown_columns("data.golden.columns", one.format, data.golden.columns)
    yield from unknown_tags("data.golden.tags", data.golden.tags)


def _hub_mistakes(data: Data, selected: Sequence[_Selected]) -> Iterator[Mistake]:
    if data.path is not None:
        try:
            on_hub = hub.parse(data.path) is not None
        except ValueError as error:
            yield Mistake("data.path", f"{error}.", data.path)
            return
    else:
        on_hub = any(one.entry and one.entry.files is None for one in selected)
    for key in ("revision", "subset", "split"):
        if selected and not on_hub and (value := getattr(data.hub, key)) is not None:
            yield Mistake(f"data.hub.{key}", "none of the chosen sets is on a hub.", value)
    for split in SPLITS[1:]:
        named = getattr(data.split, split)
        if named.startswith(("hf://", "ms://")):
            reason = f"must be auto, none or files; of a set on a hub the registry names it: splits: {{{split}: NAME}}."
            yield Mistake(f"data.split.{split}", reason, named)


# --- where the rows are ----------------------------------------------------------------------------------------------


def _sources(data: Data, selected: Sequence[_Selected]) -> list[Source]:
    sources, missing = [], []
    for place, one in enumerate(selected):
        try:
            splits = _config_source(data, one) if one.entry is None else _registry_source(data, one, one.entry)
            _replace(splits, data, one, is_first=place == 0)
        except DataError as error:
            missing.append(str(error))
            continue
        of_entry = one.entry.num_samples if one.entry else None
        number = data.num_samples if data.num_samples is not None else of_entry
        sources.append(
            Source(one.name, one.format, splits, one.columns, one.tags, number, data.on_same_role == "merge")
        )
    if (golden := _select_golden(data, selected[0])) is not None:
        try:
            files = find(data.split.golden, Path(), "data.split.golden", _HERE)
        except DataError as error:
            missing.append(str(error))
        else:
            splits = {"golden": files}
            merges = data.on_same_role == "merge"
            sources.append(Source(golden.name, golden.format, splits, golden.columns, golden.tags, None, merges))
    if missing:
        raise DataError("\n".join(missing))
    return sources


def _config_source(data: Data, one: _Selected) -> dict[str, Location]:
    assert data.path is not None
    of_hub = hub.parse(data.path)
    if of_hub is None:
        return {"train": find(data.path, Path(), "data.path", _HERE, one.format == "text")}
    host, id_ = of_hub
    return {"train": _on_hub(data, Hub(id_, host), "data.path")}


def _registry_source(data: Data, one: _Selected, entry: Entry) -> dict[str, Location]:
    if entry.files is not None:
        folder = Path(data.registry).parent
        hint = f" Make it with: {entry.make}" if entry.make else f" It is named in {data.registry}."
        return {
            split: find(files, folder, f"data {one.name}, {split}", hint, one.format == "text")
            for split in SPLITS
            if (files := getattr(entry.files, split)) is not None and _is_wanted(data, split)
        }
    whole = Hub(entry.hub or entry.modelscope or "", "hf" if entry.hub else "ms", entry.split or "train",
                entry.subset, entry.revision, entry.folder)  # fmt: skip
    train = _on_hub(data, replace(whole, split=entry.splits.train or whole.split), f"data {one.name}")
    splits: dict[str, Location] = {"train": train}
    for split in SPLITS[1:]:
        if (named := getattr(entry.splits, split)) is not None:
            splits[split] = replace(train, split=named)
    return splits


def _is_wanted(data: Data, split: str) -> bool:
    """Whether the registry's own files of a split are read, so that those nobody asked for need not exist."""
    return split == "train" or _is_registrys(data, split)


def _is_registrys(data: Data, split: str) -> bool:
    """Whether a split is what the registry says it is."""
    value = getattr(data.split, split)
    return value == "auto" or (split == "golden" and value == VALIDATION)


def _on_hub(data: Data, location: Hub, where: str) -> Hub:
    """With what the config says of sets on a hub."""
    if location.local and not location.local.is_dir():
        raise DataError(f"{where}: hf://{location.id} is no folder.{_HERE}")
    if location.local:
        check_name(location.local, where)
    for parent, folders, files in os.walk(location.local) if location.local else ():
        for name in (*folders, *files):
            if not name.isascii():  # at every start, of thousands of shards: a path is made where there is a question
                check_name(Path(parent, name), where)
    given = {key: value for key, value in data.hub.model_dump().items() if value is not None}
    return replace(location, **given)


def _replace(splits: dict[str, Location], data: Data, one: _Selected, is_first: bool) -> None:
    """Leave out and replace splits as the config says. Files of its own are one set's, the first's, or they would be
    read once for each."""
    for split in SPLITS[1:]:
        wanted = getattr(data.split, split)
        if _is_registrys(data, split):
            continue
        splits.pop(split, None)
        if wanted != "none" and is_first and not (split == "golden" and _describes_golden(data)):
            splits[split] = find(wanted, Path(), f"data {one.name}, {split}", _HERE, one.format == "text")
