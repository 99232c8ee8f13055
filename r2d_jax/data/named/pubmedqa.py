"""PubMedQA, the 1,000 labelled questions; in: ori_pqal.json and the official test ids, out: trainval and test."""

import pathlib
from collections.abc import Iterator
from typing import Any

from r2d_jax.data.named.contract import Job, NamedDataset, NamedRow, SourceFile, text_of
from r2d_jax.data.named.json_entries import Entry, json_entries, require_object
from r2d_jax.data.reading.raw_rows import kind_of
from r2d_jax.errors import UserError

LABELLED = SourceFile("labelled", ("ori_pqal.json",), ".json")
GROUND_TRUTH = SourceFile("truth", ("test_ground_truth.json",), ".json")
CITATION = (
    "Jin, Dhingra, Liu, Cohen, Lu: PubMedQA: A Dataset for Biomedical Research Question Answering. "
    "EMNLP-IJCNLP 2019, pages 2567-2577."
)
LICENCE = "MIT (LICENSE of github.com/pubmedqa/pubmedqa)"
COPYRIGHT_CAVEAT = (
    "The text is from PubMed abstracts, whose copyright stays with their publishers; "
    "MIT is the statement of the data set's authors."
)
CONVERSIONS = (
    "question = QUESTION, label = final_decision, rationale = LONG_ANSWER (the abstract's conclusion), all as written",
    "context = CONTEXTS joined by one space; their headings (LABELS), MESHES, YEAR and the annotators' predictions "
    "are left out",
    "id = PubMed id",
)


def entry_row(path: pathlib.Path, entry: Entry, split: str) -> NamedRow:
    """A row of one entry; PQA-L and PQA-A have the same fields.

    Raises:
        UserError: a field is missing or no text.
    """
    where = f"{path} {entry.place}"
    cells = require_object(entry.value, where)
    return NamedRow(
        place=where,
        row_id=entry.key,
        split=split,
        question=text_of(cells, "QUESTION", where),
        context=" ".join(_texts(cells, "CONTEXTS", where)),
        label=text_of(cells, "final_decision", where),
        rationales={"rationale": text_of(cells, "LONG_ANSWER", where)},
    )


def _texts(cells: dict[str, Any], name: str, where: str) -> list[str]:
    values = cells.get(name)
    if not isinstance(values, list):
        raise UserError(
            f"{where}, field {name!r}", f"is {kind_of(values)}, not list", "Give the file as published."
        )
    return [text_of({name: value}, name, where) for value in values]


def official_test_labels(path: pathlib.Path) -> dict[str, str]:
    """Gold label of each id of the official test split."""
    return {
        entry.key: text_of({"label": entry.value}, "label", f"{path} {entry.place}")
        for entry in json_entries(path)
    }


def labelled_rows(job: Job) -> Iterator[NamedRow]:
    """All rows of PQA-L, split trainval or test as published.

    Raises:
        UserError: the two files do not belong together.
    """
    truth_path, path = job.file("truth"), job.file("labelled")
    truth = official_test_labels(truth_path)
    missing = set(truth)
    for entry in json_entries(path):
        row = entry_row(path, entry, "test" if entry.key in truth else "trainval")
        missing.discard(row.row_id)
        if truth.get(row.row_id, row.label) != row.label:
            raise UserError(
                row.place, f"its label is another one in {truth_path.name}", "Give two files of one version."
            )
        yield row
    if missing:
        raise UserError(
            str(path), f"lacks {len(missing)} ids of {truth_path.name}", "Give two files of one version."
        )


PUBMEDQA = NamedDataset(
    name="pubmedqa",
    title="PubMedQA, labelled (PQA-L)",
    task="label: yes, no or maybe to a research question; rationale: the conclusion of the abstract",
    published_rows="1,000, of them 500 official test rows (counted in the files)",
    download="Clone github.com/pubmedqa/pubmedqa; data/ has ori_pqal.json and test_ground_truth.json.",
    licence=LICENCE,
    caveats=(
        COPYRIGHT_CAVEAT,
        "450 training rows are few; published figures fine-tune on PQA-A first.",
        "The rationale is the conclusion that the label was read from, so a rationale given as input tells the label.",
    ),
    citation=CITATION,
    conversions=(*CONVERSIONS, "split = test for the ids of test_ground_truth.json, else trainval"),
    files=(LABELLED, GROUND_TRUTH),
    splits=("trainval", "test"),
    labels=("yes", "no", "maybe"),
    convert=labelled_rows,
)
