"""A folder that stands whole or not at all; in: where, out: a partial folder to fill, moved there at the end."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

from r2d_jax.errors import UserError


@contextlib.contextmanager
def whole_folder(
    out: pathlib.Path, *, kind: str, markers: Sequence[str], overwrite: bool
) -> Iterator[pathlib.Path]:
    """A folder to fill, which stands at `out` only once the block has ended well.

    Args:
        out: the target, absolute.
        kind: what is in such a folder, for errors: "prepared data set".
        markers: files that folders of this kind hold; without all of them a folder is never replaced.
        overwrite: replace one that holds them.

    Raises:
        UserError: the target is in use, the disk refuses, or a file that the block reads is refused.
    """
    require_replaceable(out, kind=kind, markers=markers, overwrite=overwrite)
    partial, old = _beside(out)
    _clear(partial, old)
    try:
        partial.mkdir(parents=True)
        yield partial
        _replace(partial, out, old)
    except OSError as error:
        if error.filename is not None and not _near(pathlib.Path(error.filename), partial, out):
            raise UserError(
                str(error.filename),
                f"cannot be read ({error.strerror})",
                "Correct the path or its permissions.",
            ) from error
        raise UserError(
            str(error.filename or out),
            f"cannot be written ({error.strerror or error})",
            "Make room, correct the path or choose another folder.",
        ) from error
    finally:
        _clear(partial)


def require_replaceable(out: pathlib.Path, *, kind: str, markers: Sequence[str], overwrite: bool) -> None:
    """Refuse, before any work, what `whole_folder` would refuse as its target; what a kill moved aside comes back.

    Raises:
        UserError: it is in use, or no other folder can take its place.
    """
    _, old = _beside(out)
    if old.exists() and not out.exists():
        # A kill came between the two renames of `_replace`.
        os.replace(old, out)
    _check_target(out, kind, markers, overwrite)


def _beside(out: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    # Fixed names: what a killed process leaves behind is removed by the next one, and never piles up.
    return out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")


def _near(path: pathlib.Path, *written: pathlib.Path) -> bool:
    return any(path.is_relative_to(one) or one.is_relative_to(path) for one in written)


def _check_target(out: pathlib.Path, kind: str, markers: Sequence[str], overwrite: bool) -> None:
    if out.is_dir() and (os.path.ismount(out) or out.samefile(os.curdir)):
        kept = "where a file system is mounted" if os.path.ismount(out) else "the folder that commands run in"
        raise UserError(
            str(out),
            f"is {kept}, and cannot be written whole",
            f"Name a folder in it, such as {out / 'model'}.",
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError(str(out), "is a file", "Choose another folder; nothing was changed.")
    if not all((out / marker).is_file() for marker in markers):
        raise UserError(
            str(out), f"is not empty and holds no {kind}", "Choose another folder; nothing was changed."
        )
    if not overwrite:
        raise UserError(
            str(out), f"holds a {kind}", "Choose another folder or add --overwrite; nothing was changed."
        )


def _replace(partial: pathlib.Path, out: pathlib.Path, old: pathlib.Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        os.replace(partial, out)
        return
    # A folder cannot be renamed over a full one; the old one steps aside and comes back on failure.
    os.replace(out, old)
    try:
        os.replace(partial, out)
    except OSError:
        os.replace(old, out)
        raise
    _clear(old)


def _clear(*folders: pathlib.Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
