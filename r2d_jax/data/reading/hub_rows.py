"""Rows of the Hugging Face Hub; in: "hf:NAME[@REVISION][:CONFIG][:SPLIT]", out: Row by Row and the names of splits."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from r2d_jax.data.reading.arrow_rows import BATCH_ROWS, table_rows
from r2d_jax.data.reading.cells import Row, shown
from r2d_jax.data.reading.files import brief
from r2d_jax.errors import UserError, how_to_install

if TYPE_CHECKING:
    import datasets

_FORM = "hf:NAME[@REVISION][:CONFIG][:SPLIT]"
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class HubAddress(NamedTuple):
    """Parts of an address; "" where not given. With one part after the name, `either` alone holds it."""

    name: str
    revision: str
    config: str
    split: str
    either: str


def parse_hub(address: str) -> HubAddress:
    """The parts of an address.

    "hf:NAME:X" is config X where there is one of this name, else split X; "hf:NAME::X" is always the split.

    Raises:
        UserError: not of this form, or the name of something on this machine.
    """
    whole, *parts = address.removeprefix("hf:").split(":")
    name, _, revision = whole.partition("@")
    # load_dataset would take a folder of this name before it looks at the Hub, and read another data set.
    if name and (pathlib.Path(name).exists() or name.startswith((".", "/", "~"))):
        raise UserError(
            address,
            "names a file or folder of this machine, which is not looked at through the Hub",
            "Name files without hf:, or run the command in another folder.",
        )
    if not _NAME.fullmatch(name) or len(parts) > 2:
        raise UserError(
            address,
            f"is not of the form {_FORM}",
            "Write for example hf:qiaojin/PubMedQA:pqa_labeled:train.",
        )
    if len(parts) == 1:
        return HubAddress(name, revision, "", "", parts[0])
    config, split = parts or ("", "")
    return HubAddress(name, revision, config, split, "")


def open_hub(address: str) -> "Mapping[str, datasets.Dataset]":
    """The split of an address, or all of them, by name; downloaded on first use, never run as code.

    Raises:
        UserError: the extra [hub] is missing, or the data set, its config or its split is not to be had.
    """
    wanted = parse_hub(address)
    try:
        import datasets
    except ImportError as error:
        raise UserError(address, "needs the package datasets", f"Run {how_to_install('hub')}.") from error
    config, split = wanted.config, wanted.split
    revision = wanted.revision or None
    try:
        if wanted.either:
            configs = datasets.get_dataset_config_names(wanted.name, revision=revision)
            config, split = (wanted.either, "") if wanted.either in configs else ("", wanted.either)
        found = datasets.load_dataset(wanted.name, config or None, revision=revision)
    # The library and the clients under it have dozens of errors for names, networks and accounts.
    except Exception as error:
        # Those of names and networks say what to do; those of conversion may quote a cell.
        telling = isinstance(error, ConnectionError | FileNotFoundError) or "BuilderConfig" in str(error)
        raise UserError(
            address,
            f"cannot be loaded from the Hub ({brief(error) if telling else type(error).__name__})",
            "Check name, config and network, or download its files and name them in data.path.",
        ) from error
    if split and split not in found:
        raise UserError(address, f"has no split {split!r}; it has {shown(found)}", "Name one of these.")
    return {split: found[split]} if split else dict(found)


def hub_rows(address: str, split: str, dataset: "datasets.Dataset") -> Iterator[Row]:
    """Rows of one split, by the types of its schema; a ClassLabel column gives the names of its classes."""
    import datasets

    names = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    tables = dataset.with_format("arrow").iter(BATCH_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())
    yield from table_rows(batches, dataset.features.arrow_schema, address, f"{split} ", names)
