"""MedReason; in: its JSONL of questions with options and reasoning, out: rows labelled by the option's text."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.named.contract import (
    ConversionCounts,
    Job,
    NamedDataset,
    NamedRow,
    SourceFile,
    drawn_split,
    joined,
    text_of,
)
from r2d_jax.data.reading.raw_rows import raw_rows

_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(.*\S)[ \t\r]*$", re.MULTILINE)
_EXPLANATION = re.compile(r"\s*\bExplanation:.*", re.DOTALL)
_DECISION = re.compile(r"final decision is:?\s*\**\s*(yes|no|maybe)\b", re.IGNORECASE)
_LONGEST_OPEN_CHARS = 300


def _options(value: Any, where: str) -> tuple[str, dict[str, str]]:
    """The options as one text and by letter; some copies of the data have an object or a list."""
    if isinstance(value, Mapping):
        by_letter = {str(letter): text_of(value, letter, where) for letter in value}
    elif isinstance(value, list):
        by_letter = {
            chr(ord("A") + index): text_of({"options": text}, "options", where)
            for index, text in enumerate(value)
        }
    else:
        text = text_of({"options": value}, "options", where)
        return text, dict(_OPTION.findall(text))
    lines = [f"{letter}. {text}" for letter, text in by_letter.items()]
    return "\n".join(["Answer Choices:", *lines]) if lines else "", by_letter


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip(". ").casefold()


def _option_said(answer: str, options: Mapping[str, str]) -> tuple[str, str] | None:
    """The option that an answer names, as written among the options, and by which rule."""
    said = _bare(_EXPLANATION.sub("", answer))
    for text in options.values():
        if _bare(text) == said:
            return text, "text"
    letter = said.strip("().: ").upper()
    if letter in options:
        return options[letter], "letter"
    decision = _DECISION.search(answer)
    if decision:
        same = [text for text in options.values() if _bare(text) == decision[1].casefold()]
        return (same[0], "final decision") if same else None
    begun = [
        text for text in options.values() if _bare(text) and re.match(re.escape(_bare(text)) + r"\W", said)
    ]
    longest = sorted(begun, key=len)[-1:]
    return (longest[0], "beginning") if longest else None


def _label(answer: str, options: Mapping[str, str], tally: ConversionCounts) -> str | None:
    if options:
        found = _option_said(answer, options)
        if found is None:
            tally.drop("answer that is none of the options")
            return None
        tally.note(f"labels found by {found[1]} of the answer")
        return found[0]
    label = _EXPLANATION.sub("", answer).strip()
    if len(label) > _LONGEST_OPEN_CHARS:
        tally.drop(f"open question whose answer has over {_LONGEST_OPEN_CHARS} characters")
        return None
    tally.note("open questions: label is the answer's text")
    return label


def _row(path: pathlib.Path, place: str, cells: Mapping[str, Any], job: Job) -> NamedRow | None:
    where = f"{path} {place}"
    options_text, options = _options(cells.get("options"), where)
    label = _label(text_of(cells, "answer", where), options, job.tally)
    if label is None:
        return None
    question = text_of(cells, "question", where)
    name, number = (text_of(cells, key, where, number=True) for key in ("dataset_name", "id_in_dataset"))
    return NamedRow(
        place=where,
        row_id=f"{name}-{number}",
        split=drawn_split(job.seed, question),
        question=question if is_blank(options_text) else joined("{}\n{}", question, options_text),
        context="",
        label=label,
        rationales={"rationale": text_of(cells, "reasoning", where)},
    )


def _convert(job: Job) -> Iterator[NamedRow]:
    path = job.file("rows")
    for place, cells, *_ in raw_rows(path):
        row = _row(path, place, cells, job)
        if row is not None:
            yield row


MEDREASON = NamedDataset(
    name="medreason",
    title="MedReason",
    task="label: the answer to a medical question, mostly the text of one option; rationale: LLM reasoning",
    published_rows="32,682 (its card on the Hub)",
    download="Dataset UCSC-VLAA/MedReason on the Hugging Face Hub (its .jsonl file), or --source "
    "hf:UCSC-VLAA/MedReason.",
    licence="Apache-2.0 (card of UCSC-VLAA/MedReason on the Hub)",
    caveats=(
        "Its questions come from seven other data sets (MedQA, MedMCQA, PubMedQA, MMLU and others), each with a "
        "licence of its own; do not test on those what was trained on this.",
        "Reasoning is written by an LLM with the answer at hand and was filtered by an LLM.",
        "Most labels stand once: macro-F1 over them says little, accuracy says more. Every question shows its label "
        "among the options.",
        "Open questions and copies of one question across its sources may differ only in options.",
    ),
    citation="Wu et al.: MedReason: Eliciting Factual Medical Reasoning Steps in LLMs via Knowledge Graphs. "
    "arXiv 2504.00993, 2025.",
    conversions=(
        "question = question, a line break, options as written (no line break where there are none); rationale = "
        "reasoning as written",
        "label = text of the option that the answer names, as written among the options, not its letter: the answer "
        "up to 'Explanation:' equals it except for case, spacing and a stop; or is its letter; or says 'final decision "
        "is yes/no/maybe'; or begins with it (the longest such option)",
        "label of a question without options = its answer up to 'Explanation:'; over "
        f"{_LONGEST_OPEN_CHARS} characters it is a passage and the row is left out",
        "id = dataset_name-id_in_dataset",
        "split: 80 % train, 10 % validation, 10 % test by sha256 of seed and question without options, so the same "
        "question is never in two",
    ),
    files=(SourceFile("rows", ("ours_quality_33000.jsonl", "*edreason*.jsonl", "*.jsonl"), ".jsonl"),),
    splits=("train", "validation", "test"),
    labels=None,
    convert=_convert,
)
