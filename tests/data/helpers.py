"""Rows and overrides that several test files start from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ftlab.data.packing.store import Sample
from ftlab.data.tokens.block_encoder import MEND as ADVICE

MEND = f"\n{ADVICE}"


def options(format_: str, path: Any, *overrides: str) -> list[str]:
    """Rows of one file, each a packed row of its own, in their order, none held out, unless the overrides differ."""
    chosen = {"data.path": path, "data.format": format_, "data.split.validation": "none", "data.packing": "false",
              "data.max_length": 64}  # fmt: skip
    chosen |= dict(override.split("=", 1) for override in overrides)
    return [f"{key}={value}" for key, value in chosen.items()]


def alpaca(path: Any, *overrides: str) -> list[str]:
    return options("alpaca", path, *overrides)


def texts(path: Any, *overrides: str) -> list[str]:
    return options("text", path, "stage=pt", *overrides)


def row(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def numbered(count: int) -> list[dict[str, str]]:
    return [row(str(number), "9") for number in range(count)]


def encoded(samples: Iterable[Sample]) -> list[tuple[list[int], list[int]]]:
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples]


def ask(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Questions and answers in turn, perhaps after a system message."""
    found = [{"role": "system", "content": system}] if system is not None else []
    return [*found, *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents))]


def train_ledger(prepared: Any) -> dict[str, Any]:
    counts: dict[str, Any] = prepared.ledger.as_dict()["splits"]["train"]
    return counts


def rows_in(prepared: Any, split: str = "train") -> dict[str, int]:
    """The counts of rows that are not zero."""
    counts = prepared.ledger.as_dict()["splits"][split]["rows"]
    return {name: count for name, count in counts.items() if count}


def python_sources(limit: int) -> list[Path]:
    """Files of the standard library, about ``limit`` bytes of them, with one that is longer than any block of 32K."""
    import sysconfig

    folder = Path(sysconfig.get_paths()["stdlib"])
    found, size = [folder / "_pydecimal.py"], (folder / "_pydecimal.py").stat().st_size
    for path in sorted(folder.glob("*.py")):
        if size + path.stat().st_size > limit:
            break
        if path not in found:
            found.append(path)
            size += path.stat().st_size
    return found
