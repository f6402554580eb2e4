"""What the miner reads of a repository: by git's plumbing, the same for every clone whatever the user's configuration.

One process each lists the history, reads objects, shows diffs and says attributes, however long the history is.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ftlab.base.git import environment_without, inert_environment
from ftlab.errors import NotReadyError

# Larger files are binary to git, so that no diff of one fills the memory.
_BIG = "16m"
# A user's and a repository's configuration may set each of these.
_OPTIONS = (
    "-c", "core.quotePath=off", "-c", f"core.bigFileThreshold={_BIG}", "-c", f"core.attributesFile={os.devnull}",
    "-c", "diff.suppressBlankEmpty=false", "-c", "safe.directory=*", "--literal-pathspecs", "--no-pager",
)  # fmt: skip
_DIFF = (
    "diff-tree", "--stdin", "-r", "-p", "-M50%", "-l400", "-U3", "--inter-hunk-context=0", "--diff-algorithm=myers",
    "--indent-heuristic", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--submodule=short",
    "--ignore-submodules=none", "--full-index", "--src-prefix=a/", "--dst-prefix=b/", f"-O{os.devnull}",
)  # fmt: skip
_ISOLATED = {
    "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0",
}  # fmt: skip
_ATTRIBUTES = ("diff", "linguist-vendored", "linguist-generated")


@dataclass(frozen=True, slots=True)
class Node:
    """A commit in the graph. :param when: its committer's time, in seconds."""

    id: str
    parents: tuple[str, ...]
    when: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of a tree. :param mode: as git has it: 120000 a symbolic link, 160000 a submodule."""

    mode: str
    id: str
    size: int
    path: bytes


class Repository:
    """A repository, or a folder in one, at a revision. Use it as a context; its processes end with it.

    :param path: anywhere in a work tree, or a bare repository.
    :raises NotReadyError: no git, no repository, no such revision, or objects that are elsewhere.
    """

    def __init__(self, path: str, revision: str):
        gitdir, self.prefix, self.is_shallow = _discover(path)
        self._ends = ExitStack()
        self._attributes: subprocess.Popen[bytes] | None = None
        try:
            self._isolate(gitdir)
            self.head = self._head(path, revision)
        except BaseException:
            self._ends.close()
            raise

    def _isolate(self, gitdir: str) -> None:
        """An empty work tree, entered, and no index: a checkout's attributes may be changed, and have no say."""
        folder = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="ftlab-mine-")))
        self._errors = self._ends.enter_context((folder / "errors").open("w+b"))
        self._index, self._tree = folder / "index", folder / "tree"
        self._tree.mkdir()
        self._env = environment_without(("GIT_",)) | _ISOLATED | {"GIT_DIR": gitdir, "GIT_WORK_TREE": str(self._tree)}
        self._env["GIT_INDEX_FILE"] = str(folder / "none")
        self._env = inert_environment(self._tree, self._env)
        self.empty_tree = self._run("hash-object", "-t", "tree", "--stdin").decode().strip()
        self._env["GIT_ATTR_SOURCE"] = self.empty_tree  # the same for a git that reads attributes from HEAD

    def _head(self, path: str, revision: str) -> str:
        if self._run("config", "--get", "extensions.partialClone", check=False):
            raise NotReadyError(f"{path} is a partial clone: not all of its files are here. Clone it without --filter.")
        head = self._run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False).decode().strip()
        if not head and revision == "HEAD":
            raise NotReadyError(f"{path} has no commit yet: there is nothing to mine.")
        if not head:
            raise NotReadyError(f"task.revision={revision}: {path} has no such commit, branch or tag.")
        return head

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    # --- what there is -----------------------------------------------------------------------------------------------

    def history(self) -> list[Node]:
        """Every commit that the revision reaches, in no order to rely on. A shallow clone's oldest have no parents."""
        lines = self._run("rev-list", "--parents", "--timestamp", self.head).decode().splitlines()
        return [Node(id_, tuple(parents), int(when)) for when, id_, *parents in map(str.split, lines)]

    def entries(self) -> list[Entry]:
        """The tree of the revision, by path."""
        listed = self._run("ls-tree", "-r", "-z", "-l", "--full-tree", self.head, *self._below()).split(b"\0")[:-1]
        found = []
        for line in listed:
            facts, _, path = line.partition(b"\t")
            mode, _, id_, size = facts.decode().split()
            if size == "BAD":
                raise _damaged(id_)
            found.append(Entry(mode, id_, 0 if size == "-" else int(size), path))
        return sorted(found, key=lambda entry: entry.path)

    def objects(self, ids: Iterable[str]) -> Iterator[bytes]:
        """The contents of blobs or commits, in the order asked for. :raises NotReadyError: one is missing."""
        listed = list(ids)
        process = self._start(("cat-file", "--batch"), (f"{id_}\n".encode() for id_ in listed))
        out = _out(process)
        for id_ in listed:
            *_, size = header = out.readline().split()
            if len(header) != 3:
                raise _damaged(id_)
            yield out.read(int(size))
            out.read(1)
        self._finish(process)

    def diffs(self, trees: Iterable[tuple[str, str]]) -> Iterator[Iterator[bytes]]:
        """For each pair of trees the lines of their diff, to be read before the next pair's."""
        process = self._start((*_DIFF, *self._below()), (f"{old} {new}\n".encode() for old, new in trees))
        stream = _Pairs(_out(process))
        while stream.next():
            yield stream.lines()
        self._finish(process)

    def attributes(self, path: bytes) -> dict[str, str]:
        """What the .gitattributes of the revision say of a path, which need not be there any more:
        set, unset, unspecified or a value."""
        if self._attributes is None:
            env = {**self._env, "GIT_INDEX_FILE": str(self._index)}
            env.pop("GIT_ATTR_SOURCE")
            self._run("read-tree", self.head, env=env)
            command = ("check-attr", "-z", "--stdin", "--cached", *_ATTRIBUTES)
            self._attributes = self._start(command, None, env)
        process, found = self._attributes, {}
        assert process.stdin is not None
        process.stdin.write(path + b"\0")
        process.stdin.flush()
        out = _out(process)
        for name in _ATTRIBUTES:
            _, _, value = (_until_nul(out) for _ in range(3))
            found[name] = value.decode("utf-8", "replace")
        return found

    # --- processes ---------------------------------------------------------------------------------------------------

    def _below(self) -> tuple[str, ...]:
        return ("--", self.prefix) if self.prefix else ()

    def _run(self, *command: str, check: bool = True, env: dict[str, str] | None = None) -> bytes:
        line = ["git", *_OPTIONS, *command]
        done = subprocess.run(line, cwd=self._tree, env=env or self._env, capture_output=True, input=b"")
        if check and done.returncode:
            raise NotReadyError(f"git {command[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()}")
        return done.stdout if done.returncode == 0 else b""

    def _start(
        self, command: tuple[str, ...], given: Iterable[bytes] | None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """:param given: the lines that a thread writes to it, so that neither side waits for the other."""
        line, pipe, env = ["git", *_OPTIONS, *command], subprocess.PIPE, env or self._env
        process = subprocess.Popen(line, cwd=self._tree, env=env, stdin=pipe, stdout=pipe, stderr=self._errors)
        self._ends.callback(_end, process)
        if given is not None:
            threading.Thread(target=_feed, args=(process, given), daemon=True).start()
        return process

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait():
            raise NotReadyError(f"git stopped with an error: {self._error_output()}")

    def _error_output(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()


class _Pairs:
    """The output of ``diff-tree --stdin``, cut at the lines that name the trees of a pair. No line of a diff starts as
    they do: those of files start with a space, +, -, \\ or @, and headers with words."""

    _NAMES = re.compile(rb"[0-9a-f]{40,64} [0-9a-f]{40,64}\n")

    def __init__(self, out: IO[bytes]):
        self._out, self._next = out, out.readline()

    def next(self) -> bool:
        for _ in self.lines():  # what the last reader left
            pass
        is_there, self._next = bool(self._next), self._out.readline() if self._next else b""
        return is_there

    def lines(self) -> Iterator[bytes]:
        while self._next and not self._is_name(self._next):
            line = self._next
            self._next = self._out.readline()
            yield line

    def _is_name(self, line: bytes) -> bool:
        return line[0] not in b" +-\\@" and self._NAMES.fullmatch(line) is not None


def _discover(path: str) -> tuple[str, str, bool]:
    """The git folder, the path of a folder in the repository ("" for all of it, else with / at its end), shallow.

    Asked with the user's own configuration, which says whose repositories are trusted.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        hint = " Clone it first." if "://" in path or path.startswith("git@") else " Relative paths start from here."
        raise NotReadyError(f"task.repo={path} is no folder.{hint}")
    env = environment_without(("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX", "GIT_OBJECT", "GIT_PREFIX", "GIT_COMMON"))
    env = {**inert_environment(folder, env), "LC_ALL": "C"}
    asked = ("rev-parse", "--absolute-git-dir", "--is-shallow-repository", "--show-prefix")
    try:
        done = subprocess.run(["git", "-C", str(folder), *asked], env=env, capture_output=True)
    except FileNotFoundError:
        raise NotReadyError("ftlab mine needs git, and there is none on the PATH. Install it.") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise NotReadyError(f"task.repo={path} is no git repository: {said}")
    gitdir, shallow, *prefix = os.fsdecode(done.stdout).split("\n")
    return gitdir, "\n".join(prefix[:-1]), shallow == "true"


def _damaged(id_: str) -> NotReadyError:
    return NotReadyError(f"The repository is damaged: git has no object {id_}. git fsck says more.")


def _out(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _feed(process: subprocess.Popen[bytes], given: Iterable[bytes]) -> None:
    assert process.stdin is not None
    # It ended, or was ended; whoever reads from it says so.
    with suppress(BrokenPipeError, ValueError), process.stdin as pipe:
        pipe.writelines(given)


def _until_nul(out: IO[bytes]) -> bytes:
    letters = bytearray()
    while (letter := out.read(1)) not in (b"\0", b""):
        letters += letter
    return bytes(letters)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stdin):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
