"""Console tables at several widths, worked examples with their whole text, and files that appear whole."""

import io
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from r2d_jax.data.mentions import evidence_fraction, label_agreement
from r2d_jax.errors import UserError
from r2d_jax.evaluation import run_record
from r2d_jax.evaluation.comparison_table import figure_cell
from r2d_jax.evaluation.figures import FIGURES, LOSS, SCORE, SHARE, headings
from r2d_jax.evaluation.metrics import label_metrics
from r2d_jax.evaluation.overlap import bleu
from r2d_jax.evaluation.report import WorkedCase, print_results, print_worked_examples, result_lines
from r2d_jax.evaluation.report_values import cell
from r2d_jax.runtime.files import write_json, write_jsonl
from r2d_jax.runtime.reporting import Reporter
from r2d_jax.runtime.run_files import STEP_LOG

LEVELS = ["resuscitation", "very urgent", "urgent", "less urgent", "non-urgent"]


def console(width: int | None, *, terminal: bool = True) -> Console:
    if terminal:
        return Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    return Console(file=io.StringIO(), width=width, soft_wrap=True)


def shown(metrics_or_cases: Any, to: Console) -> str:
    (print_worked_examples if isinstance(metrics_or_cases, list) else print_results)(metrics_or_cases, to)
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def metrics(gold: list[str], predicted: list[str]) -> dict[str, Any]:
    rationales = [f"Chest pain means {label}" for label in predicted]
    return {
        **label_metrics(gold, predicted, LEVELS),
        "rows": len(gold),
        "model": "runs/quickstart",
        "bleu": bleu(rationales, [f"Chest pain means {label}" for label in gold]),
        "evidence_fraction": evidence_fraction(rationales, [("chest pain",)] * len(gold)),
        "label_agreement": label_agreement(rationales, predicted, LEVELS),
        "label_limit_fraction": 0.0,
        "rationale_limit_fraction": 0.125,
    }


GOLD = ["urgent"] * 4 + ["very urgent"] * 2 + ["non-urgent"] * 2
PREDICTED = [
    "urgent",
    "urgent",
    "urgent",
    "very urgent",
    "very urgent",
    "very urgent",
    "non-urgent",
    "nothing",
]


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in plain(text).splitlines() if line.strip().startswith(name + "  ")]
    return line.split(name, 1)[1].split()


@pytest.mark.parametrize(("width", "terminal"), [(80, True), (140, True), (80, False)])
def test_results_show_hand_worked_figures_at_every_width(width: int, terminal: bool) -> None:
    text = shown(metrics(GOLD, PREDICTED), console(width, terminal=terminal))
    assert "Results on 8 rows" in plain(text)
    # 6 of 8; F1: urgent 6/7, very urgent 4/5, non-urgent 2/3; always "urgent": 4 of 8, F1 2/3 over three.
    assert cells(text, "accuracy") == ["0.750", "0.500"]
    assert cells(text, "macro-F1") == ["0.775", "0.222"]
    # "nothing" as a fourth class: 0.775 * 3 / 4.
    assert cells(text, "macro-F1, published definition") == ["0.581"]
    assert cells(text, "outputs that are no label") == ["12.5", "%"]
    assert cells(text, "rationales that name the evidence") == ["100.0", "%"]
    # "nothing" is no label, yet the rationale names it.
    assert cells(text, "rationales that name their label") == ["100.0", "%"]
    assert cells(text, "labels cut at the length limit") == ["0.0", "%"]
    assert cells(text, "rationales cut at the length limit") == ["12.5", "%"]
    assert cells(text, "urgent") == ["4", "3", "1.000", "0.750", "0.857"]
    # No row has this label or this prediction.
    assert cells(text, "resuscitation") == ["0", "0", *3 * ["\N{EN DASH}"]]
    assert cells(text, "(no label)") == ["1"]
    assert "tok:13a" in plain(text)
    assert "warning" not in plain(text)
    assert "…" not in text
    assert all(
        len(line) <= width for line in plain(text).splitlines() if not line.startswith(("macro-F1:", "BLEU"))
    )


def test_piped_output_has_no_control_codes_and_a_terminal_has_colour() -> None:
    case = WorkedCase("x\x1b[31my\x07", "urgent", "urgent", "r", "g")
    for item in (metrics(GOLD, ["urgent"] * 8), [case]):
        assert "\x1b" not in shown(item, console(None, terminal=False))
    on_terminal = shown([case], console(80))
    assert "\x1b[32m" in on_terminal
    assert "\x1b[31my" not in on_terminal
    assert "\x07" not in on_terminal


def test_a_model_that_says_one_label_only_is_warned_about() -> None:
    text = plain(shown(metrics(GOLD, ["urgent"] * 8), console(100)))
    assert "warning: the model gives nearly one label only: 'urgent' in 100.0 % of rows" in text
    assert cells(text, "accuracy") == ["0.500", "0.500"]


def test_unknown_gold_labels_are_counted_but_not_printed() -> None:
    text = plain(shown(label_metrics(["a", "a case text"], ["a", "a"], ["a"]), console(100)))
    assert "warning: 1 gold labels" in text


def test_many_labels_show_the_most_common_in_their_order() -> None:
    gold = [f"label {n:03d}" for n in range(100) for _ in range(2 if n >= 70 else 1)]
    text = plain(shown(label_metrics(gold, gold, sorted(set(gold))), console(80)))
    assert "The 30 most common of 100 labels" in text
    assert re.findall(r"^ (label \d+)", text, re.M) == [f"label {n:03d}" for n in range(70, 100)]


def test_what_has_no_support_stands_beside_that_of_gold() -> None:
    names = ("unsupported_numbers", "unsupported_findings", "contradicted_findings")
    own, gold = ({f"{name}_fraction": share for name in names} for share in (0.814, 0.781))
    found = {"rows": 0, "statements": own, "gold_statements": gold}
    for section, shown_ones in ((found, 2), (found | {"gold_statements": None}, 1)):
        text = shown(metrics(GOLD, PREDICTED) | {"faithfulness": section}, console(200, terminal=False))
        lines = [" ".join(line.split()) for line in text.splitlines()]
        wanted = [
            line
            for name in names
            for line in (f"{name.replace('_', ' ')} 81.4 %", f"{name.replace('_', ' ')}, gold 78.1 %")[
                :shown_ones
            ]
        ]
        assert [line for line in lines if line.startswith(("unsupported ", "contradicted "))] == wanted
        assert ("read each beside the gold rationales'" in text) is (shown_ones == 2)


def test_absent_figures_have_no_line() -> None:
    bare = label_metrics(["a", "b"], ["a", "b"], ["a", "b"])
    text = plain(shown({**bare, "evidence_fraction": None, "label_agreement": None}, console(80)))
    assert "Results on 2 rows" in text
    for name in ("BLEU", "BERTScore", "evidence", "length limit", "None"):
        assert name not in text


CASE = WorkedCase(
    text="A [red]56-year-old[/red] man :smile:\nSpO2 ≥ 88 % " + "word " * 60 + "z" * 200,
    gold_label="very urgent",
    predicted_label="[bold]urgent",
    rationale="Because " + "of chest pain " * 30,
    gold_rationale="Chest [i]pain[/i].",
)


@pytest.mark.parametrize(("width", "terminal"), [(40, True), (80, True), (140, True), (None, False)])
def test_worked_examples_lose_no_character(width: int | None, terminal: bool) -> None:
    text = plain(shown([CASE, CASE], console(width, terminal=terminal)))
    squeezed = re.sub(r"\s", "", text)
    for part in (
        CASE.text,
        CASE.rationale,
        CASE.gold_rationale,
        "very urgent→[bold]urgent wrong",
        "Case 2 of 2",
    ):
        assert re.sub(r"\s", "", part) in squeezed
    if width:
        assert max(map(len, text.splitlines())) <= width


def test_worked_examples_mark_right_wrong_and_unlabelled() -> None:
    case = WorkedCase("x", "very urgent", " very  urgent", "", "")
    text = plain(shown([case], console(80)))
    assert re.search(r"right *$", text, re.M)
    assert "wrong" not in text
    assert "(empty)" in text
    assert "gold rationale" not in text
    unlabelled = plain(shown([WorkedCase("x", "", "urgent", "r", "")], console(80)))
    assert "right" not in unlabelled
    assert "wrong" not in unlabelled


ROWS: list[dict[str, Any]] = [
    {"id": "=1+1", "rationale": "-2 mmHg @home\nSpO2 ≥ 88 %"},
    {"id": "2", "rationale": "a\u2028b\x85c\u2029d\x1ce\x0cf", "label_valid": None},
]


def test_predictions_come_back_exactly_one_per_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_jsonl(path, iter(ROWS))
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == ROWS
    assert text.endswith("}\n")
    assert "≥" in text
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_a_failure_midway_keeps_the_old_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_jsonl(path, ROWS)
    before = path.read_bytes()

    def failing() -> Iterator[dict[str, Any]]:
        yield {"id": "new"}
        assert path.read_bytes() == before
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_jsonl(path, failing())
    assert path.read_bytes() == before
    with pytest.raises(TypeError, match="no JSON form"):
        write_json(path, {"a": object()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float32("nan")])
def test_a_figure_that_is_no_number_is_never_written(tmp_path: pathlib.Path, value: float) -> None:
    """JSON has no NaN: other programs could not read the file."""
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(UserError, match=r"predictions\.jsonl: a figure of a row is not a number"):
        write_jsonl(path, [{"label_confidence": 0.5}, {"label_confidence": value}])
    with pytest.raises(UserError, match=r"metrics\.json: a figure is not a number"):
        write_json(tmp_path / "metrics.json", {"accuracy": 0.5, "bleu": {"corpus": value}})
    assert list(tmp_path.iterdir()) == []


def test_a_scalar_that_is_no_number_is_null_in_the_log_and_a_gap_in_its_curve(tmp_path: pathlib.Path) -> None:
    """Such as the validation loss of weights whose products overflow."""
    reporter = Reporter(
        tmp_path, "stage 1", console=Console(quiet=True), total_steps=3, start_step=0, tensorboard=False
    )
    for step, loss in enumerate([2.0, float("nan"), float("-inf")], 1):
        reporter.scalars(step, {"eval/rationale_loss": loss})
    reporter.close()
    rows = [json.loads(line) for line in (tmp_path / STEP_LOG).read_text().splitlines()]
    assert [row["eval/rationale_loss"] for row in rows] == [2.0, None, None]
    ((steps, values),) = run_record._curves(rows).values()
    assert steps == (1, 2, 3)
    np.testing.assert_array_equal(values, [2.0, np.nan, np.nan])


def test_json_takes_numpy_numbers_and_paths(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.json"
    (tmp_path / ".metrics.json.partial").write_text("left behind by a killed process")
    write_json(
        path, {"f1": np.float32(0.5), "rows": np.int64(3), "ok": np.bool_(True), "at": pathlib.Path("a/b")}
    )
    assert json.loads(path.read_text()) == {"f1": 0.5, "rows": 3, "ok": True, "at": "a/b"}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "absent" / "metrics.json", {})


@pytest.mark.parametrize(
    ("value", "share", "score", "loss"),
    [
        (0.0, "0.0 %", "0.000", "0.000"),
        (1 / 2100, "< 0.1 %", "< 0.001", "0.000"),
        (0.0006, "0.1 %", "0.001", "0.001"),
        (2098 / 2100, "99.9 %", "0.999", "0.999"),
        (2099 / 2100, "> 99.9 %", "> 0.999", "1.000"),
        (1.0, "100.0 %", "1.000", "1.000"),
    ],
)
def test_rounding_makes_no_mistake_none_and_no_model_perfect(
    value: float, share: str, score: str, loss: str
) -> None:
    """One of 2,100 rows that was under-triaged was "0.0 %"."""
    told = {figure.unit: figure.unit.text(value) for figure in FIGURES}
    assert (told[SHARE], told[SCORE], told[LOSS]) == (share, score, loss)
    found = {"triage": {"under_fraction": value}, "intervals": {"triage.under_fraction": [value, 0.25]}}
    ((*_, bounds, _),) = result_lines(found)
    assert bounds == f"{share.removesuffix(' %')} to 25.0 %"


def test_nor_does_it_on_a_page_or_in_a_comparison() -> None:
    """A page had "0.000" for one in 2,100, and a table of methods "0.0"."""
    one, others = 1 / 2100, 2099 / 2100
    assert cell((one, (0.0, 0.25)), SHARE) == {"value": "< 0.001", "interval": "0.000 to 0.250"}
    assert cell((others, (0.75, 1.0)), SHARE) == {"value": "> 0.999", "interval": "0.750 to 1.000"}
    assert cell((1.0, (others, 1.0)))["interval"] == "> 0.999 to 1.000"
    assert cell((-0.25, None))["value"] == "-0.250"
    share = next(figure for figure in FIGURES if figure.unit is SHARE)
    means = (0.0, one / 10, others, 1.0)
    told = [figure_cell({share.name: {"mean": mean, "sd": 0.0}}, share) for mean in means]
    assert told == ["0.0 ± 0.0", "< 0.1 ± 0.0", "> 99.9 ± 0.0", "100.0 ± 0.0"]


def test_each_figure_stands_once_in_the_catalogue_and_no_heading_names_two() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    titles = [figure.title for figure in FIGURES if figure.printed]
    for told in (titles, *(list(headings(place).values()) for place in ("report", "compared", "groups"))):
        assert len(set(told)) == len(told)
    assert next(iter(headings("compared"))).name == "macro_f1"
