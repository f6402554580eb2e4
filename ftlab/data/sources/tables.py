"""Parquet and Arrow: files as RecordBatches, RecordBatches as rows, and as bytes for another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftlab.data.sources.rows import NUL, Broken, holds_nul
from ftlab.errors import DataError, first_line

# --- files -----------------------------------------------------------------------------------------------------------


def parquet(path: Path, size: int, limit: int) -> Iterator[Any]:
    """:param limit: bytes that a batch should not be much larger than.
    :raises DataError: the file is damaged, or two columns have one name.
    """
    import pyarrow.parquet as pq

    # Without pre_buffer a batch is decoded as it is asked for; with it, a whole row group is read at once.
    with describe_damage(path, "Parquet"), pq.ParquetFile(path, pre_buffer=False) as file:
        _check_names(path, file.schema_arrow)
        meta = file.metadata
        stored = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        yield from file.iter_batches(rows_within(limit, stored, meta.num_rows, size), use_threads=False)


def parquet_count(path: Path) -> int:
    import pyarrow.parquet as pq

    with describe_damage(path, "Parquet"):
        return int(pq.read_metadata(path).num_rows)


def arrow(path: Path) -> Iterator[Any]:
    """An Arrow file or stream, which is also what ``datasets`` saves, and Feather.

    :raises DataError: the file is damaged, or two columns have one name.
    """
    import pyarrow as pa

    with describe_damage(path, "Arrow"):
        source = pa.memory_map(str(path))
        magic = source.read(6)
        source.seek(0)
        if magic.startswith(b"FEA1"):
            raise DataError(f"{path}: Feather of version 1 cannot be read; write it again as version 2, or as Parquet.")
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(source)
            _check_names(path, reader.schema)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            stream = pa.ipc.open_stream(source)
            _check_names(path, stream.schema)
            yield from stream


def arrow_count(path: Path) -> int:
    return sum(batch.num_rows for batch in arrow(path))  # mapped into memory: no row is touched


@contextmanager
def describe_damage(path: Path, kind: str) -> Iterator[None]:
    """Return the error for a file that pyarrow cannot read, on one line, with what to do.

    :raises DataError:
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error).rstrip(".")
        raise DataError(
            f"{path}: cannot be read as {kind}, it may be cut short or damaged ({reason}). Copy or download it again."
        ) from None


def _check_names(path: Path, schema: Any) -> None:
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one.")


def rows_within(limit: int, total: int, count: int, size: int) -> int:
    """Return how many rows of this average size fill about ``limit`` bytes: at least 1, and at most ``size``."""
    return size if total <= 0 or count <= 0 else max(1, min(size, limit * count // total))


def row_larger_than(limit: int, batch: Any) -> int | None:
    """Return the place in a RecordBatch of the first row that takes more bytes than ``limit``; None where none does.

    Batches are halved: one that is no larger costs a look at its length, however many rows it has.
    """
    if _bytes_of(batch) <= limit:
        return None
    if batch.num_rows == 1:
        return 0
    half = batch.num_rows // 2
    large = row_larger_than(limit, batch.slice(0, half))
    if large is not None:
        return large
    large = row_larger_than(limit, batch.slice(half))
    return None if large is None else half + large


def _bytes_of(batch: Any) -> int:
    """Bytes of its values. A column that names its values by number counts, of one row, that row's value alone."""
    import pyarrow as pa

    if batch.num_rows > 1:
        return int(batch.nbytes)
    columns = (one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns)
    return sum(column.nbytes for column in columns)


# --- RecordBatches ---------------------------------------------------------------------------------------------------


def rows(batch: Any) -> Iterator[Any]:
    """Each row as a dict, its nulls as None, its JSON as what that says."""
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:  # one of them; the others are good
        values = [_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
    decode = _json_decoder(batch.schema)
    is_padded = any(_has_struct(field.type) for field in batch.schema)
    for value in values:
        if isinstance(value, Broken):
            yield value
        else:
            value = {name: _without_padding(column) for name, column in value.items()} if is_padded else value
            yield Broken(NUL) if holds_nul(value) else decode(value) if decode else value


def _has_struct(type_: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _has_struct(type_.value_type)
    return bool(pa.types.is_struct(type_))


def _without_padding(value: Any) -> Any:
    """The value without the keys that are null. A column has every key that any of its structs has, so what one row
    lacks is null there, and would be trained as such; rows of JSON do not have it at all."""
    if isinstance(value, dict):
        return {key: _without_padding(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_padding(inner) for inner in value]
    return value


def _row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return Broken("not UTF-8 in one of its columns")


def _json_decoder(type_: Any) -> Callable[[Any], Any] | None:
    """Of a type (or schema) that has JSON somewhere: what replaces that JSON, a string to Arrow, by what it says.

    ``datasets`` stores columns so that have values of several types.
    """
    import pyarrow as pa

    if getattr(type_, "extension_name", None) == "arrow.json":
        return lambda text: None if text is None else json.loads(text)
    if isinstance(type_, pa.Schema) or pa.types.is_struct(type_):
        inner = {field.name: decode for field in type_ if (decode := _json_decoder(field.type))}
        if inner:
            return lambda value: value and {k: inner[k](v) if k in inner else v for k, v in value.items()}
    elif pa.types.is_list(type_) or pa.types.is_large_list(type_):
        decode = _json_decoder(type_.value_type)
        if decode:
            return lambda values: values and [decode(value) for value in values]
    return None


def pack(batch: Any) -> bytes:
    """A RecordBatch as Arrow's own stream: pickled as it is, a slice carries the whole table it was cut from."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def unpack(stream: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(stream).read_next_batch()
