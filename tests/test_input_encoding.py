"""Files for --input in another encoding, or with another column of labels: what each command that reads one says."""

import dataclasses
import pathlib

import pytest
from cli_cases import compile_cache, r2d  # noqa: F401

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.evaluation import apply, calibrate_model
from r2d_jax.evaluation.model_folder import ModelCard, read_card
from r2d_jax.runtime.run_files import MODEL_CARD

ROWS = "question,label,rationale\nDolor de cabeza désde áyer,urgent,Sí\n"
ASKING = ("--base-url", "http://localhost:1/v1", "--llm", "none", "--dry-run")
# Of the model no more than its card is there, so the first three end where its weights are loaded.
COMMANDS = {
    "predict": ("--output", "out.jsonl"),
    "eval": ("--output", "out"),
    "calibrate": (),
    "judge": ("--predictions", "predictions.jsonl", "--output", "out", *ASKING),
    "zero-shot": ("--output", "out", *ASKING),
    "rationales generate": ("--output", "out.jsonl", *ASKING),
    "rationales polish": ("--output", "out.jsonl", *ASKING),
    "rationales audit": ("--output", "out"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: a model's card, rows in latin-1 and predictions of them."""
    card = ModelCard(T5Config(), ("urgent", "routine"), 4, 64, 8, "float32", "0", ColumnsConfig())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MODEL_CARD).write_text(card.to_json(), encoding="utf-8")
    (tmp_path / "rows.csv").write_text(ROWS, encoding="latin-1")
    line = '{"id": "line 2", "label": "urgent", "rationale": "r", "gold_label": "urgent"}\n'
    (tmp_path / "predictions.jsonl").write_text(line, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def loaded(*_):
        raise UserError("weights", "would be loaded now", "All rows are read.")

    monkeypatch.setattr(apply, "_open", loaded)
    monkeypatch.setattr(calibrate_model, "load_model", loaded)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_another_encoding_is_read(command, folder, r2d):  # noqa: F811
    arguments = (*command.split(), "--model", "model", *COMMANDS[command])
    given = (*arguments, "--input", "rows.csv")
    r2d(*given).refused("rows.csv line 2: byte 42 is not utf-8", "--encoding")
    ended = r2d(*given, "--encoding", "latin-1")
    if command in ("predict", "eval", "calibrate"):
        ended.refused("weights: would be loaded now")
    else:
        assert (ended.code, ended.err) == (0, "")
    again = ("--overwrite",) if command == "rationales audit" else ()
    r2d(*given, *again, "--encoding", "latin-99").refused("encoding 'latin-99': is not known")
    # The rows of a run are read as the run reads them.
    if command != "predict":
        r2d(*arguments, *again, "--encoding", "latin-1").refused("--input: is needed")


@pytest.mark.parametrize("command", ["eval", "zero-shot"])
def test_a_column_of_notes_is_no_label_set(command, folder, r2d):  # noqa: F811
    """A model without a label set took any column for its labels, and metrics.json and the prompt named them."""
    card = pathlib.Path("model", MODEL_CARD)
    card.write_text(dataclasses.replace(read_card(folder / "model"), labels=()).to_json(), encoding="utf-8")
    notes = [f"{number} years and brought in by Zebedee after a fall at home" for number in range(30)]
    rows = [f"{note},urgent,because\n" for note in notes]
    pathlib.Path("notes.csv").write_text("".join(["question,label,rationale\n", *rows]), encoding="utf-8")
    arguments = (command, "--model", "model", *COMMANDS[command], "--input", "notes.csv")
    wrong = (*arguments, "--question-column", "label", "--label-column", "question")
    ended = r2d(*wrong)
    ended.refused("column 'question': holds 30 different values in 30 rows", "--label-column")
    assert "Zebedee" not in ended.err
    ended = r2d(*arguments)
    assert "different values" not in ended.err
