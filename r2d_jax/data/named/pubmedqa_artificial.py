"""PubMedQA, artificial questions (PQA-A); in: ori_pqaa.json, out: the authors' train split and two halves of dev."""

import pathlib
import random
from collections.abc import Iterator

from r2d_jax.data.named.contract import Job, NamedDataset, NamedRow, SourceFile
from r2d_jax.data.named.json_entries import json_entries
from r2d_jax.data.named.pubmedqa import CITATION, CONVERSIONS, COPYRIGHT_CAVEAT, LICENCE, entry_row

ARTIFICIAL = SourceFile("artificial", ("ori_pqaa.json",), ".json")
AUTHORS_TRAIN_ROWS = 200_000
ARTIFICIAL_DOWNLOAD = (
    "PQA-A is linked as a Google Drive file in the README of github.com/pubmedqa/pubmedqa; "
    "save it as ori_pqaa.json."
)
ARTIFICIAL_CAVEAT = (
    "Questions are titles turned into questions by rules, and labels come from whether the title is negated; "
    "there is no maybe, and over nine in ten are yes, so read macro-F1 and not accuracy."
)


def authors_split(ids: list[str], seed: int) -> dict[str, str]:
    """Split of each id by the rule of the authors' split_dataset.py, which seeds with 0.

    Shuffle in file order, the first 200,000 are train (of a shorter file: nine in ten), the rest dev; dev is cut
    in two here, for it is to serve both selection and test.
    """
    ids = list(ids)
    random.Random(seed).shuffle(ids)
    train = AUTHORS_TRAIN_ROWS if len(ids) > AUTHORS_TRAIN_ROWS else len(ids) * 9 // 10
    middle = train + (len(ids) - train) // 2
    parts = {"train": ids[:train], "validation": ids[train:middle], "test": ids[middle:]}
    return {one: name for name, part in parts.items() for one in part}


def _ids(path: pathlib.Path) -> list[str]:
    return [entry.key for entry in json_entries(path)]


def _convert(job: Job) -> Iterator[NamedRow]:
    path = job.file("artificial")
    split = authors_split(_ids(path), job.seed)
    for entry in json_entries(path):
        if not job.tally.full(split[entry.key]):
            yield entry_row(path, entry, split[entry.key])


PUBMEDQA_ARTIFICIAL = NamedDataset(
    name="pubmedqa_artificial",
    title="PubMedQA, artificial (PQA-A)",
    task="label: yes or no to a question made from a title; rationale: the conclusion of the abstract",
    published_rows="211,269 (Jin et al. 2019)",
    download=ARTIFICIAL_DOWNLOAD,
    licence=LICENCE,
    caveats=(COPYRIGHT_CAVEAT, ARTIFICIAL_CAVEAT),
    citation=CITATION,
    conversions=(
        *CONVERSIONS,
        "split: ids in file order shuffled with --seed (0 in the authors' split_dataset.py), the first 200,000 are "
        "train (of a shorter file nine in ten), the rest, the authors' dev split, is half validation, half test",
    ),
    files=(ARTIFICIAL,),
    splits=("train", "validation", "test"),
    labels=("yes", "no"),
    convert=_convert,
)
