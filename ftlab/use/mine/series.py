"""The history as a graph: its order, its main line, and what was merged into that."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ftlab.use.mine.repository import Node
from ftlab.use.mine.rows import Commit

_SQUASHED = re.compile(r"\((?:#|!)(\d+)\)\s*$")
_MAIN = r"(?:main|master|trunk|develop|development|default)"
_BACK = re.compile(rf"Merge (?:remote-tracking )?branch(?:es)? '(?:[\w.-]+/)?{_MAIN}'")


@dataclass(frozen=True, slots=True)
class Series:
    """Commits that belong together.

    :param base: the commit before it, whose tree its diff starts from; None: the empty one.
    :param tip: the commit that ends it: the merge, or the last of ``commits``.
    :param commits: what was merged, oldest first.
    """

    kind: str  # merge | squash | linear
    base: str | None
    tip: str
    commits: tuple[str, ...]


def sort_commits(nodes: Sequence[Node]) -> list[Node]:
    """Sort commits, oldest first and none before its parents, otherwise by time: the same with every version of git."""
    by_id = {node.id: node for node in nodes}
    children: dict[str, list[str]] = {node.id: [] for node in nodes}
    waiting = {node.id: len(node.parents) for node in nodes}
    for node in nodes:
        for parent in node.parents:
            children[parent].append(node.id)
    ready = [(node.when, node.id) for node in nodes if not node.parents]
    heapq.heapify(ready)
    found = []
    while ready:
        id_ = heapq.heappop(ready)[1]
        found.append(by_id[id_])
        for child in children[id_]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (by_id[child].when, child))
    return found


def main_line(nodes: Sequence[Node], head: str) -> list[Node]:
    """The first parents of ``head``, oldest first."""
    by_id = {node.id: node for node in nodes}
    found = [by_id[head]]
    while found[-1].parents:
        found.append(by_id[found[-1].parents[0]])
    return found[::-1]


def merged_commits(nodes: Sequence[Node], line: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """By merge of the main line the commits that it brought, oldest first; merges among them are left out.

    :param nodes: in order.
    """
    by_id = {node.id: node for node in nodes}
    place = {node.id: number for number, node in enumerate(nodes)}
    seen: set[str] = set()
    found = {}
    for node in line:
        seen.add(node.id)
        brought, left = [], list(node.parents[1:])
        while left:
            if (id_ := left.pop()) not in seen:
                seen.add(id_)
                brought.append(id_)
                left.extend(by_id[id_].parents)
        if len(node.parents) > 1:
            commits = (id_ for id_ in brought if len(by_id[id_].parents) < 2)
            found[node.id] = tuple(sorted(commits, key=place.__getitem__))
    return found


def is_back_merge(subject: str) -> bool:
    """Whether a merge brought a main branch here, as ``git pull`` does, and not a branch to it."""
    return _BACK.match(subject) is not None


def squashed_pull_request(subject: str) -> str | None:
    """Return the number of the pull request that a commit was squashed from."""
    found = _SQUASHED.search(subject)
    return found[1] if found else None


def linear_series(
    line: Sequence[Node | None],
    commits: Mapping[str, Commit],
    paths: Mapping[str, frozenset[bytes]],
    sizes: Mapping[str, int],
    hours: float,
    most: int,
    limit: int,
) -> Iterator[Series]:
    """Runs of two commits or more of the main line, by one author, each within some time of the one before it and
    touching a file that the run has touched.

    :param line: None for a commit that can be in no run. :param paths: what each touched. :param sizes: bytes of their
        diffs, at most ``limit`` of them in a run, as well as ``most`` commits.
    """
    run: list[Node] = []
    touched: set[bytes] = set()
    for node in [*line, None]:
        if node is not None and run and len(run) < most:
            before, now = commits[run[-1].id], commits[node.id]
            is_near = abs(now.when - before.when) <= hours * 3600 and now.author.email == before.author.email
            fits = sum(sizes[one.id] for one in [*run, node]) <= limit
            if is_near and fits and not touched.isdisjoint(paths[node.id]):
                run.append(node)
                touched |= paths[node.id]
                continue
        if len(run) > 1:
            base = run[0].parents[0] if run[0].parents else None
            yield Series("linear", base, run[-1].id, tuple(one.id for one in run))
        run = [node] if node is not None else []
        touched = set(paths[node.id]) if node is not None else set()
