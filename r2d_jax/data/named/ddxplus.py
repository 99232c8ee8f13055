"""DDXPlus; in: patients with evidence codes and two code books, out: findings in words, pathology, its evidence."""

from collections.abc import Iterator, Mapping
from typing import Any

from r2d_jax.data.named.contract import Job, NamedDataset, NamedRow, SourceFile, joined, text_of
from r2d_jax.data.named.ddxplus_codes import findings, parse_codes, read_conditions, read_evidences
from r2d_jax.data.reading.raw_rows import shown
from r2d_jax.errors import UserError

_PARTS = {"train": "train", "validation": "validate", "test": "test"}
_QUESTION = "Age: {}. Sex: {}. First complaint: {} What is the diagnosis?"
_SEX = {"M": "male", "F": "female"}


def _row(cells: Mapping[str, Any], where: str, job: Job, books: tuple[Any, Any], row_id: str) -> NamedRow:
    evidences, conditions = books
    label = text_of(cells, "PATHOLOGY", where)
    if label not in conditions:
        raise UserError(
            f"{where}, field 'PATHOLOGY'",
            f"{shown([label])} is unknown",
            "Give patients and release_conditions.json of one release.",
        )
    sex = text_of(cells, "SEX", where)
    if sex not in _SEX:
        raise UserError(f"{where}, field 'SEX'", "is neither M nor F", "Give the file as published.")
    found = findings(parse_codes(text_of(cells, "EVIDENCES", where), where), evidences, where)
    first = findings([text_of(cells, "INITIAL_EVIDENCE", where)], evidences, where)[0]
    support = [one.words for one in found if one.code in conditions[label] and not one.is_default]
    job.tally.note("rows without a finding that is listed for their pathology", not support)
    return NamedRow(
        place=where,
        row_id=row_id,
        split=row_id.partition("-")[0],
        question=joined(_QUESTION, text_of(cells, "AGE", where), _SEX[sex], first.words),
        context=" ".join(one.words for one in found),
        label=label,
        rationales={
            "evidence": f"{' '.join(support)} These findings are listed for {label}."
            if support
            else f"None of the findings is listed for {label}."
        },
    )


def _convert(job: Job) -> Iterator[NamedRow]:
    books = read_evidences(job.file("evidences")), read_conditions(job.file("conditions"))
    for split, key in _PARTS.items():
        for number, (where, cells) in enumerate(job.rows(key, split), start=1):
            yield _row(cells, where, job, books, f"{split}-{number}")


DDXPLUS = NamedDataset(
    name="ddxplus",
    title="DDXPlus",
    task="label: one of 49 pathologies (column PATHOLOGY); rationale: a sentence made by rule, column evidence",
    published_rows="1,025,602 train, 132,448 validation, 134,529 test (as others count them)",
    download="figshare, DDXPlus Dataset (English), 22687585: release_evidences.json, "
    "release_conditions.json, release_train_patients.zip, release_validate_patients.zip, release_test_patients.zip.",
    licence="CC BY (README of github.com/mila-iqia/ddxplus)",
    caveats=(
        "Patients are synthetic: made from a knowledge base by rules, so scores near 100 % are possible and say "
        "little about real patients.",
        "The rationale is NOT written by anyone: it is put together here by a template from the findings that "
        "release_conditions.json lists for the pathology, and it names the label.",
        "Findings are the data set's English questions with answers, not clinical prose.",
    ),
    citation="Fansi Tchango, Goel, Wen, Martel, Ghosn: DDXPlus: A New Dataset For Automatic Medical Diagnosis. "
    "NeurIPS 2022, Datasets and Benchmarks.",
    conversions=(
        "label = PATHOLOGY as written; DIFFERENTIAL_DIAGNOSIS is left out",
        "question = age, sex (M: male, F: female) and INITIAL_EVIDENCE in words",
        "context = EVIDENCES in words, in their order: question_en, then yes for a yes/no evidence, or value_meaning "
        "in English (N: no, Y: yes), or the number with its scale; several values of one evidence in one sentence",
        "evidence = the findings whose code release_conditions.json lists for the pathology as symptom or "
        "antecedent, without those at their default value, then 'These findings are listed for PATHOLOGY.'",
        "a code, value, pathology or sex that the code books lack stops the conversion and names the row",
        "id = split and row number; split: as published (validate is validation)",
    ),
    files=(
        SourceFile("evidences", ("release_evidences.json",), ".json"),
        SourceFile("conditions", ("release_conditions.json",), ".json"),
        *(
            SourceFile(
                key,
                (
                    f"release_{key}_patients.csv",
                    f"release_{key}_patients",
                    f"release_{key}_patients.zip",
                    f"{key}.csv",
                ),
                ".csv",
            )
            for key in _PARTS.values()
        ),
    ),
    splits=("train", "validation", "test"),
    labels=None,
    convert=_convert,
    rationales=("evidence",),
    ids_are_made=True,
)
