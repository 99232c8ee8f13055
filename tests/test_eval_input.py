"""`r2d eval --input`: other column names, files of labels alone, and rows some of which have no rationale."""

import csv
import json
import re

import numpy as np
import pytest
import typer
from cli_cases import compile_cache, r2d, snapshot  # noqa: F401
from probability_cases import lively

from r2d_jax import cli
from r2d_jax.config import ColumnsConfig, EvaluationConfig
from r2d_jax.data.schema import Example
from r2d_jax.evaluation import apply
from r2d_jax.evaluation import evaluate as evaluating
from r2d_jax.evaluation.labelled_rows import rows_to_evaluate
from r2d_jax.evaluation.metrics import outside_name
from r2d_jax.evaluation.model_folder import TOKENIZER_FOLDER, WEIGHTS_FOLDER, ModelCard, read_card
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.scoring import Readings, score
from r2d_jax.runtime.checkpoint_files import save_params
from r2d_jax.runtime.files import write_texts
from r2d_jax.runtime.run_files import MODEL_CARD

LABELS = ("rash", "cough")
QUICK = ("evaluation.resamples=0", "--no-checks", "--batch-size", "8")
SKIP = "data.missing_rationales=skip"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights that give labels and rationales."""
    tokenizer, shape, params = lively(labels=LABELS)
    card = ModelCard(
        shape=shape,
        labels=LABELS,
        label_tokens=4,
        input_limit_tokens=128,
        rationale_tokens=8,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(id="id", rationales={"nurse": "reason"}),
        rationale_source="nurse",
    )
    folder = tmp_path_factory.mktemp("model")
    save_params(folder / WEIGHTS_FOLDER, params)
    write_texts(folder / TOKENIZER_FOLDER, tokenizer.files())
    (folder / MODEL_CARD).write_text(card.to_json())
    return folder


@pytest.fixture
def evaluate(r2d, model, tmp_path):  # noqa: F811
    """Runs `r2d eval` on six rows with these columns; the third and the fourth have blank rationales."""

    def run(names, *arguments, again=("--overwrite",)):
        row = {
            "id": "n{}",
            "question": "pain {}",
            "label": LABELS[0],
            "reason": "It is a rash since {} days.",
            **dict.fromkeys(("number", "note", "why", "class")),
        }
        row |= {"number": row["id"], "note": row["question"], "why": row["reason"], "class": row["label"]}
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(names)
            for number in range(6):
                cells = [
                    "" if number in (2, 3) and name in ("reason", "why") else row[name] for name in names
                ]
                table.writerow([cell.format(number) for cell in cells])
        output = tmp_path / "out"
        files = ("--input", tmp_path / "rows.csv", "--output", output)
        ended = r2d("eval", "--model", model, *files, *QUICK, *again, *arguments)
        metrics = output / "metrics.json"
        return ended, json.loads(metrics.read_text()) if metrics.exists() else None

    return run


def test_a_file_of_labels_alone_is_scored_by_them(evaluate):
    ended, metrics = evaluate(["id", "question", "label"])
    ended.done(
        "devices: cpu: ", "note: no row of .*rows.csv has a rationale, so labels alone are scored", "accuracy"
    )
    assert metrics["rows"] == 6
    assert not {"bleu", "rouge_l"} & metrics.keys()
    # A column that is asked for has to be there.
    ended, _ = evaluate(["id", "question", "label"], "--rationale-column", "raeson", SKIP)
    ended.refused("no column 'raeson'")


def test_rows_without_a_rationale_count_in_labels_alone(evaluate, model):
    everything = ["id", "question", "label", "reason"]
    ended, metrics = evaluate(everything)
    ended.refused("line 4, field 'reason': is empty")
    assert metrics is None
    ended, metrics = evaluate(everything, SKIP)
    ended.done("over the 4 rows that have a gold one", "Results on 6 rows")
    assert (metrics["rows"], metrics["bleu"]["rows"]) == (6, 4)
    assert evaluate(everything, "data.missing_rationales=keep")[1] == metrics
    # So says the run.
    (model / "config.yaml").write_text("data: {source: triage, missing_rationales: skip}\n")
    ended, of_run = evaluate(everything)
    (model / "config.yaml").unlink()
    assert of_run == metrics


@pytest.mark.parametrize("blank", ["", " ", "\u200b"])
def test_a_file_whose_rationales_are_all_blank_has_none(model, tmp_path, blank):
    card, path = read_card(model), tmp_path / "rows.csv"
    path.write_text(
        f"id,question,label,reason\n1,pain,rash,{blank}\n2,fever,cough,{blank}\n", encoding="utf-8"
    )
    options = {"names": {}, "encoding": "utf-8", "keep_missing": True, "need_subgroups": False}
    examples, source = rows_to_evaluate(card, path, card.columns, **options)
    assert (len(examples), source) == (2, None)


def test_columns_may_have_other_names(evaluate):
    others = ["number", "note", "class", "why"]
    named = ("--id-column", "number", "--question-column", "note", "--label-column", "class")
    ended, metrics = evaluate(others, *named, "--rationale-column", "why", SKIP)
    ended.done()
    _, as_trained = evaluate(["id", "question", "label", "reason"], SKIP)
    assert metrics == as_trained
    evaluate(others)[0].refused("no column 'question'")


def test_a_wrong_label_column_brings_no_note_into_figures_or_tables(evaluate):
    """Every note stood in metrics.json as a label of its own."""
    ended, metrics = evaluate(["id", "question", "note"], "--label-column", "note")
    ended.done("6 gold labels are none of the model's", re.escape(outside_name(6)))
    assert "pain" not in json.dumps(metrics) + ended.out
    assert metrics["accuracy"] == 0


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("evaluation.target_risk=0.1", "r2d calibrate"),
        ("evaluation.risk_confidence=0.9", "r2d calibrate"),
        ("evaluation.rationale_decode_tokens=32", "settled by the training"),
        ("evaluation.worked_examples=3", "--include-text"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(evaluate, setting, advice):
    ended, metrics = evaluate(["id", "question", "label"], setting)
    ended.refused(f"override {setting.partition('=')[0]}: ", advice)
    assert metrics is None


def test_columns_and_missing_rationales_are_of_a_file(r2d, model, tmp_path):  # noqa: F811
    for option in (("--label-column", "class"), (SKIP,)):
        ended = r2d("eval", "--model", model, "--output", tmp_path / "out", *option)
        ended.refused("--input")


def test_the_rows_with_a_rationale_are_scored_as_if_they_were_alone():
    """Every figure that compares with the gold text, and each interval's rows."""
    texts = ["It is a rash.", "", "A cough, so cough.", "  "]
    said = ["It is a rash.", "It is a cough.", "A cough it is.", "It is rash."]
    examples = [
        Example(str(number), "q", LABELS[number % 2], {"nurse": text}) for number, text in enumerate(texts)
    ]
    predictions = [Prediction("rash", True, 0.9, text) for text in said]
    settings = EvaluationConfig(resamples=50)
    every = ["rash", "cough", "cough", "rash"]
    scores = score(examples, predictions, LABELS, "nurse", settings, Readings(every, every, []))
    alone = score(
        examples[::2], predictions[::2], LABELS, "nurse", settings, Readings(every[::2], every[::2], [])
    )
    for name in ("bleu", "rouge_l", "gold_robustness_fraction"):
        assert scores.metrics[name] == alone.metrics[name]
    for name in ("rouge_l", "bleu.mean_sentence", "gold_robustness_fraction"):
        np.testing.assert_array_equal(scores.rows[name][::2], alone.rows[name])
        assert np.isnan(scores.rows[name][1::2]).all()
    # What compares with no gold text is of all rows.
    assert scores.metrics["label_agreement"]["names_label_fraction"] == 0.5
    assert (scores.metrics["accuracy"], scores.metrics["consistency_fraction"]) == (0.5, 0.5)


def test_rows_without_a_gold_rationale_count_nowhere_where_the_others_got_an_empty_one():
    """They were whole numbers then, which have no nan: the least of them stood in row_scores.jsonl."""
    examples = [Example(str(number), "q", LABELS[0], {"nurse": text}) for number, text in enumerate("a b ")]
    predictions = [Prediction("rash", True, 0.9, "")] * 4
    scores = score(examples, predictions, LABELS, "nurse", EvaluationConfig(resamples=50))
    for name in ("rouge_l", "bleu.mean_sentence"):
        np.testing.assert_array_equal(scores.rows[name], [0, np.nan, 0, np.nan])


def helps(command):
    """Name and help of every option and argument of a command and those below it."""
    for name, below in getattr(command, "commands", {}).items():
        yield from ((f"{name} {path}", text) for path, text in helps(below))
    yield from ((one.name, getattr(one, "help", None) or "") for one in command.params)


def test_help_says_what_is_read_and_what_is_needed():
    """Parquet was read and not named; `r2d rationales audit` needs no endpoint, and had it as required."""
    found = dict(helps(typer.main.get_command(cli.app)))
    for path in ("eval input", "predict input", "calibrate input", "judge input", "rationales audit input"):
        assert "JSONL, JSON, CSV, TSV or Parquet" in found[path]
    assert not [path for path, text in found.items() if "Required." in text or "JSONL or CSV" in text]


def test_a_finished_evaluation_is_replaced_on_request_only(evaluate, tmp_path, monkeypatch):
    """A stopped one is done again by the same command."""
    names, out = ["id", "question", "label"], tmp_path / "out"
    evaluate(names, again=())[0].done()
    before = snapshot(out)
    evaluate(names, again=())[0].refused("out/predictions.jsonl: is there already", "add --overwrite")
    assert snapshot(out) == before
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "score", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(names)
    assert [path.name for path in out.iterdir()] == ["predictions.jsonl"]
    evaluate(names, again=())[0].done()
    assert snapshot(out) == before
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "write_jsonl", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(names)
    # No figures beside predictions that they are not of, at any moment.
    assert not (out / "metrics.json").exists()
    evaluate(names, again=())[0].done()
    assert snapshot(out) == before


def test_the_process_that_writes_alone_needs_the_place(evaluate, tmp_path, monkeypatch):
    """Any other process of several may not see the folder, and was refused while the first one waited for it."""
    (tmp_path / "out").write_text("a file, where another process has its folder")
    names = ["id", "question", "label"]
    evaluate(names)[0].refused("out: is a file, not a folder")
    monkeypatch.setattr(apply, "is_writer", lambda: False)
    monkeypatch.setattr(apply, "require_file_for", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(names)
    monkeypatch.setattr(apply, "agree", lambda _: True)
    evaluate(names)[0].refused("out: is refused by process 0")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("predictions.jsonl", '{"id": "n0", "label": "rash"}'),
        ("predictions.jsonl", '{"id": "n0", "gold_label": "rash", "request_hash": "0"}'),
        ("predictions.jsonl", "years of work"),
        ("predictions.jsonl", "[" * 100_000),
        ("row_scores.jsonl", '{"id": "n0"}'),
    ],
)
def test_what_another_command_wrote_is_no_stopped_evaluation(evaluate, tmp_path, name, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    evaluate(["id", "question", "label"], again=())[0].refused(f"out/{name}: is there already")
    assert (tmp_path / "out" / name).read_text() == text


def test_no_file_of_an_earlier_evaluation_stays_beside_these_figures(evaluate, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("rationale_checks.jsonl", "mine.jsonl"):
        (tmp_path / "out" / name).write_text('{"id": "of another evaluation"}\n')
    evaluate(["id", "question", "label"])[0].done()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "faithfulness.jsonl",
        "metrics.json",
        "mine.jsonl",
        "predictions.jsonl",
        "row_scores.jsonl",
    }
