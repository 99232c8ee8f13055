"""Checks of the places that a command is to write to; in: a path, out: a UserError before any work, where it cannot."""

import json
import pathlib
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r2d_jax.errors import UserError
from r2d_jax.runtime.files import require_writable
from r2d_jax.runtime.run_files import (
    CALIBRATION,
    EVALUATION_FILES,
    EVALUATION_METRICS,
    HF_CONFIG,
    HF_WEIGHTS,
    MODEL_CARD,
    PARAMETERS,
    PREDICTIONS,
    ROW_COUNTS,
    RUN_CONFIG,
    RUN_STATE,
)

REQUEST_HASH = "request_hash"
"""In a row of results, what an LLM was asked for it."""
_MODEL_FOLDERS = frozenset({"weights", "tokenizer", "onnx"})
_MODEL_FILES = frozenset(
    {
        MODEL_CARD,
        CALIBRATION,
        HF_CONFIG,
        "generation_config.json",
        HF_WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "README.md",
    }
)
_RUN_FOLDERS = frozenset({"stage1", "stage2", "tokenizer", "tokens", "export"})
_RUN_FILES = frozenset(
    {
        RUN_STATE,
        MODEL_CARD,
        CALIBRATION,
        RUN_CONFIG,
        PARAMETERS,
        ROW_COUNTS,
        *(f"evaluation/{name}" for name in EVALUATION_FILES),
    }
)
_OTHER_TABLES = frozenset({".csv", ".tsv", ".xlsx", ".parquet"})
# STAGE/latest/STEP/params/PROCESS/d/FILE of a run is the deepest.
_LEVELS = 7


def require_local(place: pathlib.Path, option: str = "--output") -> None:
    """Refuse an address such as gs://bucket/rows, which would become a local folder named "gs:".

    Args:
        place: as the user gave it.
        option: what named it, as it is told.

    Raises:
        UserError: it is an address.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise UserError(
            f"{option} {place}",
            "buckets cannot be written to directly yet",
            "Mount the bucket on every host (for example with Cloud Storage FUSE) and give that folder.",
        )


def require_file(
    file: pathlib.Path,
    option: str = "--output",
    *,
    endings: Sequence[str] = (),
    made: bool = False,
    inputs: Sequence[pathlib.Path | None] = (),
    overwrite: bool | None = None,
) -> None:
    """Refuse a place for a file where it cannot be written, or where something else would be lost.

    Args:
        file: as the user gave it.
        option: what named it, as it is told.
        endings: that its name may have, such as ".jsonl"; empty: any.
        made: whether the command makes the folder of the file.
        inputs: files that are read; None among them are passed over.
        overwrite: False refuses a file that is there, as all commands with --overwrite do; True replaces it. None:
            what is there is looked at elsewhere.

    Raises:
        UserError: an address, a folder, a device, a pipe or a link, no folder to write into, another ending, an
            input, a file of a run or model, a file that is there, or a place that cannot be written to.
    """
    _require_free(file, option, endings, made, inputs, overwrite)
    require_writable(file, f"{option} {file}")


def _require_free(
    file: pathlib.Path,
    option: str,
    endings: Sequence[str],
    made: bool,
    inputs: Sequence[pathlib.Path | None],
    overwrite: bool | None,
) -> None:
    require_local(file, option)
    where, another = f"{option} {file}", f"Choose another {option}; nothing was changed."
    if file.is_dir():
        raise UserError(where, "is a folder, not a file", "Name the file to write.")
    if endings and file.suffix.lower() not in endings:
        raise UserError(
            where, f"does not end in {endings[0]}", f"Name a file such as {file.stem}{endings[0]}."
        )
    if not (made or file.absolute().parent.is_dir()):
        raise UserError(where, "its folder does not exist", f"Create it, or choose another {option}.")
    require_no_input_among([file], *inputs, option=option)
    if _kind(file) not in (None, stat.S_IFREG):
        # A device or pipe would become a file, and a link no longer lead anywhere.
        raise UserError(where, "is a device, pipe or link", another)
    require_not_own(file, option)
    if overwrite is False and file.exists():
        raise UserError(where, "is there already", f"Choose another {option}, or add --overwrite.")


def require_json_lines(file: pathlib.Path, what: str, option: str = "--output") -> None:
    """Refuse a name that other programs take for a table of another kind.

    Args:
        file: as the user gave it.
        what: is to be written, such as "predictions".
        option: what named it, as it is told.

    Raises:
        UserError: the name ends as that of a CSV, TSV, Excel or Parquet file.
    """
    if file.suffix.lower() in _OTHER_TABLES:
        raise UserError(f"{option} {file}", f"{what} are JSON lines", "Name a file that ends in .jsonl.")


def require_folder(
    folder: pathlib.Path,
    written: Sequence[str],
    option: str = "--output",
    *,
    inputs: Sequence[pathlib.Path | None] = (),
    overwrite: bool | None = None,
) -> None:
    """Refuse a place for a folder of files where these cannot be written, or where something else would be lost.

    Args:
        folder: as the user gave it; need not exist.
        written: names of the files in it.
        option: what named it, as it is told.
        inputs: files that are read; None among them are passed over.
        overwrite: as for `require_file`, of each of these files.

    Raises:
        UserError: an address, a file or a part of a run or model, a place that cannot be written to, or one of the
            files cannot be written (see `require_file`).
    """
    require_local(folder, option)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{option} {folder}", "is a file, not a folder", "Name the folder to write to.")
    if not next(one for one in folder.absolute().parents if one.exists()).is_dir():
        raise UserError(f"{option} {folder}", "a file is in the way", f"Choose another {option}.")
    require_not_own(folder, option)
    for name in written:
        _require_free(folder / name, option, (), True, inputs, overwrite)
    require_writable(folder / "any file", f"{option} {folder}")


def require_no_evaluation(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Refuse to replace a finished evaluation, or what another command wrote, with a new one.

    An evaluation ends with metrics.json. One that was stopped before is done again as if nothing were there.

    Args:
        folder: that is to hold the evaluation.
        overwrite: whatever is there may be replaced.

    Raises:
        UserError: it may not, and one of the files is there.
    """

    def own(first: Mapping[str, Any]) -> bool:
        # `r2d predict` knows no gold labels, and what an LLM was asked has the hash of the request.
        return "gold_label" in first and REQUEST_HASH not in first

    rows = folder / PREDICTIONS
    beside = [folder / name for name in EVALUATION_FILES]
    require_unfinished(beside, rows=rows, last=folder / EVALUATION_METRICS, own=own, overwrite=overwrite)


def require_unfinished(
    files: Sequence[pathlib.Path],
    *,
    rows: pathlib.Path,
    last: pathlib.Path,
    own: Callable[[Mapping[str, Any]], bool],
    overwrite: bool,
) -> None:
    """Refuse to replace finished results, or what another command wrote; those of a stopped command are replaced.

    Args:
        files: all that are to be written, those to be named first in front.
        rows: which of them holds the rows, as JSONL.
        last: which of them is written last; without it the results are unfinished.
        own: whether the cells of a first row are of this command.
        overwrite: whatever is there may be replaced.

    Raises:
        UserError: they may not, and one of the files is there.
    """
    standing = [file for file in files if file.exists()]
    if overwrite or not standing or (not last.exists() and own(_first_cells(rows))):
        return
    raise UserError(str(standing[0]), "is there already", "Choose another --output, or add --overwrite.")


def _first_cells(file: pathlib.Path) -> Mapping[str, Any]:
    """Of the first row of a JSONL file, to tell what wrote it; none where it cannot be read or holds no rows."""
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return first if isinstance(first, dict) else {}


def require_no_input_among(
    outputs: Sequence[pathlib.Path], *inputs: pathlib.Path | None, option: str = "--output"
) -> None:
    """Refuse to write over an input, by whatever name: through a link or `..`, too.

    Raises:
        UserError: one of the outputs is one of the inputs.
    """
    for output in outputs:
        if any(path and path.resolve() == output.resolve() for path in inputs):
            raise UserError(
                str(output),
                "is an input, and would be written over",
                f"Choose another {option}; nothing was changed.",
            )


def require_distinct(outputs: Sequence[tuple[str, pathlib.Path]]) -> None:
    """Refuse two outputs under one name, or two names of one file.

    Args:
        outputs: option and file of each.

    Raises:
        UserError: two are the same.
    """
    seen: dict[pathlib.Path, str] = {}
    for option, file in outputs:
        place = file.resolve()
        if place in seen:
            raise UserError(f"{option} {file}", f"is the file of {seen[place]}", f"Choose another {option}.")
        seen[place] = option


def require_not_own(file: pathlib.Path, option: str = "--output") -> None:
    """Refuse a file or folder that a run or a model has made and needs, whether it is there yet or not.

    Raises:
        UserError: it is one.
    """
    place = file.parent.resolve() / file.name
    for home in list(place.parents)[:_LEVELS]:
        inside = place.relative_to(home)
        is_run, is_model = ((home / mark).is_file() for mark in (RUN_STATE, MODEL_CARD))
        own = is_run and (inside.parts[0] in _RUN_FOLDERS or inside.as_posix() in _RUN_FILES)
        own |= is_model and (inside.parts[0] in _MODEL_FOLDERS or inside.as_posix() in _MODEL_FILES)
        if own:
            what = "run" if is_run else "model"
            raise UserError(
                f"{option} {file}",
                f"belongs to the {what} in {home}",
                f"Choose another {option}; nothing was changed.",
            )


def _kind(file: pathlib.Path) -> int | None:
    """Kind of what is there, as of `stat.S_IFMT`; a link is a link. None: nothing."""
    try:
        return stat.S_IFMT(file.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
