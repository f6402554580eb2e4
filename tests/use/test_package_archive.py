"""Archives of packages: the same from the same files, and those that are damaged, tampered with or hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ftlab.base.progress import NoBar
from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.errors import ConfigError, PackageError
from ftlab.use.package.archive import nothing, unpack, write_archive
from ftlab.use.package.command import package
from ftlab.use.package.documents import write_sums
from ftlab.use.package.verify import verify

TOP = "mine-peft"
METADATA = {
    "package": 1, "name": TOP, "form": "peft", "dtype": "fp32", "quantization": None, "run": {"stage": "sft"},
    "base": {"name": "tiny", "path": None, "revision": None, "sha256": {}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files of a package."""
    path = tmp_path / "files" / TOP
    path.mkdir(parents=True)
    save_file({"lora_A": np.ones((2, 3), np.float32)}, path / "adapter_model.safetensors")
    for name in ("adapter_config.json", "tokenizer_config.json", "tokenizer.json"):
        (path / name).write_text("{}\n")
    (path / "README.md").write_text("# mine\n")
    (path / "metadata.json").write_text(json.dumps(METADATA))
    (path / "licenses").mkdir()
    (path / "licenses" / "LICENSE").write_text("any\n")
    write_sums(path)
    return path


@pytest.fixture
def archive(folder, tmp_path) -> Path:
    file = tmp_path / "mine.tar.gz"
    write_archive(folder, file, TOP, nothing)
    return file


Members = list[tuple[tarfile.TarInfo, bytes]]


def members_of(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar.getmembers()]


def write(file: Path, members: Members, format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(file, "w:gz", format=format) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return file


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def replaced(members: Members, name: str, content: bytes) -> Members:
    return [member(m.name, content) if m.name == f"{TOP}/{name}" else (m, old) for m, old in members]


def summed(members: Members, name: str, content: bytes) -> Members:
    """The same with a file more, or another, and a list of hashes that agrees."""
    files = {m.name.partition("/")[2]: old for m, old in members if not m.name.endswith("SHA256SUMS")}
    files[name] = content
    sums = "".join(f"{hashlib.sha256(files[one]).hexdigest()}  {one}\n" for one in sorted(files))
    files["SHA256SUMS"] = sums.encode()
    return [member(f"{TOP}/{one}", files[one]) for one in sorted(files)]


def sums_of(members: Members) -> bytes:
    return next(content for info, content in members if info.name.endswith("SHA256SUMS"))


LINK = {"linkname": "../../etc/passwd"}
EVIL = b"evil"
# What is done to the members of a good archive, and what is said of it.
CHANGED: dict[str, tuple[Callable[[Members], Members], str]] = {
    "above": (lambda m: [*m, member(f"{TOP}/../../evil", EVIL)], "leads out of the package"),
    "absolute": (lambda m: [*m, member("/tmp/evil", EVIL)], "leads out of the package"),
    "drive": (lambda m: [*m, member("C:/evil", EVIL)], "leads out of the package"),
    "backslash": (lambda m: [*m, member(f"{TOP}/..\\evil", EVIL)], "leads out of the package"),
    "dot": (lambda m: [*m, member(f"{TOP}/./evil", EVIL)], "is no name that a package has"),
    "control": (lambda m: [*m, member(f"{TOP}/e\x1b[2Jvil", EVIL)], "is no name that a package has"),
    "second folder": (lambda m: [*m, member("other/evil", EVIL)], f"beside the folder {TOP}"),
    "no folder": (lambda m: [*m, member(TOP, EVIL)], "which is in no folder"),
    "symbolic link": (lambda m: [*m, member(f"{TOP}/a", b"", tarfile.SYMTYPE, **LINK)], "which is a symbolic link"),
    "hard link": (lambda m: [*m, member(f"{TOP}/a", b"", tarfile.LNKTYPE, **LINK)], "which is a hard link"),
    "device": (lambda m: [*m, member(f"{TOP}/a", b"", tarfile.CHRTYPE)], "which is a device"),
    "block device": (lambda m: [*m, member(f"{TOP}/a", b"", tarfile.BLKTYPE)], "which is a device"),
    "pipe": (lambda m: [*m, member(f"{TOP}/a", b"", tarfile.FIFOTYPE)], "which is a pipe"),
    "twice": (lambda m: [*m, m[0]], "twice"),
    "twice in capitals": (lambda m: [*m, member(f"{TOP}/readme.MD", EVIL)], "twice"),
    "below a file": (lambda m: [*m, member(f"{TOP}/README.md/evil", EVIL)], "below a file"),
    "another content": (lambda m: replaced(m, "README.md", EVIL), "README.md is not what was packed"),
    "another weight": (
        lambda m: replaced(m, "adapter_model.safetensors", b"\0" * 96),
        "adapter_model.safetensors is not what was packed",
    ),
    "more": (lambda m: [*m, member(f"{TOP}/evil", EVIL)], "holds evil, which SHA256SUMS does not name"),
    "less": (lambda m: [one for one in m if "LICENSE" not in one[0].name], "lacks licenses/LICENSE"),
    "no list": (lambda m: [one for one in m if "SHA256" not in one[0].name], "has no SHA256SUMS"),
    "list of elsewhere": (
        lambda m: replaced(m, "SHA256SUMS", sums_of(m) + b"0" * 64 + b"  ../../etc/passwd\n"),
        "SHA256SUMS names '../../etc/passwd', which leads out",
    ),
    "list of nonsense": (lambda m: replaced(m, "SHA256SUMS", b"fine\n"), "line 1 of SHA256SUMS is no hash and name"),
    "list twice": (lambda m: replaced(m, "SHA256SUMS", sums_of(m) * 2), "twice"),
    "a pickle": (lambda m: summed(m, "model.bin", EVIL), "holds model.bin, which may run code"),
    "code": (lambda m: summed(m, "modeling_x.py", EVIL), "holds modeling_x.py: a package brings no code"),
    "code by name": (lambda m: summed(m, "tokenizer_config.json", b'{"auto_map": {}}'), "names code of its own"),
    "no metadata": (lambda m: summed(m, "metadata.json", b"{"), "metadata.json is no JSON"),
    "later": (lambda m: summed(m, "metadata.json", b'{"package": 9}'), "was made by a later ftlab"),
    "no weights": (
        lambda m: summed(m, "metadata.json", json.dumps({**METADATA, "form": "hf"}).encode()),
        "is of format hf and has no config.json",
    ),
    "nothing": (lambda m: [], "holds no file"),
}  # fmt: skip


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_no_whole_package_is_refused_and_writes_nothing_elsewhere(case, archive, tmp_path):
    change, said = CHANGED[case]
    inside = tmp_path / "below" / "deep" / "inside"
    inside.mkdir(parents=True)
    file = write(tmp_path / "changed.tar.gz", change(members_of(archive)))
    before = everything(tmp_path)
    with pytest.raises(PackageError) as refused:
        verify(file, NoBar)
    assert said in str(refused.value) and str(file) in str(refused.value)
    assert everything(tmp_path) == before and not Path("/tmp/evil").exists()
    with suppress(PackageError):
        unpack(file, inside, nothing)
    written = everything(tmp_path) - before
    assert all(path.is_relative_to(inside) and not path.is_symlink() for path in written)


def test_a_whole_one_is_told_and_unpacks_to_what_it_was(archive, folder, tmp_path):
    found = verify(archive, NoBar)
    assert found.contents.top == TOP and found.metadata.base.name == "tiny" and len(found.contents.sha256) == 8
    (tmp_path / "unpacked" / TOP).mkdir(parents=True)
    unpack(archive, tmp_path / "unpacked" / TOP, nothing)
    for path in folder.rglob("*"):
        if path.is_file():
            there = tmp_path / "unpacked" / TOP / path.relative_to(folder)
            assert there.read_bytes() == path.read_bytes()
    assert verify(tmp_path / "unpacked" / TOP, NoBar).contents == found.contents
    (tmp_path / "unpacked" / TOP / "evil").symlink_to("/etc/passwd")
    with pytest.raises(PackageError, match="which is a link"):
        verify(tmp_path / "unpacked" / TOP, NoBar)


def test_the_same_files_make_the_same_bytes(archive, folder, tmp_path):
    for path in folder.rglob("*"):
        path.chmod(0o700)
    write_archive(folder, tmp_path / "again.tar.gz", TOP, nothing)
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("size", [10, 300, -1])
def test_half_an_archive_is_told(archive, size):
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(PackageError, match=r"mine\.tar\.gz is (cut short|no \.tar\.gz archive, or damaged)"):
        verify(archive, NoBar)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is cut short|is no .tar.gz"),
        (b"PK\3\4 anything", "is no .tar.gz archive"),
        (gzip.compress(b"anything at all", mtime=0), "is cut short"),
        (gzip.compress(b"x" * 2048, mtime=0), "is no tar archive, or damaged"),
    ],
)
def test_what_is_no_archive_is_told(content, said, tmp_path):
    file = tmp_path / "any.tar.gz"
    file.write_bytes(content)
    with pytest.raises(PackageError, match=said):
        verify(file, NoBar)


def test_bytes_behind_the_end_are_not_passed_over(archive):
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()) + b"evil"))
    with pytest.raises(PackageError, match="goes on after its end"):
        verify(archive, NoBar)


def test_a_bomb_of_one_member_is_refused_before_it_is_unpacked(archive, tmp_path):
    size = 3 << 30
    info = tarfile.TarInfo(f"{TOP}/zeros")
    info.size = size
    file = tmp_path / "bomb.tar.gz"
    file.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (1 << 20)))
    with pytest.raises(
        PackageError, match=r"mine-peft/zeros would be 3,221,225,472 bytes, and with that more than 100"
    ):
        verify(file, NoBar)
    (tmp_path / "inside").mkdir()
    with pytest.raises(PackageError):
        unpack(file, tmp_path / "inside", nothing)
    assert sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*")) == 0


def test_bombs_of_many_members_are_refused(tmp_path):
    many = write(tmp_path / "many.tar.gz", [member(f"{TOP}/{number}") for number in range(5000)])
    with pytest.raises(PackageError, match="has more than 4,096 members"):
        verify(many, NoBar)
    zeros = bytes(1 << 20)
    large = write(tmp_path / "large.tar.gz", [member(f"{TOP}/{number}", zeros) for number in range(120)])
    assert large.stat().st_size < 1 << 18
    (tmp_path / "inside").mkdir()
    with pytest.raises(PackageError, match="more than 100 times the archive"):
        unpack(large, tmp_path / "inside", nothing)
    # What there was room for is bounded: a hundred times the archive, and 64 MiB.
    written = sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*"))
    assert written <= 100 * large.stat().st_size + (64 << 20)


def test_headers_that_would_be_read_into_memory_are_refused(archive, tmp_path):
    """A pax header and a long name of GNU may be as long as they say."""
    members = members_of(archive)
    long_name = f"{TOP}/{'a' * 150}"
    for format, kind in ((tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "gnu")):
        file = write(tmp_path / f"{kind}.tar.gz", [*members, member(long_name, EVIL)], format)
        with pytest.raises(PackageError, match="which is an extended header"):
            verify(file, NoBar)


def test_what_is_no_file_is_told(tmp_path):
    import os

    with pytest.raises(PackageError, match="nowhere does not exist"):
        verify(tmp_path / "nowhere", NoBar)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackageError, match="pipe is no file"):
        verify(tmp_path / "pipe", NoBar)


def test_the_hash_beside_an_archive_is_compared(archive):
    beside = archive.with_name("mine.tar.gz.sha256")
    beside.write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  mine.tar.gz\n")
    assert verify(archive, NoBar).note == "its hash is that of mine.tar.gz.sha256"
    beside.write_text(f"{'0' * 64}  mine.tar.gz\n")
    with pytest.raises(PackageError, match="is not the archive that"):
        verify(archive, NoBar)


def packaged(*argv: str) -> None:
    """``ftlab package ...``"""
    given = command_line.read(["package", *argv])
    package(read(given.overrides), given.overrides)


def test_the_command_prints_what_it_found(archive, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    packaged("verify", "mine.tar.gz")
    printed = capsys.readouterr().out
    assert "mine.tar.gz: mine-peft, peft, 8 files" in printed and "for the base model tiny" in printed
    packaged("verify", "mine.tar.gz", "format=json")
    values = json.loads(capsys.readouterr().out)
    assert values["name"] == TOP and len(values["sha256"]) == 8
    with pytest.raises(ConfigError, match=r"task\.file: needs an archive"):
        packaged("verify")
    with pytest.raises(ConfigError, match=r"task\.format=hf: verify prints"):
        packaged("verify", "mine.tar.gz", "format=hf")
