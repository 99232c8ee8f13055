"""Rows for the data check; in: a Config, and a file or the config's own data, out: rows with their splits."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from r2d_jax.config import ColumnsConfig, Config
from r2d_jax.config_check import rationale_sources, used_sources
from r2d_jax.config_file import load_config
from r2d_jax.data.check.run_check import ONE_SPLIT, Rows, rows_of
from r2d_jax.data.reading.raw_rows import RowCallback, shown
from r2d_jax.data.row_store import NameCodes, RowStore
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_source
from r2d_jax.data.split_rows import may_be_case_text, require_known_labels
from r2d_jax.data.splits import load_splits
from r2d_jax.errors import UserError

_TOP = "|".join(field.name for field in dataclasses.fields(Config))
_SETTING = re.compile(rf"[a-z]\w*(\.\w+)+=|({_TOP})=")


def file_and_settings(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file, where the first word is none of KEY=VALUE, and the settings."""
    if words and not _SETTING.match(words[0]):
        return words[0], list(words[1:])
    return None, list(words)


def check_config_of(
    config_file: str | None,
    file: str | None,
    columns: Mapping[str, str | None],
    rationales: Sequence[str] | None,
    settings: Sequence[str],
) -> Config:
    """The config that a check goes by.

    Args:
        config_file: YAML file, or None for defaults.
        file: rows to look at in place of the config's.
        columns: column by field of data.columns, None where it is not given.
        rationales: rationale columns; [] where rows have none, None where it is not given.
        settings: KEY=VALUE; they go before the config file.

    Raises:
        UserError: as `load_config`.
    """
    given: dict[str, str | None] = {
        f"data.columns.{field}": name for field, name in columns.items() if name is not None
    }
    if file is not None:
        given |= dict.fromkeys(("data.train_path", "data.validation_path", "data.test_path"))
        given |= {"data.source": "files", "data.path": file}
    changes = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    if rationales is not None:
        source = json.dumps(rationales[0]) if rationales else "null"
        changes.append(f"data.columns.rationales={json.dumps({name: name for name in rationales})}")
        changes += [f"stage{number}.rationale_source={source}" for number in (1, 2)]
        changes += [] if rationales else ["method=sft"]
    return load_config(config_file, [*changes, *settings])


def rows_to_check(
    config: Config,
    file: str | None,
    *,
    all_rationales: bool,
    show_ids: bool,
    progress: RowCallback | None = None,
) -> tuple[Rows, tuple[str, ...]]:
    """Read the rows, and what reading them for a run has to tell; many are kept on disk.

    Of a file no row is left out here: `check_rows` tells those that a run leaves out.

    Args:
        config: from `check_config_of`.
        file: rows to look at, split by their column alone; None: the rows as a run would have them.
        all_rationales: whether all sources that the config names are looked at, or those of its stages.
        show_ids: False gives a row of a file with an id column its number in the file as id.
        progress: called with the number of rows read so far.

    Raises:
        UserError: a row cannot be read (names file, place and field), or no row has a label of data.label_map.
    """
    names = rationale_sources(config) if all_rationales else used_sources(config)
    if file is None:
        splits = load_splits(config.data, config.seed, names, progress)
        return rows_of(splits), splits.notes
    data = config.data
    read = read_source(
        file,
        data.columns,
        rationale_sources=names,
        encoding=data.encoding,
        missing_rationales="error" if data.missing_rationales == "error" else "keep",
        label_map=data.label_map,
        progress=progress,
    )
    store, values = RowStore(), NameCodes()
    for example, split, *_ in read:
        store.append(example)
        values.append(split)
    require_known_labels(data.label_map, read.mapped)
    of_value = {value: name for name, value in data.split_values.items()}
    named = show_ids or data.columns.id is None
    if data.columns.split is not None:
        _require_splits(values, of_value, data.columns, f"{file}, field {data.columns.split!r}")
    names_of_splits = [of_value.get(value, value) or ONE_SPLIT for value in values.names]
    read_rows = store.all()

    def rows() -> Iterator[tuple[str, Example]]:
        splits = map(names_of_splits.__getitem__, values.codes.tolist())
        for number, (split, example) in enumerate(zip(splits, read_rows, strict=True), start=1):
            yield split, example if named else dataclasses.replace(example, row_id=f"row {number}")

    return rows, ()


def _require_splits(values: NameCodes, known: Mapping[str, str], columns: ColumnsConfig, where: str) -> None:
    others = set(values.names) - known.keys()
    # A column of case text must not become names of splits.
    long = [value for value in others if shown([value]) != repr(value)]
    if long or may_be_case_text(values, others, columns):
        told = "a value that names" if len(others) == 1 else f"{len(others)} values that name"
        raise UserError(where, f"holds {told} no split", "Name the column of the splits.")
