"""data.label_map on files given with --input: gold labels become those that the model learned."""

import json

import pytest

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.evaluation import apply
from r2d_jax.evaluation.labelled_rows import labelled_rows
from r2d_jax.evaluation.model_folder import ModelCard, read_card
from r2d_jax.rationales.row_files import read_row_file
from r2d_jax.runtime.run_files import MODEL_CARD

WRITTEN = ["Benign", "benign ", "BENIGN", "malign"]
MAP = {"benign ": "Benign", "BENIGN": "Benign"}


@pytest.fixture
def model(tmp_path):
    def folder(label_map):
        card = ModelCard(
            T5Config(), ("Benign", "malign"), 4, 64, 8, "float32", "0", ColumnsConfig(), label_map=label_map
        )
        (tmp_path / MODEL_CARD).write_text(card.to_json(), encoding="utf-8")
        return tmp_path

    return folder


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "other.jsonl"
    lines = [json.dumps({"question": "q", "label": label, "rationale": "r"}) for label in WRITTEN]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("label_map", "wanted"), [(MAP, ["Benign"] * 3 + ["malign"]), ({}, WRITTEN)], ids=["mapped", "as written"]
)
def test_b026_the_labels_of_an_input_file_go_through_the_map(model, rows, monkeypatch, label_map, wanted):
    home = model(label_map)
    assert read_card(home).label_map == label_map
    found = labelled_rows(home, rows, split="test", columns={}, with_rationales=False)
    assert [one.label for one in found.examples] == wanted
    # These were left as they were written, so that none of them was a label of the model.
    asked = read_row_file(home, rows, split="all", columns={})
    assert [one.label for one in asked.examples] == wanted
    seen = []
    monkeypatch.setattr(apply, "_open", lambda path, batch_size: (None, None))
    monkeypatch.setattr(apply, "_predictor", lambda *_: (None, None))
    monkeypatch.setattr(apply, "_calibration_of", lambda *_: None)
    monkeypatch.setattr(
        apply, "evaluate_rows", lambda model, predictor, examples, *rest, **more: seen.extend(examples)
    )
    apply.evaluate_model(home, home / "out", input_file=rows, split="test", settings={})
    assert [one.label for one in seen] == wanted


def test_a_file_without_a_model_is_read_as_it_is(rows):
    found = labelled_rows(None, rows, split="test", columns={}, with_rationales=False)
    assert [one.label for one in found.examples] == WRITTEN
    assert found.labels == tuple(sorted(WRITTEN))


def test_a_card_of_an_older_folder_has_no_map(model):
    home = model(MAP)
    path = home / MODEL_CARD
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["label_map"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert read_card(home).label_map == {}
