"""BioASQ Task B, yes/no questions; in: the training JSON and golden test batches, out: rows with snippets."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.named.contract import (
    RATIONALES,
    ConversionCounts,
    Job,
    NamedDataset,
    NamedRow,
    SourceFile,
    drawn_split,
    text_of,
)
from r2d_jax.data.named.json_entries import json_entries, require_object
from r2d_jax.data.reading.raw_rows import kind_of
from r2d_jax.errors import UserError

_LABELS = ("yes", "no")
_AROUND = re.compile(r"[\s.\"']+")


def _flat(value: Any, where: str) -> list[str]:
    """Text, or texts in lists: years differ in how deep."""
    if value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _flat(one, where)]
    return [text_of({"answer": value}, "answer", where)]


def _label(cells: dict[str, Any], where: str, tally: ConversionCounts) -> str | None:
    answers = [text for text in _flat(cells.get("exact_answer"), where) if not is_blank(text)]
    if not answers:
        tally.drop("no exact answer")
        return None
    bare = {_AROUND.sub("", answer).casefold() for answer in answers}
    if len(bare) > 1:
        tally.drop("several exact answers that differ")
        return None
    (label,) = bare
    if label not in _LABELS:
        tally.drop("exact answer that is neither yes nor no")
        return None
    tally.note("labels respelled (case, stop, blanks, list)", cells["exact_answer"] != label)
    return label


def _snippets(cells: dict[str, Any], where: str, tally: ConversionCounts) -> list[str]:
    value = cells.get("snippets") or []
    if not isinstance(value, list):
        raise UserError(
            f"{where}, field 'snippets'", f"is {kind_of(value)}, not list", "Give the file as published."
        )
    texts = [text_of(require_object(one, where), "text", where) for one in value]
    kept = list(dict.fromkeys(text for text in texts if not is_blank(text)))
    tally.note("snippets left out (empty, or the same text again in one question)", len(texts) - len(kept))
    return kept


def _row(cells: dict[str, Any], where: str, tally: ConversionCounts) -> NamedRow | None:
    label = _label(cells, where, tally)
    if label is None:
        return None
    answers = [text for text in _flat(cells.get("ideal_answer"), where) if not is_blank(text)]
    snippets = _snippets(cells, where, tally)
    tally.note("questions without snippets", not snippets)
    tally.note("ideal answers beyond the third, left out", max(len(answers) - len(RATIONALES), 0))
    padded = [*answers, "", "", ""]
    return NamedRow(
        place=where,
        row_id=text_of(cells, "id", where),
        split="",
        question=text_of(cells, "body", where),
        context=" ".join(snippets),
        label=label,
        rationales=dict(zip(RATIONALES, padded, strict=False)),
    )


def _yes_no(path: pathlib.Path, tally: ConversionCounts) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in json_entries(path, "questions"):
        where = f"{path} {entry.place}"
        cells = require_object(entry.value, where)
        if text_of(cells, "type", where) == "yesno":
            yield where, cells
        else:
            tally.drop("question of another type (factoid, list, summary)")


def _bare(question: str) -> str:
    return " ".join(question.split()).casefold()


def _convert(job: Job) -> Iterator[NamedRow]:
    tally = job.tally
    golden = [
        row
        for path in job.files["golden"]
        for one in _yes_no(path, tally)
        if (row := _row(one[1], one[0], tally))
    ]
    ids, questions = {row.row_id for row in golden}, {_bare(row.question) for row in golden}
    for path in job.files["training"]:
        for where, cells in _yes_no(path, tally):
            # The training file of a year holds the golden rows of the years before.
            if text_of(cells, "id", where) in ids or _bare(text_of(cells, "body", where)) in questions:
                tally.drop("training question that a golden batch has too")
                continue
            row = _row(cells, where, tally)
            if row is not None:
                split = drawn_split(job.seed, row.question)
                yield dataclasses.replace(row, split="train" if golden and split == "test" else split)
    for row in golden:
        yield dataclasses.replace(row, split="test")


BIOASQ = NamedDataset(
    name="bioasq",
    title="BioASQ Task B, yes/no questions",
    task="label: yes or no to a biomedical question; rationale: the experts' ideal answer",
    published_rows="grows each year; training13b has 5,389 questions of all types (as others report)",
    download="Register at participants-area.bioasq.org; download 'Training NNb' (training13b.json) and, for a test "
    "split of its own, the golden files of the same year (13B1_golden.json, ...).",
    licence="no open licence found: 'data from NLM are distributed based on the conditions' of NLM "
    "(participants-area.bioasq.org), and one must register",
    caveats=(
        "Read the conditions that you accept at registration; they may forbid passing the rows on.",
        "Snippets are the experts' own choice: with them the task is easier than with retrieved text.",
        "Ideal answers mostly begin with yes or no, so a rationale tells its label.",
    ),
    citation=(
        "Tsatsaronis et al.: An overview of the BIOASQ large-scale biomedical semantic indexing and question "
        "answering competition. BMC Bioinformatics 16:138, 2015. Krithara et al.: BioASQ-QA. Scientific Data 10:170, "
        "2023."
    ),
    conversions=(
        "questions of type yesno only; question = body, as written",
        "label = exact_answer in lower case, without stops, quotes, blanks and list brackets (Yes, 'yes.', ['no'])",
        "context = text of the snippets in order, joined by one space; repeats within a question once",
        "rationale, rationale_2, rationale_3 = ideal answers in order (one text in early years, a list later), "
        "empty ones left out",
        "split: golden batches are test, and training questions with their id or question are left out; the others "
        "are 80 % train, 10 % validation, 10 % test by sha256 of seed and question (with golden batches this last "
        "tenth is train too), so that the same question is never in two splits",
    ),
    files=(
        SourceFile("training", ("*train*.json",), ".json"),
        SourceFile("golden", ("*_golden.json",), ".json", many=True, optional=True),
    ),
    splits=("train", "validation", "test"),
    labels=_LABELS,
    convert=_convert,
    rationales=RATIONALES,
)
