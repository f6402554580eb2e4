"""The three sets of a curriculum from a repository: its files, its commits, its series."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

from ftlab.base.console import Terminal
from ftlab.base.redaction import secret_kind
from ftlab.schema import MineTask
from ftlab.use.mine import series as series_of
from ftlab.use.mine import sieve as sieve_of
from ftlab.use.mine.diff import Section, sections
from ftlab.use.mine.repository import Node, Repository
from ftlab.use.mine.rows import Commit, commit_row, file_row, parse_commit, series_row
from ftlab.use.mine.series import Series
from ftlab.use.mine.sieve import Sieve
from ftlab.use.mine.write import Account, Rows, write_report

# set -> the phase of phase=codebase that trains on it
PHASES = {"phase1_foundation": "foundation", "phase2_evolution": "evolution", "phase3_pr_mastery": "pr_mastery"}
_OF_DIFF = "larger than task.max_diff_kb"
_MERGE = "a merge (the third set has it)"
_OLD = "older than the newest task.max_commits"
_EDGE = "at the edge of a shallow clone: what it changed is not here"
_T = TypeVar("_T")


@dataclass
class _SiftedDiff:
    """A diff's files with their text, those left out with the reason, and the bytes and all the paths of the first."""

    parts: list[tuple[bytes, str]] = field(default_factory=list)
    left_out: list[tuple[bytes, str]] = field(default_factory=list)
    size: int = 0
    paths: set[bytes] = field(default_factory=set)

    @property
    def diff(self) -> str:
        return "".join(text for _, text in self.parts)


class Miner:
    """The three sets in their order; the later ones use what the earlier ones found."""

    def __init__(self, task: MineTask, repository: Repository, folder: Path):
        self._task, self._repository, self._folder = task, repository, folder
        self._sieve = Sieve(task, repository.attributes)
        self._limit = task.max_diff_kb * 1024
        self.account = Account(folder)
        self.sets = [Rows(name, folder) for name in PHASES]
        self._nodes: list[Node] = []
        self._window: list[Node] = []
        self._commits: dict[str, Commit] = {}
        self._paths: dict[str, frozenset[bytes]] = {}
        self._sizes: dict[str, int] = {}

    # --- files -------------------------------------------------------------------------------------------------------

    def files(self) -> None:
        rows, wanted = self.sets[0], {}
        for entry in self._repository.entries():
            rows.seen += 1
            reason = self._sieve.path_reason(entry.path, entry.mode)
            if reason is None and entry.size > self._task.max_file_kb * 1024:
                reason = "larger than task.max_file_kb"
            elif reason is None and entry.id in wanted:
                reason = sieve_of.TWICE
            if reason is None:
                wanted[entry.id] = entry.path
            else:
                self.account.leave_out(rows, _name(entry.path), reason)
        contents = self._repository.objects(wanted)
        for path, content in _with_progress(zip(wanted.values(), contents), "files", len(wanted)):
            self._file(rows, path, content)

    def _file(self, rows: Rows, path: bytes, content: bytes) -> None:
        name, text = _name(path), self._sieve.decode(content)
        if b"\0" in content:
            reason: str | None = sieve_of.BINARY
        elif not content.strip():
            reason = sieve_of.EMPTY
        else:
            reason = (
                sieve_of.ENCODING
                if text is None
                else self._sieve.text_reason(path, text, max(map(len, content.split(b"\n"))))
            )
        if reason is not None or text is None:
            return self.account.leave_out(rows, name, reason or sieve_of.ENCODING)
        row = file_row(name, text)
        if kind := secret_kind(row):
            return self.account.leave_out_secret(rows, name, name, kind)
        return rows.add(row, "file")

    # --- commits -----------------------------------------------------------------------------------------------------

    def commits(self) -> None:
        rows = self.sets[1]
        self._nodes = series_of.sort_commits(self._repository.history())
        self._window = self._nodes[-(self._task.max_commits or len(self._nodes)) :]
        rows.seen = len(self._nodes)
        if old := len(self._nodes) - len(self._window):
            rows.left_out[_OLD] += old
        parents = (node.parents[0] for node in self._window if node.parents)
        self._load([node.id for node in self._window], "history")
        self._load(parents, "history")
        wanted = []
        for node in self._window:
            if reason := self._commit_reason(node):
                self.account.leave_out(rows, node.id, reason)
            else:
                wanted.append(node)
        pairs = [(self._tree(node.parents[0] if node.parents else None), self._tree(node.id)) for node in wanted]
        seen: set[bytes] = set()
        for node, lines in _with_progress(zip(wanted, self._repository.diffs(pairs)), "commits", len(wanted)):
            commit, sifted = self._commits[node.id], self._sift(lines)
            self._paths[node.id] = frozenset(sifted.paths)
            self._sizes[node.id] = sifted.size
            row = commit_row(commit, sifted.diff)
            self._row(rows, node.id, row, f"{commit.message}\n{sifted.diff}", sifted, seen, "commit")

    def _commit_reason(self, node: Node) -> str | None:
        commit = self._commits[node.id]
        if len(commit.parents) > 1:
            return _MERGE
        if commit.parents != node.parents:
            return _EDGE
        if commit.message is None:
            return sieve_of.ENCODING
        return None if commit.message.strip() else "no message"

    def _load(self, ids: Iterable[str], what: str) -> None:
        wanted = [id_ for id_ in dict.fromkeys(ids) if id_ not in self._commits]
        for id_, raw in _with_progress(zip(wanted, self._repository.objects(wanted)), what, len(wanted)):
            self._commits[id_] = parse_commit(id_, raw, self._sieve.decode)

    def _tree(self, commit: str | None) -> str:
        return self._repository.empty_tree if commit is None else self._commits[commit].tree

    # --- series ------------------------------------------------------------------------------------------------------

    def series(self) -> None:
        rows = self.sets[2]
        found = self._find_series(rows)
        rows.seen += len(found)
        self._load((id_ for one in found for id_ in (*one.commits, *([one.base] if one.base else []))), "series")
        pairs = [(self._tree(one.base), self._tree(one.tip)) for one in found]
        seen: set[bytes] = set()
        for one, lines in _with_progress(zip(found, self._repository.diffs(pairs)), "series", len(found)):
            sifted = self._sift(lines)
            commits = [self._commits[id_] for id_ in one.commits]
            row = series_row(one.kind, self._commits[one.tip], commits, sifted.diff, self._files)
            self._row(rows, one.tip, row, row, sifted, seen, one.kind)

    def _files(self, commit: str) -> list[str]:
        return sorted(map(_name, self._paths.get(commit, ())))

    def _find_series(self, rows: Rows) -> list[Series]:
        """Merges and squashes, and runs where they are wanted, by the place of their last commit."""
        line = series_of.main_line(self._nodes, self._repository.head)
        merged = series_of.merged_commits(self._nodes, line)
        found, squashes = [], set()
        for node in self._window:
            commit = self._commits[node.id]
            if len(commit.parents) > 1:
                if reason := self._merge_reason(node, merged):
                    rows.seen += 1
                    self.account.leave_out(rows, node.id, reason)
                else:
                    found.append(Series("merge", node.parents[0], node.id, merged[node.id]))
            elif series_of.squashed_pull_request(commit.subject) and commit.parents == node.parents:
                squashes.add(node.id)
                base = node.parents[0] if node.parents else None
                found.append(Series("squash", base, node.id, (node.id,)))
        if self._task.series == "always" or (self._task.series == "auto" and not found):
            taken = squashes | (self._commits.keys() - self._paths.keys())
            free = [node if node.id in self._commits and node.id not in taken else None for node in line]
            hours, most = self._task.series_hours, self._task.series_commits
            found += series_of.linear_series(free, self._commits, self._paths, self._sizes, hours, most, self._limit)
        place = {node.id: number for number, node in enumerate(self._nodes)}
        return sorted(found, key=lambda one: place[one.tip])

    def _merge_reason(self, node: Node, merged: dict[str, tuple[str, ...]]) -> str | None:
        commit = self._commits[node.id]
        if commit.parents != node.parents:
            return _EDGE
        if commit.message is None:
            return sieve_of.ENCODING
        if node.id not in merged:
            return "a merge inside a branch"
        if series_of.is_back_merge(commit.subject):
            return "a merge of a main branch, not of a feature"
        return None if merged[node.id] else "a merge that brought no commit"

    # --- both --------------------------------------------------------------------------------------------------------

    def _sift(self, lines: Iterable[bytes]) -> _SiftedDiff:
        found = _SiftedDiff()
        for section in sections(lines, self._limit):
            reason = self._section_reason(section)
            # One that is too large leaves out the whole row.
            text = "" if section.size > self._limit else self._sieve.decode(section.text)
            if reason or text is None:
                found.left_out.append((section.path, reason or sieve_of.ENCODING))
                continue
            found.parts.append((section.path, text))
            found.size += section.size
            found.paths |= {section.path, section.old or section.path}
        return found

    def _section_reason(self, section: Section) -> str | None:
        if reason := self._sieve.path_reason(section.path, section.mode):
            return reason
        if section.is_binary:
            return sieve_of.BINARY
        return sieve_of.LONG_LINE if section.longest > self._task.max_line else None

    def _row(
        self, rows: Rows, what: str, row: str, content: str, sifted: _SiftedDiff, seen: set[bytes], kind: str
    ) -> None:
        """Keep the row of a diff, or say why not. :param content: what must not occur twice."""
        if not sifted.parts:
            return self.account.leave_out(rows, what, self._nothing_left(sifted.left_out))
        if max(sifted.size, len(row.encode("utf-8", "surrogatepass"))) > self._limit:
            return self.account.leave_out(rows, what, _OF_DIFF)
        if secret := secret_kind(row):
            where = [_name(path) for path, text in sifted.parts if secret_kind(text)]
            return self.account.leave_out_secret(rows, what, (where or ["its message"])[0], secret)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
        if digest in seen:
            return self.account.leave_out(rows, what, sieve_of.TWICE)
        seen.add(digest)
        for path, reason in sifted.left_out:
            self.account.leave_out_part(rows, what, _name(path), reason)
        return rows.add(row, kind)

    def _nothing_left(self, left_out: list[tuple[bytes, str]]) -> str:
        reasons = {reason for _, reason in left_out}
        if not reasons:
            return f"no change{f' in {self._repository.prefix}' if self._repository.prefix else ''}"
        return f"only files left out: {reasons.pop() if len(reasons) == 1 else 'several reasons'}"

    def finish(self) -> list[Rows]:
        for rows in self.sets:
            rows.split(self._task.validation)
        self.account.close()
        source = {"commit": self._repository.head, "folder": self._repository.prefix}
        options = self._task.model_dump(mode="json", exclude={"name", "words", "repo", "out", "overwrite"})
        facts = {**source, "shallow": self._repository.is_shallow, "options": options}
        write_report(self._folder, self.sets, self.account, facts)
        return self.sets


def _name(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _with_progress(things: Iterable[_T], description: str, total: int) -> Iterator[_T]:
    """With a bar on the terminal, beside what is printed and not in it."""
    to = Terminal(stderr=True)
    with Progress(console=to, transient=True, disable=not to.is_terminal) as bars:
        yield from bars.track(things, total=total, description=description)
