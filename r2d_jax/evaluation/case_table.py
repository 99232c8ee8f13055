"""The cases of a report; in: RunRecords and, only if asked for, case text, out: tables of rows as JSON values."""

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from r2d_jax.config_check import rationale_source
from r2d_jax.config_file import load_config
from r2d_jax.data.mentions import fold_white_space
from r2d_jax.errors import UserError
from r2d_jax.evaluation.run_record import RunRecord, is_number
from r2d_jax.runtime.run_files import RUN_CONFIG

_LONGEST_NAME = 80
# XML and UTF-8 cannot say these: control characters, halves of surrogate pairs and two that are none.
_UNSAYABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# In a name they would turn the direction of what stands beside it; a text has an element of its own.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def clean(text: Any) -> str:
    """A text as HTML, SVG and JSON can hold it; what they cannot is a replacement character."""
    return _UNSAYABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n").replace("\r", "\n"))


def short(text: Any, longest: int = _LONGEST_NAME) -> str:
    """A name (label, id, folder) on one line, clean and of bounded length."""
    name = _TURNING.sub("\N{REPLACEMENT CHARACTER}", clean(fold_white_space(str(text))))
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


@dataclasses.dataclass(frozen=True)
class CaseText:
    """Texts of one row; input and gold rationale of the data, never of a prediction."""

    input: str
    gold_rationale: str


def is_valid(row: Mapping[str, Any], labels: Collection[str]) -> bool:
    """Whether a row of predictions.jsonl gives a label of the set; `labels` decide where the row does not say."""
    valid = row.get("label_valid")
    return bool(valid) if valid is not None else fold_white_space(str(row.get("label", ""))) in labels


def is_right(row: Mapping[str, Any], labels: Collection[str]) -> bool:
    """Whether a prediction is a label of the set and equals the row's gold label, as in the accuracy."""
    gold, predicted = (fold_white_space(str(row.get(name, ""))) for name in ("gold_label", "label"))
    return is_valid(row, labels) and gold == predicted


def label_names(run: RunRecord) -> tuple[str, ...]:
    """The labels a prediction of this run can validly have, in the order of its tables."""
    shown = run.metrics.get("confusion", {}).get("labels", ())
    places = {label: place for place, label in enumerate(shown)}
    known = [fold_white_space(label) for label in run.labels or shown]
    return tuple(sorted(known, key=lambda label: places.get(label, len(places)))) or tuple(
        sorted({fold_white_space(str(row.get("gold_label", ""))) for row in run.predictions})
    )


def row_sets(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Numbers of the runs with predictions, those evaluated on the same test rows together.

    The same rows have the same ids and gold labels in the same order; generated rows, whose ids only count
    them, must also come from the same data.
    """
    together: dict[Any, list[int]] = collections.defaultdict(list)
    for number, run in enumerate(runs):
        if run.predictions:
            rows = tuple((str(row.get("id")), str(row.get("gold_label"))) for row in run.predictions)
            generated = run.settings.get("data.source") == "triage"
            together[rows, run.data_hash if generated else ""].append(number)
    return list(together.values())


def load_case_texts(run: RunRecord) -> list[CaseText]:
    """Input and gold rationale of each test row of a run, from the data that its config names.

    Raises:
        UserError: the data cannot be read, or its rows are no longer those of the run.
    """
    from r2d_jax.data.features import question_text
    from r2d_jax.data.splits import content_hash, splits_of_run

    config = load_config(run.path / RUN_CONFIG)
    source = rationale_source(config, config.stage2)
    splits = splits_of_run(config)
    if run.data_hash not in ("", content_hash(splits)) or [example.row_id for example in splits.test] != [
        row.get("id") for row in run.predictions
    ]:
        raise UserError(
            str(run.path),
            "the rows that its config names are no longer those of the run",
            "Restore the data, or leave out --include-text.",
        )
    return [
        CaseText(question_text(example), example.rationales.get(source or "", "")) for example in splits.test
    ]


def case_table(
    runs: Mapping[int, RunRecord], names: Sequence[str], texts: Sequence[CaseText] | None
) -> dict[str, Any]:
    """One table of cases, in the order to show: where runs differ, then where one is wrong, then the others.

    Without texts no case text is in it: a prediction that is no label of the set is only counted as one,
    since it may quote the input, and rationales are left out.

    Args:
        runs: runs by number, all with predictions for the same N rows.
        names: name of every run, by its number.
        texts: of the N rows; None: no text at all.

    Returns:
        labels: names of labels; runs: number and name of each run; text: whether there are texts;
        rows: per case [id, gold label, predictions, place in the file] and, with texts, [input, gold
        rationale]. A prediction is [label, confidence or null, flags] and, with texts, [label as generated
        where it is none of the set or "", rationale]. A label is its index in labels, or -1 for none of
        them. Flags: 1 label cut at its limit, 2 rationale cut, 4 right, 8 empty label.
    """
    allowed = {number: set(label_names(run)) for number, run in runs.items()}
    gold = [fold_white_space(str(row.get("gold_label", ""))) for row in next(iter(runs.values())).predictions]
    labels = list(dict.fromkeys(label for run in runs.values() for label in label_names(run)))
    if texts is not None:
        # With a wrong label column these are case text too.
        labels += sorted(set(gold) - set(labels))
    index = {label: place for place, label in enumerate(labels)}
    rows = []
    for place, label in enumerate(gold):
        predictions = [
            _prediction(run.predictions[place], index, allowed[number], texts is not None)
            for number, run in runs.items()
        ]
        row_id = short(next(iter(runs.values())).predictions[place].get("id", ""))
        row = [row_id, index.get(label, -1), predictions, place + 1]
        if texts is not None:
            row += [clean(texts[place].input), clean(texts[place].gold_rationale)]
        rows.append(row)
    return {
        "labels": [short(label) for label in labels],
        "runs": [[number, names[number]] for number in runs],
        "text": texts is not None,
        "rows": sorted(rows, key=_rank),
    }


def _prediction(
    row: Mapping[str, Any], index: Mapping[str, int], allowed: set[str], with_text: bool
) -> list[Any]:
    label = fold_white_space(str(row.get("label", "")))
    valid = is_valid(row, allowed)
    flags = (
        (1 if row.get("label_finished") is False else 0)
        | (2 if row.get("rationale_finished") is False else 0)
        | (4 if is_right(row, allowed) else 0)
        | (8 if not label else 0)
    )
    confidence: Any = row.get("label_confidence")
    values = [
        index.get(label, -1) if valid else -1,
        round(confidence, 3) if is_number(confidence) else None,
        flags,
    ]
    return [*values, "" if valid else clean(label), clean(row.get("rationale", ""))] if with_text else values


def _rank(row: list[Any]) -> int:
    predictions = row[2]
    if len({label for label, *_ in predictions}) > 1:
        return 0
    return 1 if any(not flags & 4 for _, _, flags, *_ in predictions) else 2
