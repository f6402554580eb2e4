"""What was found of a package, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftlab.use.package.check import Outcome
from ftlab.use.package.verify import Verified


def outcome_table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    width = max((len(one.name) for one in outcomes), default=0)
    for one in outcomes:
        yield f"{one.name.ljust(width)}  {one.found}"


def verified_lines(found: Verified, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """:param outcomes: of the answers, where it was loaded."""
    files, size = len(found.contents.sha256), sum(found.contents.sizes.values())
    yield f"{found.file}: {found.contents.top}, {found.metadata.form}, {files} files, {size:,} bytes, all as packed"
    if found.note is not None:
        yield found.note
    if found.metadata.form == "peft":
        yield f"for the base model {found.metadata.base.name}"
    yield from outcome_table(outcomes)
