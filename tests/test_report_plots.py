"""Drawings of the HTML report, looked at as the figures they are before they become SVG."""

import pytest

from r2d_jax.evaluation import calibration_plots, triage_plots


def drawn(monkeypatch, module, name, *arguments, **options):
    """The axes of a drawing, and its description for those who do not see it."""
    seen = []

    def keep(figure, description):
        figure.draw_without_rendering()
        seen.append((figure.axes, description))
        return "<svg></svg>"

    monkeypatch.setattr(module, "inline", keep)
    getattr(module, name)(*arguments, **options)
    return seen[0]


def test_what_is_no_label_is_drawn_on_neither_side(monkeypatch):
    """2 % under-triage and 30 % no label had a bar to 32 % on the side of under-triage."""
    levels = [
        triage_plots.LevelRow("urgent", 100, [3, 1], [2], 30),
        triage_plots.LevelRow("standard", 50, [5], [0], 0),
        triage_plots.LevelRow("never", 0, [], [], 0),
    ]
    (axes,), told = drawn(monkeypatch, triage_plots, "level_bars", "Mistakes", levels)
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert max(ends) == pytest.approx(0.02)
    assert min(ends) == pytest.approx(-0.1)
    # Nor does it widen the axis.
    assert axes.get_xlim() == pytest.approx((-0.108, 0.108))
    (column,) = axes.child_axes
    assert column.get_ylabel() == "no label"
    texts = [text.get_text() for text in column.get_yticklabels()]
    assert texts == ["30.0 %", "0.0 %", "\N{EN DASH}"]
    assert [tick.get_loc() for tick in column.yaxis.get_major_ticks()] == [0, 1, 2]
    assert "urgent: 4 over, 2 under of 100, 30 without a label" in told
    (axes,), _ = drawn(monkeypatch, triage_plots, "level_bars", "Mistakes", levels[1:])
    assert not axes.child_axes


@pytest.mark.parametrize(("worst", "last"), [(0.9, 1.0), (1.0, 1.0), (0.3, 0.4), (0.0, None)])
def test_no_tick_says_that_more_than_all_answers_are_wrong(monkeypatch, worst, last):
    """There were ticks up to 120 %: the axis has room for the legend."""
    points = [(0.5, worst / 2), (1.0, worst)]
    (axes,), _ = drawn(monkeypatch, calibration_plots, "risk_coverage", "Risk", points, worst, "red", "run")
    low, high = axes.get_ylim()
    assert (low, high) == pytest.approx((0, 1.45 * max(worst, 0.01)))
    ticks = axes.get_yticks()
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] <= min(high, 1.0) + 1e-9
    assert last is None or ticks[-1] == pytest.approx(last)
    assert axes.get_xticks()[-1] == pytest.approx(1.0)
