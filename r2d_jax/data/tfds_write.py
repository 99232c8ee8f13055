"""Splits as a prepared TFDS data set in ArrayRecord, without TensorFlow; in: Splits, out: a folder to read anywhere."""

import contextlib
import io
import pathlib
from collections.abc import Iterator
from typing import Any

from r2d_jax.data.reading.files import brief
from r2d_jax.data.reading.tfds_rows import import_tfds
from r2d_jax.data.schema import Splits
from r2d_jax.data.splits import NAMES
from r2d_jax.errors import UserError

NAME, VERSION = "rows", "1.0.0"
RATIONALE_PREFIX = "rationale_"
SUBGROUP_PREFIX = "subgroup_"
GROUP = "group"


def write_tfds(splits: Splits, folder: pathlib.Path, *, shards: int | None = None) -> pathlib.Path:
    """Write rows, in order, as the data set rows/1.0.0 below a folder; it appears whole or not at all.

    Every feature is text: id, split, question, context, label, rationale_SOURCE for each source and subgroup_NAME
    for each subgroup (its group as read, so of a number its band), and group where rows are of groups.

    Args:
        splits: the rows.
        folder: made where it is missing.
        shards: files per split; None: TFDS chooses by size. The order of the rows does not depend on it.

    Returns:
        The folder of the data set.

    Raises:
        UserError: tensorflow-datasets is missing, the data set is there already, or a split has fewer rows than
            shards or more text than TFDS writes without TensorFlow.
    """
    target = require_new(folder)
    if shards is not None:
        _require_rows(splits, shards)
    tfds = import_tfds(str(folder))
    tfds.disable_progress_bar()
    sources = list(splits.train[0].rationales)
    groups = list(splits.train[0].subgroups)
    names = ["id", "split", "question", "context", "label", *(RATIONALE_PREFIX + name for name in sources)]
    names += [SUBGROUP_PREFIX + name for name in groups]
    grouped = bool(splits.train[0].group)
    names += [GROUP] if grouped else []

    class Rows(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, name-defined]
        name = NAME
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
                disable_shuffling=True,
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {name: self._generate_examples(name) for name in NAMES}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
            for index, row in enumerate(getattr(splits, split)):
                texts = (row.row_id, split, row.question, row.context, row.label)
                rationales = (row.rationales[name] for name in sources)
                values = (row.subgroups[name] for name in groups)
                whose = (row.group,) if grouped else ()
                yield index, dict(zip(names, (*texts, *rationales, *values, *whose), strict=True))

    # Without this TFDS asks Google's storage for a prepared copy first.
    how = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
    try:
        builder = Rows(data_dir=str(folder), file_format="array_record")
        # It says "Downloading" on standard output, whatever is asked for.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=how)
    except ImportError as error:
        if "tensorflow" not in str(error):
            raise
        # TFDS holds this much of a split in memory; of more it keeps parts on disk, through TensorFlow.
        raise UserError(
            str(folder),
            "a split has more than about 1,000 MiB of text, which TFDS does not write without TensorFlow",
            "Train from the files themselves, or write fewer rows.",
        ) from error
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be written ({brief(error)})", "Choose another --out."
        ) from error
    return target


def _require_rows(splits: Splits, shards: int) -> None:
    counts = {name: len(getattr(splits, name)) for name in NAMES}
    fewest = min(counts, key=lambda name: counts[name])
    if shards > counts[fewest]:
        raise UserError(
            "--shards",
            f"{shards} is more than the {fewest} split has rows ({counts[fewest]})",
            f"Give {counts[fewest]} at most.",
        )


def require_new(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the data set below a folder, which must not be there: TFDS would take its rows for the new ones.

    Raises:
        UserError: it is.
    """
    target = folder / NAME / VERSION
    if target.exists():
        raise UserError(str(target), "is there already", "Choose another --out, or remove it.")
    return target


def columns_of(splits: Splits) -> dict[str, Any]:
    """The data.columns that read such a data set: the same rows in the same order, with the same hash."""
    rationales = {name: RATIONALE_PREFIX + name for name in splits.train[0].rationales}
    subgroups = {name: SUBGROUP_PREFIX + name for name in splits.train[0].subgroups}
    columns = {
        "id": "id",
        "question": "question",
        "context": "context",
        "label": "label",
        "rationales": rationales,
    }
    columns |= {"subgroups": subgroups} if subgroups else {}
    return columns | ({"group": GROUP} if splits.train[0].group else {})
