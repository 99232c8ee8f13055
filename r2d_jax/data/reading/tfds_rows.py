"""Rows of a prepared TFDS folder, without TensorFlow; in: "tfds:NAME_OR_FOLDER[:SPLIT]", out: Row by Row."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from r2d_jax.data.reading.cells import Number, Row, Typed, shown
from r2d_jax.data.reading.files import brief
from r2d_jax.errors import UserError, how_to_install

_INFO = "dataset_info.json"
_BATCH_ROWS = 1000
_DEPTH = 3


def import_tfds(where: str) -> Any:
    """The package tensorflow_datasets, which imports no TensorFlow.

    Raises:
        UserError: the extra [hub] is missing.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            where, f"needs tensorflow-datasets ({brief(error)})", f"Run {how_to_install('hub')}."
        ) from error
    return tensorflow_datasets


def _parse(address: str) -> tuple[pathlib.Path, str]:
    rest = address.removeprefix("tfds:")
    if "://" in rest:
        raise UserError(
            address, "is not on this machine, and TFDS is read only here", "Copy the folder here first."
        )
    head, _, last = rest.rpartition(":")
    name, split = (head, last) if head and re.fullmatch(r"\w+", last) else (rest, "")
    # TFDS itself writes a version after a colon: pubmed:1.0.0.
    name = re.sub(r":(\d+\.\d+\.\d+)$", r"/\1", name)
    folder = pathlib.Path(name).expanduser()
    if name and not (folder.is_absolute() or name.startswith(".") or folder.is_dir()):
        folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / name
    return folder, split


def _prepared_folder(address: str, folder: pathlib.Path) -> pathlib.Path:
    # The folder itself, or one above it: OUT, OUT/rows and OUT/rows/1.0.0 are all taken.
    infos = [path for depth in range(_DEPTH + 1) for path in sorted(folder.glob("*/" * depth + _INFO))]
    # While a data set is written it lies in a folder of this name.
    found = [path.parent for path in infos if not path.parent.name.startswith("incomplete.")]
    if len(found) > 1:
        names = (str(path.relative_to(folder)) for path in found)
        raise UserError(
            address, f"holds {len(found)} prepared data sets ({shown(names)})", "Name one of them."
        )
    if found:
        return found[0]
    raise UserError(
        address,
        f"no prepared data set in {folder} (no {_INFO})",
        "Prepare it with file_format=array_record; nothing is downloaded here.",
    )


def open_tfds(address: str) -> Mapping[str, Any]:
    """The split of an address, or all of them, by name; reads only local files and makes no network call.

    Returns:
        An ArrayRecordDataSource of TFDS for each split.

    Raises:
        UserError: no prepared folder, another file format than ArrayRecord, or no such split.
    """
    folder, split = _parse(address)
    folder = _prepared_folder(address, folder)
    tfds = import_tfds(address)
    try:
        builder = tfds.builder_from_directory(folder)
        splits = [name for name, info in builder.info.splits.items() if info.num_examples]
        if split and split not in splits:
            raise UserError(address, f"has no split {split!r}; it has {shown(splits)}", "Name one of these.")
        return {name: builder.as_data_source(name) for name in ([split] if split else splits)}
    except NotImplementedError as error:
        raise UserError(
            address,
            f"is stored as {builder.info.file_format.value}, not ArrayRecord",
            "Prepare it again with file_format=array_record.",
        ) from error
    except UserError:
        raise
    # Protobuf, JSON and ArrayRecord each tell a damaged folder in their own way.
    except Exception as error:
        raise UserError(
            address, f"cannot be read by TFDS ({brief(error)})", "Prepare or copy it again."
        ) from error


def tfds_rows(address: str, split: str, source: Any) -> Iterator[Row]:
    """Rows of one split of open_tfds in the order of its records; a place is "train row N", from 1."""
    features = source.dataset_info.features
    try:
        for start in range(0, len(source), _BATCH_ROWS):
            indices = range(start, min(start + _BATCH_ROWS, len(source)))
            for index, record in zip(indices, source.__getitems__(list(indices)), strict=True):
                place = f"{split} row {index + 1}"
                cells = {
                    name: _cell(f"{address} {place}, field {name!r}", features[name], record[name])
                    for name in features
                }
                yield Row(place, cells)
    except UserError:
        raise
    except Exception as error:
        # Its message may quote the record.
        raise UserError(
            address, f"a record cannot be read ({type(error).__name__})", "Prepare or copy it again."
        ) from error


def _cell(where: str, feature: Any, value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UserError(where, "holds bytes that are not UTF-8", "Prepare it as UTF-8 text.") from error
    # Only a ClassLabel has names; TFDS marks a missing one by -1.
    if getattr(feature, "names", None) and getattr(feature, "num_classes", 0):
        return None if value < 0 else feature.int2str(int(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return Number(value)
    if isinstance(value, bool | float | np.bool_ | np.floating):
        return Typed(type(value).__name__, str(value).lower())
    return Typed(type(value).__name__)
