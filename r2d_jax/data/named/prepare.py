"""Preparation of a named data set; in: its name and original files, out: a folder with rows.jsonl and its card."""

import pathlib
import shlex
import shutil
from collections.abc import Callable
from typing import Any

import r2d_jax
from r2d_jax.data.data_card import DataCard, label_table
from r2d_jax.data.named.contract import ConversionCounts, Job, NamedDataset
from r2d_jax.data.named.registry import named_dataset
from r2d_jax.data.named.rows_file import RowsFile
from r2d_jax.data.named.source_files import Located, hashes, locate
from r2d_jax.data.whole_folder import whole_folder
from r2d_jax.errors import UserError

ROWS_FILE, CARD_FILE, CARD_TEXT_FILE = "rows.jsonl", "data_card.json", "data_card.md"


def prepare(
    name: str,
    source: str,
    out: pathlib.Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> DataCard:
    """Convert a data set into a folder, which stands there whole or not at all.

    Rows are written one by one, so memory does not grow with them, except for a set of their ids and of open labels.

    Args:
        name: of the data set.
        source: folder, file or hf: address of the original files.
        out: folder to write.
        limit: most rows of each split, the first of the file; None: all.
        seed: of every draw.
        overwrite: replace a folder that an earlier preparation wrote.
        report: gets a line about progress now and then.

    Raises:
        UserError: an unknown name, a file that is missing, broken or not of the shape that its authors publish, or a
            folder that is in use. Names file and line, never the text.
    """
    dataset = named_dataset(name)
    out = out.expanduser().absolute()
    whole = whole_folder(out, kind="prepared data set", markers=[CARD_FILE], overwrite=overwrite)
    with whole as partial:
        unpacked = partial / ".unpacked"
        located = locate(dataset, source, unpacked)
        inputs = [one._asdict() for one in hashes(located.found)]
        job = Job(located.by_key, seed, ConversionCounts(limit))
        written = RowsFile(dataset, job.tally, report)
        with (partial / ROWS_FILE).open("wb") as file:
            written.write(dataset.convert(job), file)
        _require_rows(dataset, job.tally, source)
        card = _card(dataset, written, located, source, out, inputs, seed)
        (partial / CARD_FILE).write_text(card.as_json(), encoding="utf-8")
        (partial / CARD_TEXT_FILE).write_text(card.as_markdown(), encoding="utf-8")
        shutil.rmtree(unpacked, ignore_errors=True)
    return card


def _require_rows(dataset: NamedDataset, tally: ConversionCounts, source: str) -> None:
    for split in dataset.splits:
        if not tally.rows[split]:
            dropped = ", ".join(f"{count} {reason}" for reason, count in tally.dropped.items())
            raise UserError(
                source,
                f"gives no row for the {split} split" + (f" (left out: {dropped})" if dropped else ""),
                "Give the files as published.",
            )


def _card(
    dataset: NamedDataset,
    written: RowsFile,
    located: Located,
    source: str,
    out: pathlib.Path,
    inputs: list[dict[str, Any]],
    seed: int,
) -> DataCard:
    tally = written.tally
    options = [] if tally.limit is None else ["--limit", str(tally.limit)]
    options += ["--seed", str(seed)]
    hub = f"{source.partition('@')[0]}@{located.commit}" if located.commit else None
    # The folder of the user's own machine is nobody else's business.
    shown_source = hub or pathlib.Path(source).name or "."
    return DataCard(
        name=dataset.name,
        title=dataset.title,
        task=dataset.task,
        command=shlex.join(
            ["r2d", "data", "prepare", dataset.name, "--source", shown_source, "--out", out.name, *options]
        ),
        made_by=f"r2d_jax {r2d_jax.__version__}",
        settings={"limit": tally.limit, "seed": seed},
        source=hub,
        inputs=inputs,
        rows_file={"file": ROWS_FILE, "bytes": written.bytes, "sha256": written.digest.hexdigest()},
        rows={split: tally.rows[split] for split in dataset.splits},
        labels=label_table(written.labels),
        rationales=written.rationales,
        dropped=dict(sorted(tally.dropped.items())),
        noted=dict(sorted(tally.noted.items())),
        licence=dataset.licence,
        caveats=dataset.caveats,
        citation=dataset.citation,
        download=dataset.download,
        conversions=dataset.conversions,
    )
