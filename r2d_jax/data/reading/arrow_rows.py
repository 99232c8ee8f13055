"""Rows of Arrow tables as a stream; in: a Parquet file or batches of a table, out: Row by Row, nothing converted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r2d_jax.data.reading.cells import Number, Row, Typed, repeated, shown
from r2d_jax.data.reading.files import Part, brief
from r2d_jax.errors import UserError, how_to_install

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1000


def parquet_rows(part: Part) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch; a place is "row N", from 1.

    Raises:
        UserError: pyarrow is missing, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            part.path, "Parquet needs the package pyarrow", f"Run {how_to_install('parquet')}."
        ) from error
    with part.open() as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            yield from table_rows(table.iter_batches(BATCH_ROWS), table.schema_arrow, part.path, part.name)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                part.path, f"is not a whole Parquet file ({brief(error)})", "Write or copy it again."
            ) from error


def table_rows(
    batches: Iterable["pyarrow.RecordBatch"],
    schema: "pyarrow.Schema",
    path: str,
    name: str,
    label_names: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Row]:
    """Rows of a table: text as it is, integers as `Number`, null as None, of all else only the type.

    Args:
        batches: in order.
        schema: of all of them.
        path: for messages.
        name: stands before every place, for example "train ".
        label_names: by column of integers, the text that each number stands for; -1 is null.

    Raises:
        UserError: a column appears twice, or text is not UTF-8.
    """
    if twice := repeated(schema.names):
        raise UserError(path, f"column {shown(twice)} appears twice", "Rename one of them.")
    number = 0
    for batch in batches:
        columns = []
        for column, values in zip(schema.names, batch.columns, strict=True):
            try:
                columns.append(_cells(values, (label_names or {}).get(column)))
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} {name}rows {number + 1} to {number + batch.num_rows}, field {column!r}",
                    "holds bytes that are not UTF-8",
                    "Write the column again as UTF-8 text.",
                ) from error
        for cells in zip(*columns, strict=True):
            number += 1
            yield Row(f"{name}row {number}", dict(zip(schema.names, cells, strict=True)), path)


def _cells(values: "pyarrow.Array", label_names: Sequence[str] | None) -> list[Any]:
    from pyarrow import types

    kind = values.type
    if types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return values.to_pylist()
    if types.is_integer(kind):
        numbers = values.to_pylist()
        if label_names is not None:
            return [None if one is None or one < 0 else label_names[one] for one in numbers]
        return [None if one is None else Number(one) for one in numbers]
    if types.is_floating(kind) or types.is_boolean(kind):
        name = str(kind)
        return [None if one is None else Typed(name, str(one).lower()) for one in values.to_pylist()]
    typed = Typed(str(kind))
    return [typed if there else None for there in values.is_valid().to_pylist()]
