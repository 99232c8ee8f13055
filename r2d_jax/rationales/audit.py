"""What a rationale is worth by rules; in: a rationale with its row and thresholds, out: scores and reasons to fail."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from r2d_jax.data.features import question_text
from r2d_jax.data.grounding import copied_fraction, grounding, word_count
from r2d_jax.data.mentions import LabelFinder, is_blank
from r2d_jax.data.schema import Example

Names = Literal["gold", "other", "both", "none"]
Agreement = Literal["any", "no-other", "gold", "only-gold"]
_PROGRESS_ROWS = 10_000
NAMES: tuple[Names, ...] = ("gold", "other", "both", "none")
# Which of the above pass, by what the user asks for.
_PASSING: dict[Agreement, tuple[Names, ...]] = {
    "any": NAMES,
    "no-other": ("gold", "both", "none"),
    "gold": ("gold", "both"),
    "only-gold": ("gold",),
}
EMPTY, AGREEMENT, GROUNDED, NUMBERS = "empty", "agreement", "grounded", "unsupported numbers"
SHORT, LONG, COPIED, JUDGE = "too short", "too long", "copied", "judge"
JUDGED = ("correctness", "alignment", "grounding")
"""Criteria of the judge that a rationale must pass; completeness is told and never fails one."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What a rationale must reach.

    Attributes:
        agreement: which labels it may name. any: all pass; no-other: not another label alone; gold: its own
            label; only-gold: its own and no other.
        min_grounded: least share of its numbers and content words that the input holds, 0 to 1.
        max_unsupported_numbers: most numbers that the input does not hold.
        min_words: fewest words.
        max_words: most words; None: no limit.
        max_copied: most share of its words that are copied in runs of 5 or more, 0 to 1.
        min_judge_score: least score of the judge, where one is asked, 1 to 5.
    """

    agreement: Agreement = "no-other"
    min_grounded: float = 0.0
    max_unsupported_numbers: int = 2
    min_words: int = 1
    max_words: int | None = None
    max_copied: float = 0.9
    min_judge_score: int = 3


@dataclasses.dataclass(frozen=True)
class Audited:
    """One rationale with its scores.

    Attributes:
        row_id: of the row.
        label: gold label.
        names: which labels of the set it names: the gold one, only others, both, or none.
        grounded_fraction: see `Grounding`.
        numbers: how many it holds.
        unsupported_numbers: how many of them the input does not hold.
        content_words: how many different ones it holds.
        unsupported_words: how many of them the input does not hold.
        words: length.
        characters: length without white space at its ends; 0 where there is nothing to read.
        copied_fraction: share of words copied in runs.
        judge: scores by criterion, where a judge was asked and answered.
        failures: why it fails; () where it passes.
    """

    row_id: str
    label: str
    names: Names
    grounded_fraction: float | None
    numbers: int
    unsupported_numbers: int
    content_words: int
    unsupported_words: int
    words: int
    characters: int
    copied_fraction: float
    judge: Mapping[str, int] | None = None
    failures: tuple[str, ...] = ()

    def line(self) -> dict[str, Any]:
        """Its line of audit.jsonl: id and figures, no text but the reasons."""
        line = dataclasses.asdict(self)
        line["id"] = line.pop("row_id")
        del line["label"]
        line["failures"] = list(self.failures)
        return {"id": line.pop("id"), **line}


def labels_named(rationale: str, label: str, finder: LabelFinder) -> Names:
    """Which labels a rationale names, as whole words; words are found, not understood.

    Args:
        rationale: any text.
        label: the gold label.
        finder: of the whole label set.
    """
    found = {key for _, key in finder.found(finder.prepared(rationale))}
    gold = finder.key(label)
    if gold in found:
        return "both" if len(found) > 1 else "gold"
    return "other" if found else "none"


def audit_rationale(
    example: Example,
    rationale: str,
    finder: LabelFinder,
    thresholds: Thresholds,
    judge: Mapping[str, int] | None = None,
) -> Audited:
    """Score one rationale. An empty one fails as empty and for nothing else.

    Args:
        example: its row.
        rationale: any text.
        finder: of the whole label set.
        thresholds: what it must reach.
        judge: scores 1 to 5 by criterion; None: not judged.
    """
    source = question_text(example)
    found = grounding(rationale, source, ignored=[example.label])
    scores = Audited(
        row_id=example.row_id,
        label=example.label,
        names=labels_named(rationale, example.label, finder),
        grounded_fraction=found.grounded_fraction,
        numbers=found.numbers,
        unsupported_numbers=len(found.unsupported_numbers),
        content_words=found.words,
        unsupported_words=len(found.unsupported_words),
        words=word_count(rationale),
        characters=0 if is_blank(rationale) else len(rationale.strip()),
        copied_fraction=copied_fraction(rationale, source),
        judge=judge,
    )
    return dataclasses.replace(scores, failures=tuple(_failures(scores, thresholds)))


def _failures(scores: Audited, thresholds: Thresholds) -> list[str]:
    if not scores.characters:
        return [EMPTY]
    grounded = 1.0 if scores.grounded_fraction is None else scores.grounded_fraction
    judged = [scores.judge[name] for name in JUDGED] if scores.judge else []
    failing = {
        AGREEMENT: scores.names not in _PASSING[thresholds.agreement],
        GROUNDED: grounded < thresholds.min_grounded,
        NUMBERS: scores.unsupported_numbers > thresholds.max_unsupported_numbers,
        SHORT: scores.words < thresholds.min_words,
        LONG: thresholds.max_words is not None and scores.words > thresholds.max_words,
        COPIED: scores.copied_fraction > thresholds.max_copied,
        JUDGE: any(score < thresholds.min_judge_score for score in judged),
    }
    return [name for name, fails in failing.items() if fails]


def audit_rationales(
    examples: Sequence[Example],
    rationales: Sequence[str],
    labels: Sequence[str],
    thresholds: Thresholds,
    judged: Sequence[Mapping[str, int] | None] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Audited]:
    """Score N rationales of N rows; see `audit_rationale`.

    Args:
        examples: N rows.
        rationales: N texts.
        labels: the label set; labels of the rows are looked for even where they are not in it.
        thresholds: what each must reach.
        judged: N scores of the judge, None where a row has none; None: no judge was asked.
        progress: called with the number of rows so far, every 10,000 rows.
    """
    finder = LabelFinder(sorted({*labels, *(example.label for example in examples)}))
    scores = judged or [None] * len(examples)
    audited: list[Audited] = []
    for example, rationale, score in zip(examples, rationales, scores, strict=True):
        audited.append(audit_rationale(example, rationale, finder, thresholds, score))
        if len(audited) % _PROGRESS_ROWS == 0:
            progress(len(audited))
    return audited
