"""Arrow columns as NumPy: numbers, lists of numbers, flags; a Parquet file's columns in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.ingest.source import SourceFormatError, one_line

BATCH_ROWS = 16_384
CSV_BLOCK_BYTES = 4 << 20
TRUE, FALSE = {"1", "1.0", "true", "t", "yes"}, {"0", "0.0", "false", "f", "no", ""}


def pyarrow() -> Any:
    """The pyarrow package.

    Raises:
        SourceFormatError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise SourceFormatError(
            f"reading tables needs pyarrow: pip install '.[train]' in Slipway's checkout ({error})"
        ) from None
    return pyarrow


def open_parquet(path: Path) -> Any:
    """A ParquetFile.

    Raises:
        SourceFormatError: damaged, or no Parquet.
    """
    pyarrow()
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (OSError, ValueError) as error:
        raise SourceFormatError(f"{path} cannot be opened as Parquet ({one_line(error)}); fetch it again") from error


def parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """(number of the first row, record batch) of some columns of a Parquet file."""
    file = open_parquet(path)
    row = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            if batch.num_rows:
                yield row, batch
            row += batch.num_rows
    except (OSError, ValueError) as error:
        raise SourceFormatError(
            f"{path}: rows from {row} on cannot be read ({one_line(error)}); the file is damaged: fetch it again"
        ) from error
    finally:
        file.close()


def numbers(batch: Any, name: str, where: str) -> NDArray[np.float64]:
    """A column as [n] or, where it holds lists of equal length, [n, d]; a missing value becomes NaN.

    Raises:
        SourceFormatError: text, or lists of unequal length.
    """
    column = batch.column(name)
    kind = pyarrow().types
    from pyarrow import compute

    try:
        if kind.is_fixed_size_list(column.type) or kind.is_list(column.type) or kind.is_large_list(column.type):
            lengths = compute.list_value_length(column)
            shortest, longest = compute.min_max(lengths).as_py().values()
            if lengths.null_count or shortest != longest:
                raise ValueError("its lists are of unequal length, or missing")
            flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64)
            return flat.reshape(len(column), longest)
        if kind.is_string(column.type) or kind.is_large_string(column.type):
            raise ValueError("it holds text")
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SourceFormatError(
            f"{where}: column {name!r} ({column.type}) is not numeric ({one_line(error)}); needed are numbers, or "
            "lists of equally many"
        ) from error


def values(batch: Any, name: str, where: str, first_row: int) -> NDArray[np.float64]:
    """A column of one number or flag a row as [n]; words such as "true" are 1 and 0.

    Raises:
        SourceFormatError: a value that is neither; names the row.
    """
    kind = batch.column(name).type
    if not (pyarrow().types.is_string(kind) or pyarrow().types.is_large_string(kind)):
        return single(numbers(batch, name, where), name, where)
    out = np.full(batch.num_rows, np.nan)
    for row, value in enumerate(batch.column(name).to_pylist()):
        word = str(value or "nan").strip().lower()
        try:
            out[row] = 1.0 if word in TRUE else 0.0 if word in FALSE else float(word)
        except ValueError:
            raise SourceFormatError(f"{where}: row {first_row + row}: {name!r} is {word[:40]!r}, no number") from None
    return out


def flags(batch: Any, name: str, where: str, first_row: int) -> NDArray[np.bool_]:
    """A column of booleans, numbers or words such as "true" as [n]; a missing value is false.

    Raises:
        SourceFormatError: a value that is neither true nor false; names the row.
    """
    values = batch.column(name).to_pylist()
    out = np.zeros(len(values), np.bool_)
    for row, value in enumerate(values):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        word = str("" if value is None else value).strip().lower()
        if word not in TRUE and word not in FALSE:
            raise SourceFormatError(
                f"{where}: row {first_row + row}: {name!r} is {word[:40]!r}, neither true nor false (1 or 0)"
            )
        out[row] = word in TRUE
    return out


def single(values: NDArray[np.float64], name: str, where: str) -> NDArray[np.float64]:
    """[n] of a column of one value a row, [n] or [n, 1].

    Raises:
        SourceFormatError: more values a row.
    """
    if values.ndim == 2 and values.shape[1] != 1:
        raise SourceFormatError(f"{where}: column {name!r} holds {values.shape[1]} values a row, expected one")
    return values.reshape(len(values))
