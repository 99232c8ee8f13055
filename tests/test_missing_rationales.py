"""Rows that teach their label alone; in: rows of which some lack a rationale, out: stages, losses, figures."""

import json

import numpy as np
import pytest
from cli_cases import all_in_a_process, as_lines, lines_of, make_rows, settings
from ruamel.yaml import YAML

from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training.prepare import prepare
from r2d_jax.training.workdir import Workdir

pytest_plugins = ["cli_cases"]

pytestmark = pytest.mark.usefixtures("compiled_quickly")


KEEP = "data.missing_rationales=keep"
BLANK = ("", " ", "\u200b")


def rows_without(lacking, texts=BLANK):
    """30 rows; those of these numbers have a blank rationale, or none."""
    rows = make_rows()
    for place, number in enumerate(lacking):
        rows[number] |= {"rationale": texts[place % len(texts)]}
    return rows


def prepared(tmp_path, rows, *overrides):
    (tmp_path / "rows.jsonl").write_text(as_lines(rows), encoding="utf-8")
    YAML().dump(settings(tmp_path / "rows.jsonl"), tmp_path / "config.yaml")
    config = load_config(tmp_path / "config.yaml", [KEEP, *overrides])
    return prepare(config, Workdir(tmp_path / "work"), make_mesh(config.mesh))


def test_the_first_stage_learns_the_others_and_the_second_all(tmp_path):
    lacking = [0, 1, 5, 17, 18, 29]
    run = prepared(tmp_path, rows_without(lacking), "stage2.class_weights=balanced")
    assert "6 rows without a rationale teach their label alone ('train' 4, 'validation' 1, 'test' 1)" in (
        run.splits.notes
    )
    first, second = run.stages[1], run.stages[2]
    assert [len(first.train), len(second.train)] == [14, 18]
    assert [len(first.validation), len(second.validation)] == [5, 6]
    assert len(run.test) == 6
    there = [row for row in range(18) if row not in lacking]
    for name, array in first.train.arrays().items():
        np.testing.assert_array_equal(array[:], second.train.arrays()[name][there], err_msg=name)
    assert (first.train.rationale_length > 0).all()
    assert np.flatnonzero(second.train.rationale_length == 0).tolist() == [0, 1, 5, 17]
    assert second.train.label_weight.shape == (18,)
    assert run.test.rationale_length[-1] == 0


def test_each_stage_goes_by_its_own_source(tmp_path):
    rows = [row | {"nurse": "She fell."} for row in rows_without([0, 1])]
    rows[5]["nurse"] = ""
    sources = "data.columns.rationales={llm: rationale, nurse: nurse}"
    run = prepared(tmp_path, rows, sources, "stage1.rationale_source=llm", "stage2.rationale_source=nurse")
    assert "3 rows without a rationale teach what they have ('train' 3)" in run.splits.notes
    assert len(run.stages[1].train) == 16
    assert np.flatnonzero(run.stages[2].train.rationale_length == 0).tolist() == [5]


@pytest.mark.parametrize(("split", "lacking"), [("train", range(18)), ("validation", range(18, 24))])
def test_without_any_to_learn_or_to_select_by_nothing_begins(tmp_path, split, lacking):
    refused = rf"^data\.columns\.rationales\.default: no row of the {split} split has .*method=sft"
    with pytest.raises(UserError, match=refused):
        prepared(tmp_path, rows_without(lacking), "data.check=off")
    assert not (tmp_path / "work" / "model.json").exists()
    run = prepared(tmp_path, rows_without(lacking), "data.check=off", "method=sft")
    assert len(run.stages[2].train) == 18


@pytest.fixture(scope="module")
def home(tmp_path_factory, compile_cache):
    """Runs on rows of which some lack a rationale in each split, and of which no test row has any."""
    home = tmp_path_factory.mktemp("runs")
    commands = []
    for name, lacking in (("some", range(0, 30, 4)), ("labels", [0, *range(24, 30)])):
        (home / f"{name}.jsonl").write_text(as_lines(rows_without(lacking, [""])), encoding="utf-8")
        YAML().dump(settings(home / f"{name}.jsonl"), home / f"{name}.yaml")
        commands.append(("run", "--config", f"{name}.yaml", "--workdir", name, KEEP))
    commands.append(("eval", "--model", "some", "--output", "again"))
    return home, all_in_a_process(commands, cwd=home, cache=compile_cache)


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_scores_labels_of_all_rows_and_rationales_of_those_that_have_one(home):
    folder, (printed, _, _) = home
    assert "note: 8 rows without a rationale teach their label alone" in printed
    metrics = figures(folder / "some" / "evaluation")
    assert (metrics["rows"], metrics["bleu"]["rows"]) == (6, 4)
    scores = lines_of(folder / "some" / "evaluation" / "row_scores.jsonl")
    assert [row["rouge_l"] is None for row in scores] == [True, False, False, False, True, False]
    assert all(row["accuracy"] is not None for row in scores)
    assert figures(folder / "again") == metrics


def test_where_no_test_row_has_one_labels_alone_are_compared(home):
    folder, (_, printed, _) = home
    metrics = figures(folder / "labels" / "evaluation")
    assert metrics["rows"] == 6
    assert "bleu" not in metrics
    assert "rationale-missing" in printed
    assert all("rationale" in row for row in lines_of(folder / "labels" / "evaluation" / "predictions.jsonl"))
