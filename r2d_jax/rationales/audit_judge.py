"""The judge of `r2d judge` asked about gold rationales; in: rows and answers, out: scores per row."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.schema import Example
from r2d_jax.evaluation import judge
from r2d_jax.llm.questions import Case, Question, RowAnswer


def judge_question() -> Question:
    """The same rubric as for predictions; the judge's reasons are not kept."""
    return judge.judge_question(keep_justifications=False)


def judge_cases_of(examples: Sequence[Example], rationales: Sequence[str]) -> list[Case]:
    """What is asked about each rationale that is not empty, with the gold label as the one it explains."""
    given = [
        judge.Judged(example.row_id, example.label, rationale)
        for example, rationale in zip(examples, rationales, strict=True)
    ]
    return judge.judge_cases(examples, given)


def scores_of(rationales: Sequence[str], answers: Sequence[RowAnswer]) -> list[Mapping[str, Any] | None]:
    """Scores by criterion of each row; None for an empty rationale and for a row that was not judged.

    Args:
        rationales: N texts.
        answers: one for each that is not empty, in order.
    """
    left = iter(answers)
    found: list[Mapping[str, Any] | None] = []
    for rationale in rationales:
        answer = None if is_blank(rationale) else next(left)
        found.append(answer.value if answer and answer.value and not answer.fault else None)
    return found
