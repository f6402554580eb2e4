"""Files of weights: whether they are whole, and what tensors they hold, from their first kilobytes. Reads no tensor."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import REMEDY, is_pointer, pointer_problem, read_object

# Names of a whole model's weights and of an adapter's, each as safetensors and as torch has them.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_ELSEWHERE = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax", "*.gguf": "GGUF", "*.pth": "another program"}
# Bits of an element, by the names that https://github.com/huggingface/safetensors gives its types.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weights:
    """:param problems: what is wrong with the files, each with its name and what to do.
    :param shapes: of every tensor by its name; empty where the files do not tell without being loaded.
    """

    problems: tuple[str, ...]
    shapes: Shapes


def inspect_weights(folder: Path, names: tuple[str, str] = MODEL_FILES) -> Weights:
    """Look at the files of weights that transformers, or PEFT, would load of a folder, and at no others.

    :param names: ``MODEL_FILES``, or ``ADAPTER_FILES`` of an adapter.
    """
    for name, read in zip(names, (read_shapes, _check_torch), strict=True):
        file, index = folder / name, folder / f"{name}.index.json"
        try:
            if _is_there(file):
                return Weights((), read(file))
            if _is_there(index):
                return _inspect_shards(index, read)
        except NotReadyError as error:
            return Weights((str(error),), {})
    others = [f"{file.name} ({kind})" for glob, kind in _ELSEWHERE.items() for file in sorted(folder.glob(glob))]
    hint = f"; {', '.join(others)} is not read" if others else ""
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        hint = f"; it has {shards[0].name} and no {names[0]}.index.json, which says what is in which file"
    return Weights((f"{folder} has no weights ({names[0]}){hint}. {REMEDY}.",), {})


def _is_there(file: Path) -> bool:
    return file.exists() or file.is_symlink()


def _inspect_shards(index: Path, read: Any) -> Weights:
    named = read_object(index).get("weight_map")
    is_map = isinstance(named, dict) and named and all(isinstance(file, str) for file in named.values())
    if not is_map:
        raise NotReadyError(f"{index} has no weight_map of tensors to files. {REMEDY}.")
    assert isinstance(named, dict)
    problems, shapes = [], dict[str, tuple[int, ...]]()
    files = sorted(set(named.values()))
    for number, name in enumerate(files, 1):
        if Path(name).name != name:
            problems.append(f"{index} names {name}, which is not in the folder itself. {REMEDY}.")
            continue
        try:
            of_file = read(index.parent / name)
        except NotReadyError as error:
            problems.append(f"{error} It is file {number} of {len(files)} in {index.name}.")
            continue
        shapes.update(of_file)
        lacking = [tensor for tensor, file in named.items() if file == name and of_file and tensor not in of_file]
        if lacking:
            problems.append(f"{index.parent / name} has no {lacking[0]}, which {index.name} says it has. {REMEDY}.")
    return Weights(tuple(problems), {} if problems else shapes)


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file.

    :raises NotReadyError: the file is not there, is cut short, or is none; with its name and what to do.
    """
    size = _size(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            short = f", {size:,} bytes" if size < 2**20 else ""
            raise NotReadyError(f"{file} is no safetensors file, or only the beginning of one{short}. {REMEDY}.")
        data = opened.read(length)
    try:
        header = json.loads(data)
        header.pop("__metadata__", None)
        tensors = {
            name: (one["dtype"], tuple(one["shape"]), tuple(one["data_offsets"])) for name, one in header.items()
        }
        end = max((offsets[1] for _, _, offsets in tensors.values()), default=0)
        wrong = next((name for name, tensor in tensors.items() if not _fits(*tensor)), None)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise NotReadyError(f"{file}: its header, which lists the tensors, is damaged. {REMEDY}.") from None
    if wrong is not None:
        raise NotReadyError(f"{file}: its header says impossible things of {wrong}. {REMEDY}.")
    if size != 8 + length + end:
        what = "is cut short" if size < 8 + length + end else "has bytes that belong to nothing"
        raise NotReadyError(f"{file} {what}: {size:,} bytes of {8 + length + end:,}. {REMEDY}.")
    return {name: shape for name, (_, shape, _) in tensors.items()}


def _fits(dtype: Any, shape: tuple[Any, ...], offsets: tuple[Any, ...]) -> bool:
    """Whether a tensor has as many bytes as its type and shape need; of a type from later than this code: any."""
    begin, end = offsets
    are_sizes = all(type(size) is int and 0 <= size < 2**62 for size in (*shape, begin, end)) and isinstance(dtype, str)
    return are_sizes and (dtype not in _BITS or (end - begin) * 8 == prod(shape) * _BITS[dtype])


def _check_torch(file: Path) -> dict[str, tuple[int, ...]]:
    """Since torch 1.6 such a file is a zip archive, whose list of contents stands at its end. Nothing is unpickled."""
    _size(file)
    with file.open("rb") as opened:
        start = opened.read(4)
    if start[:1] == b"\x80":  # a pickle of torch before 1.6
        return {}
    if not zipfile.is_zipfile(file):
        what = "is cut short: its end is missing" if start == b"PK\x03\x04" else "is no file of torch"
        raise NotReadyError(f"{file} {what}. {REMEDY}.")
    return {}


def _size(file: Path) -> int:
    """The bytes of a file of weights. :raises NotReadyError: it is none that can be read."""
    if file.is_symlink() and not file.exists():
        raise NotReadyError(f"{file} is a link to {file.readlink()}, which does not exist. {REMEDY}.")
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist" if not file.exists() else "is no file"
        raise NotReadyError(f"{file} {kind}. {REMEDY}.")
    try:
        if is_pointer(file):
            raise NotReadyError(pointer_problem(file))
        size = file.stat().st_size
    except OSError as error:
        raise NotReadyError(f"{file} cannot be read ({error.strerror}).") from None
    if size == 0:
        raise NotReadyError(f"{file} is empty. {REMEDY}.")
    return size
