"""Whether a folder has a tokenizer, and its files are whole. Imports no tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import REMEDY, is_pointer, pointer_problem, read_object

_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "vocab.model", "spiece.model", "merges.txt",
    "sentencepiece.bpe.model", "tokenizer.model.v3", "tekken.json",
)  # fmt: skip
_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_LONGEST = "model_max_length"
_TEMPLATE = "chat_template.jinja"
_TEXTS = (_TEMPLATE,)


def tokenizer_problems(folder: Path, brings_code: bool) -> Iterator[str]:
    """Yield what is wrong with the tokenizer of a folder.

    :param brings_code: whether a class of its own reads it, from files of whatever name.
    """
    there = [folder / name for name in _VOCABULARIES if (folder / name).exists() or (folder / name).is_symlink()]
    if not there and not brings_code and not any(folder.glob("*.tiktoken")):
        yield (
            f"{folder} has no tokenizer: neither {', '.join(_VOCABULARIES[:2])} nor {_VOCABULARIES[2]}. Copy it from "
            "the model that this one was made of"
        )
    for file in there:
        try:
            if not file.is_file():
                kind = "a folder" if file.is_dir() else "a link to nothing"
                yield f"{file} is {kind}. {REMEDY}"
            elif is_pointer(file):
                yield pointer_problem(file)
            elif file.stat().st_size == 0 and file.name != "merges.txt":
                yield f"{file} is empty. {REMEDY}"
            elif file.name == "tokenizer.json" and not isinstance(read_object(file).get("model"), dict):
                yield f"{file} has no model, which a tokenizer consists of. {REMEDY}"
        except NotReadyError as error:
            yield str(error)
    for name in _OBJECTS:
        if (folder / name).exists():
            try:
                length = read_object(folder / name).get(_LONGEST)
                if length is not None and type(length) not in (int, float):
                    yield f"{folder / name}: {_LONGEST}={length!r} must be a number of tokens. Mend it, or leave it out"
            except NotReadyError as error:
                yield str(error)
    for name in _TEXTS:
        file = folder / name
        if file.exists():
            try:
                file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                yield f"{file} is no text in UTF-8. {REMEDY}"


def read_chat_template(folder: Path) -> tuple[Path, str] | None:
    """Return the chat template of a folder whose files are whole, after the file that it is in; None if it has none."""
    file = folder / _TEMPLATE
    if file.is_file():
        return file, file.read_text(encoding="utf-8")
    file = folder / _OBJECTS[0]
    source = read_object(file).get("chat_template") if file.is_file() else None
    return (file, source) if isinstance(source, str) else None
