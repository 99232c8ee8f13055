"""The PubMedQA mix; in: PQA-L and PQA-A, out: all yes/no rows, balanced validation and test from PQA-L alone."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from r2d_jax.data.named.contract import Job, NamedDataset, NamedRow, draw
from r2d_jax.data.named.json_entries import json_entries
from r2d_jax.data.named.pubmedqa import (
    CITATION,
    CONVERSIONS,
    COPYRIGHT_CAVEAT,
    GROUND_TRUTH,
    LABELLED,
    LICENCE,
    entry_row,
    labelled_rows,
)
from r2d_jax.data.named.pubmedqa_artificial import ARTIFICIAL, ARTIFICIAL_CAVEAT, ARTIFICIAL_DOWNLOAD
from r2d_jax.errors import UserError

_LABELS = ("yes", "no")


def balanced(rows: Sequence[NamedRow], seed: int, share: float) -> set[str]:
    """Ids of as many rows of each label as `share` of the rarer one, at least 1, lowest draws first."""
    by_label = collections.defaultdict(list)
    for row in rows:
        by_label[row.label].append(row.row_id)
    count = max(int(share * min(len(by_label[label]) for label in _LABELS)), 1)
    return {
        one
        for label in _LABELS
        for one in sorted(by_label[label], key=lambda one: (draw(seed, one), one))[:count]
    }


def _bare(question: str) -> str:
    return " ".join(question.split()).casefold()


def _labelled(job: Job) -> list[NamedRow]:
    rows = []
    for row in labelled_rows(job):
        if row.label in _LABELS:
            rows.append(row)
        else:
            job.tally.drop("labelled row that is neither yes nor no (maybe)")
    return rows


def _convert(job: Job) -> Iterator[NamedRow]:
    rows = _labelled(job)
    official = [row for row in rows if row.split == "test"]
    other = [row for row in rows if row.split == "trainval"]
    for name, part in (("test", official), ("trainval", other)):
        for label in _LABELS:
            if not any(row.label == label for row in part):
                raise UserError(
                    str(job.file("labelled")),
                    f"has no {label} in {name}",
                    "Give the file as it is published.",
                )
    test, validation = balanced(official, job.seed, 1.0), balanced(other, job.seed, 0.5)
    for row in rows:
        split = "test" if row.row_id in test else "validation" if row.row_id in validation else "train"
        if split == "train" and row.split == "test":
            job.tally.drop("official test row left out by balancing, and not trained on")
        else:
            yield dataclasses.replace(row, split=split)
    # What is held out must not come back through the artificial rows, which may ask of the same paper.
    ids = {row.row_id for row in rows}
    questions = {_bare(row.question) for row in rows}
    path = job.file("artificial")
    for entry in json_entries(path):
        if job.tally.full("train"):
            return
        row = entry_row(path, entry, "train")
        if row.row_id in ids or _bare(row.question) in questions:
            job.tally.drop("artificial row on a labelled row's paper or question")
        else:
            yield row


PUBMEDQA_MIX = NamedDataset(
    name="pubmedqa_mix",
    title="PubMedQA, labelled and artificial rows mixed",
    task="label: yes or no to a research question; rationale: the conclusion of the abstract",
    published_rows="PQA-L 1,000 and PQA-A 211,269; the size of the mix follows from the rule",
    download="Clone github.com/pubmedqa/pubmedqa (data/ori_pqal.json, data/test_ground_truth.json). "
    + ARTIFICIAL_DOWNLOAD,
    licence=LICENCE,
    caveats=(
        COPYRIGHT_CAVEAT,
        ARTIFICIAL_CAVEAT,
        "Reason2Decide (arXiv 2512.20074) reports about 96 % accuracy on a mix of artificial and labelled rows, in "
        "its test rows too; the rule of that mix is not known to us. The test rows here are expert-labelled, half yes "
        "and half no, so figures on them cannot be compared with that one.",
    ),
    citation=CITATION,
    conversions=(
        *CONVERSIONS,
        "maybe rows of PQA-L are left out, for PQA-A has none",
        "test: of the official test rows as many yes as no, all of the rarer label; the rest are not used at all",
        "validation: of the other labelled rows as many yes as no, half of the rarer label; the rest are train",
        "which rows: those with the lowest sha256 of seed and id, so file order does not matter",
        "train: these and all rows of PQA-A, unbalanced as published, but those with the PubMed id or the question "
        "(except for case and spacing) of any labelled yes/no row",
    ),
    files=(LABELLED, GROUND_TRUTH, ARTIFICIAL),
    splits=("train", "validation", "test"),
    labels=_LABELS,
    convert=_convert,
)
