"""What a run writes, against transformers alone: labels, rationales, and labels read back from rationales."""

import json
import pathlib

import pytest
from ruamel.yaml import YAML
from test_run import r2d, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Training batches of one shape: each is compiled anew, here mostly as users compile."""
    return write_config(tmp_path_factory.mktemp("data"), length_buckets=1)


def longer(steps):
    return [
        f"stage{number}.{key}={value}"
        for number in (1, 2)
        for key, value in (
            ("max_steps", steps),
            ("eval_every_steps", steps // 2),
            ("save_every_steps", steps),
        )
    ]


@pytest.fixture(scope="module")
def trained_longer(tmp_path_factory, config):
    """A run long enough that its texts differ between rows; the one whole run that is compiled as users compile."""
    workdir = tmp_path_factory.mktemp("runs") / "longer"
    r2d("run", "--config", config, "--workdir", workdir, *longer(150), quickly=False)
    return workdir


def generator(folder):
    """Greedy text by transformers alone, from an exported folder: (prompt, most new tokens) to text."""
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model, info = T5ForConditionalGeneration.from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def generate(prompt, limit):
        with torch.no_grad():
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            output = model.generate(ids, max_new_tokens=limit, do_sample=False, num_beams=1)
        return tokenizer.decode(output[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return generate


def evaluated(workdir):
    """Card, data rows by id, predictions and rationale checks of a run."""
    card = json.loads((workdir / "export" / "r2d_model.json").read_text())
    data = pathlib.Path(YAML(typ="safe").load(workdir / "config.yaml")["data"]["path"])
    rows = {row["id"]: row for row in map(json.loads, data.open())}
    predictions, checks = (
        [json.loads(line) for line in (workdir / "evaluation" / name).open()]
        for name in ("predictions.jsonl", "rationale_checks.jsonl")
    )
    assert [row["id"] for row in checks] == [row["id"] for row in predictions]
    return card, rows, predictions, checks


def test_transformers_alone_gives_the_same_texts(trained_longer):
    """Prompts as plain text, on the 50 test rows; the code of the export's README is run in test_export_card.py."""
    generate = generator(trained_longer / "export")
    card, rows, predictions, _ = evaluated(trained_longer)
    texts = set()
    for row in predictions:
        question = rows[row["id"]]["question"]
        label = generate(f"predict: {question}", card["label_tokens"])
        rationale = generate(f"given label: {label}, explain: {question}", card["rationale_tokens"])
        assert (label.strip(), rationale) == (row["label"], row["rationale"])
        texts.add((label, rationale))
    assert len(texts) > 1


def test_transformers_alone_reads_the_same_labels_back(trained_longer):
    """Consistency, sufficiency, gold robustness and label flips rest on these texts (METHOD, R2D-C)."""
    generate = generator(trained_longer / "export")
    card, rows, predictions, checks = evaluated(trained_longer)
    limits = card["label_tokens"], card["rationale_tokens"]
    flips, right = 0, {"consistency": 0, "sufficiency": 0, "gold_robustness": 0}
    for prediction, check in zip(predictions, checks, strict=True):
        row = rows[prediction["id"]]
        read = generate(f"predict: {prediction['rationale']}", limits[0]).strip()
        read_gold = generate(f"predict: {row['rationale']}", limits[0]).strip()
        assert (read, read_gold) == (check["label_from_rationale"], check["label_from_gold_rationale"])
        written = bool(prediction["rationale"].strip())
        right["consistency"] += read == prediction["label"] and prediction["label_valid"] and written
        right["sufficiency"] += read == row["label"] and written
        right["gold_robustness"] += read_gold == row["label"]
        for flip in check["other_labels"][: 2 if flips < 40 else 0]:
            assert flip["given_label"] != prediction["label"]
            text = generate(f"given label: {flip['given_label']}, explain: {row['question']}", limits[1])
            assert text == flip["rationale"]
            assert generate(f"predict: {text}", limits[0]).strip() == flip["label_from_rationale"]
            flips += 1
    assert flips >= 40
    metrics = json.loads((trained_longer / "evaluation/metrics.json").read_text())
    for name, count in right.items():
        assert metrics[f"{name}_fraction"] == pytest.approx(count / len(predictions))
    # Three labels, 50 rows: every label but the predicted one (all three where that is none of them).
    assert metrics["label_flip"]["flips"] == sum(len(check["other_labels"]) for check in checks)


def test_dss_explains_without_a_label(config, tmp_path):
    workdir = tmp_path / "dss"
    settings = (
        "--config",
        config,
        "--workdir",
        workdir,
        "method=dss",
        "stage2.label_weight=0.5",
        *longer(100),
    )
    r2d("train", "--stage", "2", *settings)
    r2d("run", *settings, quickly=False)
    generate = generator(workdir / "export")
    card, rows, predictions, _ = evaluated(workdir)
    for row in predictions[:20]:
        question = rows[row["id"]]["question"]
        assert generate(f"predict: {question}", card["label_tokens"]).strip() == row["label"]
        assert generate(f"explain: {question}", card["rationale_tokens"]) == row["rationale"]


def test_sft_needs_no_rationales(tmp_path):
    config = write_config(tmp_path, method="sft")
    text = (tmp_path / "rows.jsonl").read_text()
    without = [{k: v for k, v in json.loads(line).items() if k != "rationale"} for line in text.splitlines()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without))
    workdir = tmp_path / "run"
    r2d("run", "--config", config, "--workdir", workdir, "data.columns.rationales={}")
    metrics = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    assert metrics["rows"] == 50
    assert "bleu" not in metrics
    assert not (workdir / "stage1").exists()
    r2d(
        "eval",
        "--model",
        workdir / "export",
        "--input",
        tmp_path / "rows.jsonl",
        "--output",
        tmp_path / "again",
    )
