"""Which figures of several runs are in one unit; in: metrics.json of each, out: figures that are not, and why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_BERTSCORE = ("model", "num_layers", "max_tokens", "rescaled", "baseline", "hash", "version")
_OF_STATEMENTS = ("faithfulness.statements.", "faithfulness.gold_statements.")
# The rule chooses by the costs, so all its figures depend on them.
_OF_COSTS = ("triage.expected_cost", "triage.rules.argmax.expected_cost", "triage.rules.least_cost.")
_ANEW = "`r2d eval --overwrite` of"


class LeftOut(NamedTuple):
    """Figures that must not stand side by side.

    Attributes:
        beginnings: of their dotted names; none: all may stand there, for reading with care.
        why: one line of Markdown, for the reader of the table.
    """

    beginnings: tuple[str, ...]
    why: str


def statement_rules(runs: Sequence[Mapping[str, Any]]) -> list[int]:
    """Versions of the rules that found what rationales state, in the runs (metrics.json) that looked for it."""
    # The first ones did not say it.
    return sorted({section.get("rules", 1) for section in _sections(runs, "faithfulness")})


def incomparable(runs: Sequence[Mapping[str, Any]]) -> Iterator[LeftOut]:
    """What was measured by other rules, costs or scorers in some runs (metrics.json) than in others.

    A run that has not measured a figure says nothing of its unit.
    """
    if len(rules := statement_rules(runs)) > 1:
        yield LeftOut(
            _OF_STATEMENTS,
            f"What is unsupported or contradicted is left out: it was found by rules of versions "
            f"{', '.join(map(str, rules))}. {_ANEW} the older runs makes them comparable.",
        )
    triage = _sections(runs, "triage")
    if _differ(triage, "order"):
        yield LeftOut(
            ("triage.",),
            "Figures of triage are left out: the runs have different orders of labels (`evaluation.triage.order`, "
            f"`first`). {_ANEW} some with the order of the others makes them comparable.",
        )
    elif _differ(triage, "cost_matrix"):
        yield LeftOut(
            _OF_COSTS,
            "Costs are left out: the runs have different cost matrices (`evaluation.triage.costs`). "
            f"{_ANEW} some with the costs of the others makes them comparable.",
        )
    scores = _sections(runs, "bertscore")
    if others := [name for name in _BERTSCORE if _differ(scores, name)]:
        yield LeftOut(("bertscore.",), f"BERTScore is left out: the runs differ in its {', '.join(others)}.")
    if _differ([metrics for metrics in runs if "label_decode" in metrics], "label_decode"):
        yield LeftOut(
            (),
            "Labels of some runs are decoded free, of others constrained (`label_decode`): compare consistency, "
            "sufficiency and gold robustness among runs of one decode only.",
        )


def _sections(runs: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [section for metrics in runs if (section := metrics.get(name))]


def _differ(sections: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(section.get(name) != sections[0].get(name) for section in sections)
