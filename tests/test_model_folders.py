"""Folders of models that something has spoilt; in: a sound folder and a change to it, out: one line, or the model."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from cli_cases import compile_cache, r2d
from t5_cases import SMALL, random_weights

from r2d_jax.config import ColumnsConfig, MeshConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_folder import (
    TOKENIZER_FOLDER,
    WEIGHTS_FOLDER,
    LoadedModel,
    ModelCard,
    find_model_folder,
    load_model,
    place_params,
    read_card,
)
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.checkpoint_files import save_params
from r2d_jax.runtime.files import write_texts
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.run_files import CALIBRATION, MODEL_CARD

__all__ = ["compile_cache", "r2d"]

# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["predict: explain: given label: urgent, not urgent", "fever and pain"], 140)


@pytest.fixture
def model(tokenizer):
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size, "num_layers": 1}, num_decoder_layers=1)
    card = ModelCard(
        shape=shape,
        labels=("urgent", "not urgent"),
        label_tokens=8,
        input_limit_tokens=48,
        rationale_tokens=6,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(),
    )
    params = place_params(random_weights(shape), make_mesh(MeshConfig()))
    return LoadedModel(card, T5Factory(shape), params, tokenizer, "stage2/best/1")


@pytest.fixture
def exported(model, tmp_path):
    export_model(model, tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def predict(r2d, tmp_path):
    """`r2d predict` of two rows with the model in a folder; nothing but a whole answer may be written."""

    def run(folder):
        rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        rows.write_text('{"question": "fever"}\n{"question": "pain"}\n')
        ended = r2d("predict", "--model", folder, "--input", rows, "--output", out)
        assert out.is_file() == (ended.code == 0), ended
        assert ended.code or len(out.read_text().splitlines()) == 2
        return ended

    return run


def reworded(folder, file=MODEL_CARD, **values):
    """The folder, with other values in one of its JSON files."""
    stored = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(stored | values), encoding="utf-8")
    return folder


def imported(model, folder, params):
    """A folder as `r2d import` lays it out."""
    folder.mkdir()
    save_params(folder / WEIGHTS_FOLDER, params)
    write_texts(folder / TOKENIZER_FOLDER, model.tokenizer.files())
    (folder / MODEL_CARD).write_text(model.card.to_json(), encoding="utf-8")
    return folder


def test_a_model_that_computes_nan_writes_neither_predictions_nor_a_calibration(
    model, predict, r2d, tmp_path
):
    """Weights may be numbers and their products none."""
    predict(imported(model, tmp_path / "sound", model.params)).done("2 predictions written")
    vast = jax.tree.map(np.array, model.params)
    vast["decoder"]["final_norm"]["scale"][:] = 3e38
    predict(imported(model, tmp_path / "vast", vast)).refused(
        r"out\.jsonl: a figure of a row is not a number"
    )
    rows = tmp_path / "labelled.jsonl"
    rows.write_text('{"question": "fever", "label": "urgent"}\n{"question": "pain", "label": "not urgent"}\n')
    ended = r2d("calibrate", "--model", tmp_path / "vast", "--input", rows)
    ended.refused("calibration: a probability is not a number")
    assert not (tmp_path / "vast" / CALIBRATION).exists()


@pytest.mark.parametrize("command", ["predict", "eval", "calibrate", "export", "serve"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_every_command(model, r2d, tmp_path, command, value):
    """Checkpoints hold what training saved; an earlier import took NaN in, too. They gave some label, and no line."""
    broken = jax.tree.map(np.array, model.params)
    table = broken["decoder"]["relative_bias"]["table"]
    table[-1, -1] = value
    folder, rows, out = (
        imported(model, tmp_path / "broken", broken),
        tmp_path / "rows.jsonl",
        tmp_path / "out",
    )
    rows.write_text('{"question": "fever", "label": "urgent", "rationale": "r"}\n' * 2)
    read, written = ("--input", rows), ("--output", out)
    options = {
        "predict": (*read, *written),
        "eval": (*read, *written),
        "calibrate": read,
        "export": written,
        "serve": ("--port", "0"),
    }
    ended = r2d(command, "--model", folder, *options[command])
    ended.refused(
        rf"{folder}/weights: NaN or infinity in decoder/relative_bias/table\. Take another checkpoint"
    )
    assert not out.exists()
    # Commands that compute tell their devices before the weights are read.
    assert all(line.startswith("devices: ") for line in ended.out.splitlines())


def test_the_number_of_weights_that_are_no_numbers_is_told(model, predict, tmp_path):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), model.params)
    others = len(jax.tree.leaves(broken)) - 1
    predict(imported(model, tmp_path / "broken", broken)).refused(rf"in decoder/\S+ and {others} more\.")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"compute_dtype": "float16"}, "compute_dtype: Input should be 'float32' or 'bfloat16'"),
        ({"compute_dtype": "int8"}, "compute_dtype: "),
        ({"label_tokens": 0}, "label_tokens: Input should be greater than or equal to 2"),
        ({"input_limit_tokens": 1}, "input_limit_tokens: "),
        ({"rationale_tokens": 0}, "rationale_tokens: "),
        ({"rationale_tokens": None}, "rationale_tokens: "),
        ({"labels": [1, 2]}, r"labels\.0: Input should be a valid string"),
        ({"labels": "urgent"}, "labels: "),
        ({"labels": [["urgent"]]}, "labels"),
        ({"labels": 7}, "labels: "),
        ({"label_map": ["a"]}, "label_map: "),
        ({"columns": 3}, "columns: "),
        ({"shape": []}, "shape: "),
        ({"label_decode": "beam"}, "label_decode: "),
    ],
)
def test_a_value_that_no_card_has_is_named(exported, predict, values, wanted):
    predict(reworded(exported, **values)).refused(f"r2d_model\\.json: not a readable model card \\({wanted}")


@pytest.mark.parametrize(
    "content", [b"\xff" * 9, b"[]", b"null", b"", b"{}", b'{"labels": ' + b"[" * 100_000]
)
def test_a_card_that_is_none_is_one_line(exported, predict, content):
    (exported / MODEL_CARD).write_bytes(content)
    predict(exported).refused(r"r2d_model\.json: not a readable model card")


def test_settings_of_a_tokenizer_that_python_cannot_read_count_as_none(exported, predict):
    (exported / "tokenizer_config.json").write_text("[" * 100_000)
    predict(exported).done("2 predictions written")


@pytest.mark.parametrize("kept_as", ["export", "import"])
def test_another_tokenizer_is_refused_on_load(exported, model, predict, tmp_path, kept_as):
    """B010: of the same size and in the right form, it gives other ids, and so other texts."""
    folder = exported if kept_as == "export" else imported(model, tmp_path / "imported", model.params)
    place = folder if kept_as == "export" else folder / TOKENIZER_FOLDER
    text = (place / "tokenizer.json").read_text(encoding="utf-8")
    vocabulary = json.loads(text)["model"]["vocab"]
    one, other = [piece for piece in vocabulary if piece.isalpha()][-2:]
    swapped = json.loads(text)
    swapped["model"]["vocab"] |= {one: vocabulary[other], other: vocabulary[one]}
    (place / "tokenizer.json").write_text(json.dumps(swapped), encoding="utf-8")
    assert Tokenizer.load(place).size == model.tokenizer.size
    predict(folder).refused("the tokenizer is not the one that the model was trained with")


def test_the_same_tokenizer_as_another_version_of_the_library_writes_it_is_taken(
    exported, predict, r2d, tmp_path
):
    """Card and file may be of two versions: one of them lacks a field, which the other writes."""
    stored = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))
    del stored["model"]["ignore_merges"]
    (exported / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    assert Tokenizer.load(exported).fingerprint != read_card(exported).tokenizer_fingerprint
    predict(exported).done()
    r2d("import", exported, "--output", tmp_path / "imported").done()
    predict(tmp_path / "imported").done()


def test_an_import_takes_no_other_tokenizer(exported, model, r2d, tmp_path):
    """B010: it wrote the fingerprint of any tokenizer into the card, so that no later command could tell."""
    other = Tokenizer.train(["predict: explain: given label: urgent, not urgent", "cough and pallor"], 130)
    larger = Tokenizer.train(
        ["given label: fever and pain in the abdomen since yesterday evening, no injury"], 200
    )
    for name, tokenizer in (("other", other), ("larger", larger)):
        write_texts(tmp_path / name, tokenizer.files())
    assert larger.size > model.card.shape.vocab_size >= other.size
    target = tmp_path / "imported"
    given = ("import", exported, "--output", target)
    for name in ("other", "larger"):
        ended = r2d(*given, "--tokenizer", tmp_path / name)
        ended.refused(f"{name}: the tokenizer is not the one that the model was trained with")
    # A model that has no card says nothing of its tokenizer, but ids beyond its embedding are no words of it.
    (exported / MODEL_CARD).rename(tmp_path / "card")
    ended = r2d(*given, "--tokenizer", tmp_path / "larger")
    ended.refused(f"larger: the tokenizer has {larger.size} ids", f"embedding {model.tokenizer.size} rows")
    (tmp_path / "card").rename(exported / MODEL_CARD)
    kept = (exported / "tokenizer.json").read_text(encoding="utf-8")
    (exported / "tokenizer.json").write_text(other.files()["tokenizer.json"], encoding="utf-8")
    r2d(*given).refused("exported: the tokenizer is not the one that the model was trained with")
    assert not target.exists()
    (exported / "tokenizer.json").write_text(kept, encoding="utf-8")
    r2d(*given).done()


def test_the_card_tells_of_the_model_beside_it(exported, model, predict, r2d, tmp_path):
    """A shape that computes with these weights gives other texts; one that does not failed deep within."""
    predict(exported).done("2 predictions written")
    told = json.loads((exported / MODEL_CARD).read_text())["shape"]
    told |= {"layer_norm_epsilon": 0.1, "relative_attention_max_distance": 64}
    reworded(exported, shape=told)
    what = r"layer_norm_epsilon is 0\.1, not 1e-06"
    predict(exported).refused(what, r"relative_attention_max_distance is 64, not 128")
    r2d("import", exported, "--output", tmp_path / "import").refused(what)
    assert not (tmp_path / "import").exists()
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {{source: triage}}\nmodel: {{init: {exported}}}\n")
    r2d("run", "--config", config, "--workdir", tmp_path / "run").refused(what)


def test_a_rationale_of_one_token_is_a_limit_like_any_other(exported, predict, tmp_path):
    predict(reworded(exported, rationale_tokens=1)).done()


def test_dots_in_a_path_lead_to_the_model_that_the_shell_shows(exported, model, tmp_path, monkeypatch):
    """`../other` was taken for a part of the model in whose folder the shell stood."""
    monkeypatch.chdir(exported)
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match=re.escape("../plain: no r2d_model.json here or above")):
        find_model_folder(pathlib.Path("../plain"))
    imported(model, tmp_path / "other", model.params)
    loaded = load_model(pathlib.Path("../other"), make_mesh(MeshConfig()))
    assert loaded.source == str(tmp_path / "other" / WEIGHTS_FOLDER)
    assert (
        find_model_folder(tmp_path / "other" / WEIGHTS_FOLDER / ".." / TOKENIZER_FOLDER) == tmp_path / "other"
    )
    # Through a link, `..` is the folder above what it leads to.
    (exported / "link").symlink_to(tmp_path / "other" / WEIGHTS_FOLDER)
    assert find_model_folder(pathlib.Path("link/..")) == tmp_path / "other"


@pytest.mark.parametrize("kept_as", ["export", "import"])
def test_a_folder_in_that_of_a_model_is_not_taken_for_it(exported, model, tmp_path, kept_as):
    """Another model may lie there; the one around it answered in its place."""
    folder = exported if kept_as == "export" else imported(model, tmp_path / "imported", model.params)
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    told = f"base: no r2d_model.json here, and no part of the model in {folder}. Give a run's workdir"
    for inside in ("base", "base/config.json"):
        with pytest.raises(UserError, match=re.escape(told.replace("base", inside, 1))):
            find_model_folder(folder / inside)
    for inside in ("onnx", WEIGHTS_FOLDER, TOKENIZER_FOLDER):
        (folder / inside).mkdir(exist_ok=True)
        assert find_model_folder(folder / inside) == folder
    assert find_model_folder(folder / MODEL_CARD) == folder
    # A stage of a run may lie on another disk.
    (tmp_path / "disk" / "best").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MODEL_CARD).write_text(model.card.to_json(), encoding="utf-8")
    (tmp_path / "run" / "stage2").symlink_to(tmp_path / "disk")
    assert find_model_folder(tmp_path / "run" / "stage2" / "best") == tmp_path / "run"
