"""Folders of models that something has spoilt; in: a sound folder and a change to it, out: one line, or the model."""

import jax
import numpy as np
import pytest

pytest.register_assert_rewrite("cli_cases")

from cli_cases import compile_cache, r2d
from t5_cases import SMALL, random_weights

from r2d_jax.config import ColumnsConfig, MeshConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_folder import (
    CARD_FILE,
    TOKENIZER_FOLDER,
    WEIGHTS_FOLDER,
    LoadedModel,
    ModelCard,
    place_params,
)
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.checkpoint import save_weights
from r2d_jax.runtime.mesh import make_mesh

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


def imported(model, folder, params):
    """A folder as `r2d import` lays it out."""
    folder.mkdir()
    save_weights(folder / WEIGHTS_FOLDER, params)
    model.tokenizer.save(folder / TOKENIZER_FOLDER)
    (folder / CARD_FILE).write_text(model.card.to_json(), encoding="utf-8")
    return folder


def test_a_model_that_computes_nan_writes_no_predictions(model, predict, tmp_path):
    """Checkpoints hold what training saved; an earlier import took NaN in, too."""
    predict(imported(model, tmp_path / "sound", model.params)).done("2 predictions written")
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), model.params)
    predict(imported(model, tmp_path / "broken", broken)).refused(
        r"out\.jsonl: a figure of a row is no number"
    )
