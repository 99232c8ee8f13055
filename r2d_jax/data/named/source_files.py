"""Original files of a data set; in: a folder, file or hf: address, out: paths that the readers take, and hashes."""

import fnmatch
import hashlib
import lzma
import pathlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from r2d_jax.data.named.contract import NamedDataset, SourceFile
from r2d_jax.errors import UserError

_HF = re.compile(r"hf:(?P<repo>[^/@:]+/[^/@:]+)(@(?P<revision>[^/@:]+))?")
_MAX_ZIPPED_BYTES = 8 << 30
# Each way of packing tells damage in its own way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


class Located(NamedTuple):
    """Files of a data set: as found (for hashes), by key as readers take them, and the Hub commit, if any."""

    found: tuple[pathlib.Path, ...]
    by_key: dict[str, tuple[pathlib.Path, ...]]
    commit: str | None


class InputFile(NamedTuple):
    """What a card says of an input file; no folder, for that may name a person."""

    file: str
    bytes: int
    sha256: str


def locate(dataset: NamedDataset, source: str, scratch: pathlib.Path) -> Located:
    """Find each original file; look in the folder and one level below it.

    Args:
        dataset: says which files.
        source: a folder; a file, where the data set is one file; or hf:OWNER/NAME[@REVISION], which downloads
            these files of that Hub repository and nothing else.
        scratch: folder for unpacked files; the caller removes it.

    Raises:
        UserError: a file is missing or named twice, or the download failed.
    """
    commit = None
    if source.startswith("hf:"):
        folder, commit = _download(dataset, source)
    else:
        folder = pathlib.Path(source)
        if not folder.exists():
            raise UserError(source, "no such file or folder", "Check --source.")
    by_key: dict[str, tuple[pathlib.Path, ...]] = {}
    found: list[pathlib.Path] = []
    for wanted in dataset.files:
        paths = _matches(folder, wanted, alone=len([one for one in dataset.files if not one.optional]) == 1)
        if not paths and not wanted.optional:
            raise UserError(source, f"no file {' or '.join(wanted.names)}", f"{dataset.download}")
        if len(paths) > 1 and not wanted.many:
            names = ", ".join(str(path) for path in paths)
            raise UserError(
                source, f"holds several of {wanted.names[0]}: {names}", "Leave one of them there."
            )
        found += [path for path in paths if path not in found]
        by_key[wanted.key] = tuple(_readable(path, wanted, scratch) for path in paths)
    return Located(tuple(found), by_key, commit)


def _matches(folder: pathlib.Path, wanted: SourceFile, *, alone: bool) -> list[pathlib.Path]:
    if folder.is_file():
        named = any(fnmatch.fnmatch(folder.name, name) for name in wanted.names)
        return [folder] if named or (alone and not wanted.optional) else []
    for name in wanted.names:
        paths = sorted({path for at in (name, f"*/{name}") for path in folder.glob(at) if path.is_file()})
        if paths:
            return paths
    return []


def _readable(path: pathlib.Path, wanted: SourceFile, scratch: pathlib.Path) -> pathlib.Path:
    """The file under a name with the ending its reader needs; zipped ones are unpacked."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return _unpacked(path, scratch / f"{path.stem}{wanted.suffix}")
    # The readers unpack these as they read.
    packed = ".gz" if name.endswith(".gz") else ""
    if name.endswith(wanted.suffix + packed):
        return path
    target = scratch / f"{path.name}{wanted.suffix}{packed}"
    scratch.mkdir(parents=True, exist_ok=True)
    target.symlink_to(path.resolve())
    return target


def _unpacked(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            # Archives packed on a Mac carry a shadow of each file.
            members = [
                one for one in archive.infolist() if not one.is_dir() and "__MACOSX" not in one.filename
            ]
            if len(members) != 1:
                raise UserError(str(path), f"holds {len(members)} files, not one", "Unpack it yourself.")
            if members[0].file_size > _MAX_ZIPPED_BYTES:
                raise UserError(str(path), "unpacks to over 8 GiB", "Unpack it yourself.")
            with archive.open(members[0]) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    except _DAMAGED as error:
        # bz2 tells damage by an OSError without a number; those with one are the disk's.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(str(path), "is not a readable zip file", "Download it again.") from error
    return target


def _download(dataset: NamedDataset, source: str) -> tuple[pathlib.Path, str]:
    match = _HF.fullmatch(source)
    if match is None:
        raise UserError(source, "is not a Hub address", "Write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.")
    # Heavy, and not needed for files at hand.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [f"{at}{name}" for wanted in dataset.files for name in wanted.names for at in ("", "*/")]
    try:
        folder = huggingface_hub.snapshot_download(
            match["repo"], repo_type="dataset", revision=match["revision"], allow_patterns=patterns
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            source, f"cannot be downloaded ({type(error).__name__})", "Check the name and the network."
        ) from error
    return pathlib.Path(folder), pathlib.Path(folder).name


def hashes(paths: Sequence[pathlib.Path]) -> Iterator[InputFile]:
    """Name, size and sha256 of each file."""
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield InputFile(path.name, path.stat().st_size, digest)
