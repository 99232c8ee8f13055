"""BERTScore with a tiny random BERT against the library's own scorer; empty, long and rescaled cases."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import LABELS

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.evaluation.bertscore import bertscore_rows
from r2d_jax.evaluation.model_folder import ModelCard


def bertscore(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return bertscore_rows(*arguments, **settings)[0]


@pytest.fixture(scope="module")
def scoring_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A random BERT of two layers and 32 positions; its tokenizer states no maximum length."""
    pytest.importorskip(
        "bert_score", reason="BERTSCORE NOT CHECKED: the optional package bert-score is absent"
    )
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("scorer")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + [
        "fever",
        "cough",
        "chest",
        "pain",
        "no",
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=32, **shape)
    BertModel(config).save_pretrained(folder)
    return folder


SCORED = (["fever no cough", "chest pain", "pain"], ["fever cough", "no chest pain fever", "cough"])


def library_scores(model: pathlib.Path, outputs: list[str], golds: list[str]) -> list[float]:
    library = importlib.import_module("bert_score")
    scorer = library.BERTScorer(model_type=str(model), num_layers=2, device="cpu")
    # Without it the library fails: this tokenizer states no length, as many do not.
    scorer._tokenizer.model_max_length = 512
    scores = scorer.score(outputs, golds)
    return [float(values.mean()) for values in scores]


def test_bertscore_equals_the_library_on_full_rows(scoring_model: pathlib.Path) -> None:
    result = bertscore(*SCORED, scoring_model, 2)
    expected = library_scores(scoring_model, *SCORED)
    assert [result["precision"], result["recall"], result["f1"]] == pytest.approx(expected, abs=1e-5)
    assert 0 < result["f1"] < 1
    assert result["hash"].startswith(f"{scoring_model}_L2_no-idf_version=")
    assert result["max_tokens"] == 32
    assert (result["num_layers"], result["rescaled"], result["rows"]) == (2, False, 3)
    assert (result["model"], "0.3.13" in result["version"]) == (str(scoring_model), True)
    turned = bertscore(SCORED[0][::-1], SCORED[1][::-1], scoring_model, 2, batch_size=1)
    assert turned["f1"] == pytest.approx(result["f1"], abs=1e-5)
    assert bertscore(*SCORED, scoring_model, 1)["f1"] != pytest.approx(result["f1"], abs=1e-5)


def test_bertscore_equals_its_command(scoring_model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The `bert-score` program on files, in a process of its own."""
    settings = json.loads((scoring_model / "tokenizer_config.json").read_text(encoding="utf-8"))
    stated = tmp_path / "stated"
    shutil.copytree(scoring_model, stated)
    (stated / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 32}))
    for name, lines in zip(("outputs", "golds"), SCORED, strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = pathlib.Path(sys.executable).with_name("bert-score")
    command = [program, "-c", "outputs", "-r", "golds", "--lang", "en", "-m", stated, "-l", "2"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = [float(value) for value in re.findall(r"(?:P|R|F1): ([0-9.]+)", ended.stdout)]
    result = bertscore(*SCORED, scoring_model, 2)
    assert told == pytest.approx([result["precision"], result["recall"], result["f1"]], abs=1e-6)


def test_bertscore_counts_an_empty_row_as_zero(scoring_model: pathlib.Path) -> None:
    full = bertscore(*SCORED, scoring_model, 2)
    outputs, golds = [*SCORED[0], " \n", "pain", ""], [*SCORED[1], "fever", "", ""]
    result = bertscore(outputs, golds, scoring_model, 2)
    assert result["f1"] == pytest.approx(full["f1"] / 2, abs=1e-6)
    assert (result["empty_predictions"], result["empty_references"]) == (2, 2)
    assert bertscore([""], ["x"], scoring_model, 2)["f1"] == 0


def test_bertscore_cuts_at_a_recorded_length_and_counts(scoring_model: pathlib.Path) -> None:
    long = "fever " * 31
    result = bertscore([long, "pain"], ["pain", long + "cough"], scoring_model, 2)
    assert (result["truncated_predictions"], result["truncated_references"]) == (1, 1)
    # 30 words and the two special tokens fill 32 positions exactly.
    exact = bertscore(["fever " * 30], ["pain"], scoring_model, 2)
    assert exact["truncated_predictions"] == 0
    shorter = bertscore(["fever cough pain"], ["fever"], scoring_model, 2, max_tokens=3)
    assert shorter["f1"] == pytest.approx(1, abs=1e-5)
    assert (shorter["truncated_predictions"], shorter["max_tokens"]) == (1, 3)
    with pytest.raises(UserError, match="33 is more than the 32"):
        bertscore(["a"], ["a"], scoring_model, 2, max_tokens=33)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_bertscore_rescales_with_a_baseline_only(scoring_model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no baseline file"):
        bertscore(*SCORED, scoring_model, 2, rescale=True)
    file = tmp_path / "baseline.tsv"
    file.write_text("LAYER,P,R,F\n0,0,0,0\n1,0,0,0\n2,0.2,0.3,0.4\n", encoding="utf-8")
    raw = bertscore(*SCORED, scoring_model, 2)
    scaled = bertscore(*SCORED, scoring_model, 2, rescale=True, baseline_path=file)
    assert scaled["f1"] == pytest.approx((raw["f1"] - 0.4) / 0.6, abs=1e-5)
    assert scaled["precision"] == pytest.approx((raw["precision"] - 0.2) / 0.8, abs=1e-5)
    assert (scaled["rescaled"], scaled["baseline"]) == (True, str(file))
    empty = bertscore(
        [*SCORED[0], ""], [*SCORED[1], "pain"], scoring_model, 2, rescale=True, baseline_path=file
    )
    assert empty["f1"] == pytest.approx(scaled["f1"] * 3 / 4, abs=1e-5)
    file.write_text("LAYER,P,R,F\n1,0,0,0\n2,0.2,0.3,0.4\n3,0,0,0\n", encoding="utf-8")
    with pytest.raises(UserError, match="no row for layer 2"):
        bertscore(*SCORED, scoring_model, 2, rescale=True, baseline_path=file)


def test_bertscore_tells_what_it_cannot_load(scoring_model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="knows no layer"):
        bertscore(["a"], ["a"], scoring_model)
    with pytest.raises(UserError, match="between 0 and 2"):
        bertscore(["a"], ["a"], scoring_model, 9)
    with pytest.raises(UserError, match="cannot be loaded"):
        bertscore(["a"], ["a"], tmp_path / "absent", 2)


def test_a_scorer_that_cannot_be_loaded_is_told_before_the_training(
    job: Any, scoring_model: pathlib.Path, tmp_path: pathlib.Path, r2d: Any
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(scoring_model, damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    for model, layers, wanted in (
        (tmp_path / "absent", 2, "the scoring model cannot be loaded"),
        (damaged, 2, "the scoring model cannot be loaded"),
        ('"a\\0b"', 2, "the scoring model cannot be loaded"),
        (scoring_model, 9, "between 0 and 2"),
    ):
        ended = job(None, f"evaluation.bertscore={{model: {model}, num_layers: {layers}}}")
        # The library shows how far loading is, without a line's end.
        assert (ended.code, wanted in ended.err.splitlines()[-1]) == (2, True)
        assert "step 1/" not in ended.out
    folder = tmp_path / "model"
    folder.mkdir()
    columns = ColumnsConfig(id="id", split="split", context="context")
    card = ModelCard(T5Config(), LABELS, 4, 64, 8, "float32", "0", columns)
    (folder / "r2d_model.json").write_text(card.to_json(), encoding="utf-8")
    asked = ("--input", tmp_path / "rows.jsonl", "--bertscore", tmp_path / "absent", "--bertscore-layers", 2)
    r2d("eval", "--model", folder, "--output", tmp_path / "out", *asked).refused("cannot be loaded")
    assert not (tmp_path / "out").exists()


def test_missing_package_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(UserError, match="pip install bert-score"):
        bertscore(["a"], ["a"], "bert-base-uncased")
