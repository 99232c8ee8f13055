"""The model card of an exported folder: read as the Hub reads it, against the figures of the run; and no case text."""

import dataclasses
import json

import huggingface_hub
import pytest
from cli_cases import SECRET

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.config_file import dump_config, load_config
from r2d_jax.data.row_counts import row_counts
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.card_metadata import CardOptions
from r2d_jax.evaluation.metrics import label_metrics
from r2d_jax.evaluation.model_card_text import readme_text
from r2d_jax.evaluation.model_folder import ModelCard
from r2d_jax.evaluation.run_facts import read_facts

LABELS = ("urgent", "a|b <i>", "not urgent")
GOLD = ["urgent", "a|b <i>", "not urgent", "urgent", SECRET]
PREDICTED = ["urgent", "a|b <i>", "urgent", "urgent", "urgent"]
CHOSEN = "stage2/best/40"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["predict: explain: given label: urgent, not urgent"], 300)


@pytest.fixture
def card(tokenizer):
    return ModelCard(
        shape=T5Config(
            vocab_size=384, d_model=16, d_ff=32, d_kv=4, num_heads=2, num_layers=1, num_decoder_layers=1
        ),
        labels=LABELS,
        label_tokens=8,
        input_limit_tokens=64,
        rationale_tokens=16,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(),
    )


def make_run(folder, *overrides):
    """A finished run, as far as the card reads it."""
    (folder / "evaluation").mkdir(parents=True)
    steps = [f"stage2.{name}=60" for name in ("max_steps", "eval_every_steps", "save_every_steps")]
    settings = load_config(None, [f"data.path=/clinics/{SECRET}/rows.jsonl", *steps, *overrides])
    (folder / "config.yaml").write_text(dump_config(settings))
    done = {"stage1_done": {"best_step": 20}, "stage2_done": {"best_step": 40}}
    (folder / "run.json").write_text(json.dumps({"data_hash": "0123", **done}))
    (folder / "r2d_model.json").write_text(json.dumps({"labels": LABELS}))
    for stage, name in ((1, "rationale_loss"), (2, "macro_f1")):
        (folder / f"stage{stage}").mkdir()
        line = {"step": 20 * stage, f"eval/{name}": 0.25 * stage}
        (folder / f"stage{stage}" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    metrics = label_metrics(GOLD, PREDICTED, LABELS) | {
        "rows": 5,
        "model": f"/elsewhere/{SECRET}/{CHOSEN}",
        "bleu": {"corpus": 12.34, "mean_sentence": 11.0, "signature": "s", "empty_predictions": 0, "rows": 5},
        "rouge_l": 0.4567,
        "intervals": {"accuracy": [0.2, 1.0], "macro_f1": [0.25, 0.75], "bleu.corpus": [10.0, 15.0]},
    }
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    row = {"id": "1", "label": "urgent", "gold_label": SECRET, "rationale": SECRET, "label_confidence": 0.5}
    (folder / "evaluation" / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    examples = [
        Example(str(n), f"{SECRET} {n}", label, {"default": SECRET}, SECRET) for n, label in enumerate(GOLD)
    ]
    splits = Splits(train=examples * 3, validation=examples[:2], test=examples[:4])
    (folder / "rows.json").write_text(json.dumps(row_counts(splits)))
    return folder


def test_the_counts_are_those_of_the_rows_by_hand():
    rows = [Example(str(n), "q", label, {}) for n, label in enumerate(["b", "a", "b"])]
    long = [Example("9", "q", "x" * 41, {})]
    assert row_counts(Splits(train=rows, validation=rows[1:], test=long)) == {
        "rows": {"train": 3, "validation": 2, "test": 1},
        # The label of 41 characters is counted and not named.
        "labels": {
            "distinct": 3,
            "counts": {"b": {"train": 2, "validation": 1}, "a": {"train": 1, "validation": 1}},
        },
    }


def test_the_hub_reads_the_figures_of_the_run(tmp_path, card, tokenizer):
    facts = read_facts(make_run(tmp_path / "run"), str(tmp_path / CHOSEN))
    options = CardOptions(
        title="Triage: a test", license="cc-by-nc-4.0", language="en", data_name="made-up notes"
    )
    text = readme_text(card, tokenizer, facts=facts, options=options)
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.language, data.library_name) == ("cc-by-nc-4.0", "en", "transformers")
    assert (data.model_name, data.metrics) == ("Triage: a test", ["accuracy", "f1", "sacrebleu", "rouge"])
    assert data.base_model is data.datasets is None
    told = {result.metric_type: (result.metric_value, result.metric_name) for result in data.eval_results}
    # By hand: 3 of 5 rows are right. F1: urgent 2/(2+2) with 2 false alarms -> 2*2/(4+2); "a|b <i>" 1; the others 0.
    assert told == {
        "accuracy": (0.6, "accuracy (95 % interval 0.200 to 1.000)"),
        "f1": (pytest.approx((4 / 6 + 1 + 0 + 0) / 4, abs=1e-6), "macro-F1 (95 % interval 0.250 to 0.750)"),
        "sacrebleu": (12.34, "BLEU of the corpus (95 % interval 10.0 to 15.0)"),
        "rouge": (0.4567, "ROUGE-L"),
    }
    assert {result.dataset_name for result in data.eval_results} == {"made-up notes"}
    assert {result.task_type for result in data.eval_results} == {"text-classification", "text-generation"}
    for part in (
        "| accuracy | 0.600 | 0.200 to 1.000 | 0.400 |",
        "| urgent | 2 | 0.500 | 1.000 | 0.667 |",
        # What a label spells is no markup.
        "| a\\|b &lt;i&gt; | 1 | 1.000 | 1.000 | 1.000 |",
        "| a\\|b &lt;i&gt; | 3 | 1 | 1 |",
        "| all | 15 | 2 | 4 |",
        "Stage 2: 40 of 60 steps, stopped early; chosen: step 40 (validation macro-F1 0.500).",
        "| stage2.optimizer.learning_rate | 5e-05 |",
        "4 of 4 labels have fewer than 30 test rows",
        "1 gold labels are none of the model's",
        "arXiv 2512.20074",
        "cc-by-nc-4.0.",
    ):
        assert part in text, part


def test_the_rows_of_the_calibration_are_told(tmp_path, card, tokenizer):
    run = make_run(tmp_path / "run")
    path = run / "evaluation" / "metrics.json"
    section = {"labels": 3, "temperature": 1.5, "fitted_rows": 4, "fitted_from": "file"}
    section |= {"rows": 5, "overlap_rows": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": section}))
    text = readme_text(card, tokenizer, facts=read_facts(run, str(tmp_path / CHOSEN)))
    assert "Probabilities are scaled by a temperature that was fitted to 4 rows of a file." in text
    assert "**2 of the 5 scored rows were used to calibrate: probabilities and risk look better" in text


def test_no_case_text_and_no_path_is_told(tmp_path, card, tokenizer):
    """The secret is a gold label off the list, too; a data card's rule would name it, as a short label."""
    run = make_run(tmp_path / SECRET.replace(" ", "_"))
    counts = json.loads((run / "rows.json").read_text())
    counts["labels"]["counts"].pop(SECRET)
    (run / "rows.json").write_text(json.dumps(counts))
    text = readme_text(card, tokenizer, facts=read_facts(run, CHOSEN))
    assert "## Figures" in text
    for word in ("Zyzzyva", "Quokka", "No-4711", "/clinics", "rows.jsonl", str(tmp_path), "elsewhere"):
        assert word not in text, word


def test_figures_of_another_checkpoint_or_of_other_weights_are_not_told_as_its_own(tmp_path, card, tokenizer):
    run = make_run(tmp_path / "run")
    for other in ("stage1/best/40", "stage2/latest/40", "stage2/best/4", "weights"):
        text = readme_text(card, tokenizer, facts=read_facts(run, f"/x/{other}"))
        assert "## Figures" not in text
        assert huggingface_hub.ModelCard(text).data.eval_results is None
        assert "| stage2.max_steps | 60 |" in text
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    for decoded, told in (("constrained", False), ("free", True)):
        (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics | {"label_decode": decoded}))
        text = readme_text(card, tokenizer, facts=read_facts(run, CHOSEN, "free"))
        assert ("## Figures" in text) == told
    facts = read_facts(run, CHOSEN)
    for dtype in ("bfloat16", "int8"):
        text = readme_text(card, tokenizer, facts=facts, dtype=dtype)
        assert huggingface_hub.ModelCard(text).data.eval_results is None
        assert (
            f"This folder holds {dtype} weights. These are figures of the float32 weights on 5 test rows"
            in text
        )
    assert "pip install torch transformers compressed-tensors" in text
    assert read_facts(tmp_path, CHOSEN) is None
    bare = readme_text(card, tokenizer)
    assert "was not exported from the folder of its run" in bare
    assert "None is stated" in bare
    assert huggingface_hub.ModelCard(bare).data.license is None


def code_of(text):
    return text.split("```python\n")[1].split("```")[0]


def test_the_card_tells_of_the_checkpoint_that_it_belongs_to(tmp_path, card, tokenizer):
    """That of stage 1 told training, labels and score of stage 2, and any other one the score of the chosen one."""
    run = make_run(tmp_path / "run")

    def text_of(checkpoint):
        return readme_text(card, tokenizer, facts=read_facts(run, f"/x/{checkpoint}"))

    first, told = text_of("stage1/best/20"), "this is the model after stage 1, which has not learned labels"
    for part in (
        told,
        "Stage 1: 20 of 50000 steps, stopped early; chosen: step 20 (validation loss 0.250).",
        "trained for rationales alone, by the first stage of Reason2Decide",
        "Labels: none were learned.",
    ):
        assert part in first, part
    for part in ("Stage 2:", "It knows the", "gives a label", "give a label", "predict:"):
        assert part not in first, part
    compile(code_of(first), "README", "exec")
    assert [line for line in code_of(first).splitlines() if line.startswith("print")] == [
        "print(decode(rationale))"
    ]
    other = text_of("stage1/latest/40")
    assert "chosen: step 20; this is step 40." in other
    assert "(validation" not in other
    for checkpoint, score, step in (
        (CHOSEN, True, None),
        ("stage2/latest/40", True, None),
        ("stage2/best/4", False, 4),
    ):
        text = text_of(checkpoint)
        assert ("(validation macro-F1 0.500)" in text) == score
        assert (f"chosen: step 40; this is step {step}." in text) == (step is not None)
        assert "(validation loss 0.250)" in text
        assert told not in text
        assert "print(decode(label), decode(rationale))" in code_of(text)


def test_the_card_of_an_imported_model_does_not_say_how_it_was_trained(card, tokenizer):
    """It said that Reason2Decide had trained it, for labels and rationales."""
    bare = dataclasses.replace(card, labels=())
    text = readme_text(bare, tokenizer)
    assert "A T5 that was imported: how it was trained is not known here." in text
    assert "weights, imported; how it was trained is not known here. Exported by r2d_jax" in text
    assert "trained for these prompts, those of `r2d predict`, is not known here" in text
    assert huggingface_hub.ModelCard(text).data.tags == ["t5", "r2d_jax"]
    for part in ("reason2decide", "it knows the", "gives a label", "give a label", "a rationale is", "data:"):
        assert part not in text.lower(), part
    assert "# Mine\n" in readme_text(bare, tokenizer, options=CardOptions(title="Mine"))
    assert "by Reason2Decide" in readme_text(card, tokenizer)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("a|b <i>", r"only (a\|b \<i\>, in 0.0 % of rows)."),
        ("x" * 41, "only (not named here)."),
        ("no row has it", "only (not named here)."),
    ],
)
def test_a_collapse_names_its_label_as_the_rest_of_the_card_does(tmp_path, card, tokenizer, label, told):
    """It named labels that may be case text, and what they spell was markup."""
    run = make_run(tmp_path / "run")
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    metrics["per_class"]["a|b <i>"]["predicted"] = 0
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics | {"collapsed": label}))
    text = readme_text(card, tokenizer, facts=read_facts(run, CHOSEN))
    assert f"**The model has collapsed: it gives nearly one label {told}**" in text
    assert "x" * 41 not in text


def test_only_what_came_from_the_hub_is_named_as_such(tmp_path, card, tokenizer, monkeypatch):
    cache = tmp_path / "cache"
    snapshot = cache / "models--google--t5-v1_1-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "t5-local").mkdir(parents=True)

    def data_of(name, *overrides):
        facts = read_facts(make_run(tmp_path / name, *overrides), CHOSEN)
        return huggingface_hub.ModelCard(readme_text(card, tokenizer, facts=facts)).data

    hub = data_of("a", "model.init=google/t5-v1_1-small", "data.path=hf:owner/rows@1a2b:main:train")
    assert (hub.base_model, hub.datasets) == ("google/t5-v1_1-small", ["owner/rows"])
    assert {result.dataset_type for result in hub.eval_results} == {"owner/rows"}
    for number, init in enumerate(("google/t5-local", "weights/imported", f"/clinics/{SECRET}/t5")):
        assert data_of(f"b{number}", f"model.init={init}").base_model is None


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"license": "Apache 2.0"}, "--license: 'Apache 2.0' is not written"),
        ({"language": "English"}, "--language: 'English' is not a language code"),
        ({"title": "two\nlines"}, "--title: is empty or has several lines"),
        ({"data_name": " "}, "--data-name: is empty"),
    ],
)
def test_options_that_the_hub_would_refuse(options, wanted):
    with pytest.raises(UserError) as caught:
        CardOptions(**options).check()
    assert wanted in str(caught.value)
    CardOptions(license="apache-2.0", language="en", title="A", data_name="b").check()


def test_long_and_many_labels_are_not_named_in_the_card(card, tokenizer):
    labels = (*(f"label {n}" for n in range(61)), SECRET + "x" * 60)
    text = readme_text(dataclasses.replace(card, labels=labels), tokenizer)
    assert '"label 59", and 2 more in r2d_model.json.' in text
    assert SECRET not in text
    labels = ("x" * 41, "y" * 40)
    text = readme_text(dataclasses.replace(card, labels=labels), tokenizer)
    assert f'Labels: "{labels[1]}", and 1 more in r2d_model.json.' in text
    text = readme_text(dataclasses.replace(card, labels=labels[:1]), tokenizer)
    assert "Labels: 1, which r2d_model.json has." in text


def test_of_many_labels_those_of_single_rows_are_not_named_in_the_card(tmp_path, card, tokenizer):
    """As in its table of counts; they were named below it, where the column is free text."""
    run = make_run(tmp_path / "run")
    labels = [f"label {n}" for n in range(61)]
    rows = [Example(str(n), "q", label, {}) for n, label in enumerate(labels)]
    splits = Splits(train=rows, validation=rows[7:8], test=rows[9:10])
    (run / "rows.json").write_text(json.dumps(row_counts(splits)))
    many = dataclasses.replace(card, labels=tuple(labels))
    text = readme_text(many, tokenizer, facts=read_facts(run, CHOSEN))
    assert 'Labels: "label 7", "label 9", and 59 more in r2d_model.json.' in text
    assert "label 8" not in text


def with_metrics(run, **more):
    """The facts of a run with more in its metrics.json."""
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return read_facts(run, CHOSEN)


@pytest.mark.parametrize(
    ("supports", "told"),
    [
        ([400, 300, 200, 100] + [0] * 6, "6 of 10 labels have fewer than 30 test rows, 6 of them none:"),
        ([400, 29, 0, 0], "3 of 4 labels have fewer than 30 test rows, 2 of them none:"),
        ([400, 29], "1 of 2 labels have fewer than 30 test rows:"),
        ([400, 30], None),
    ],
)
def test_labels_without_a_test_row_count_as_labels_of_few(tmp_path, card, tokenizer, supports, told):
    """They did not: of ten labels, six of them without a row, the card said nothing."""
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "predicted": 4}
    per_class = {f"label {n}": scores | {"support": support} for n, support in enumerate(supports)}
    text = readme_text(card, tokenizer, facts=with_metrics(make_run(tmp_path / "run"), per_class=per_class))
    assert (f"- {told} their own figures say little." in text) if told else ("labels have fewer" not in text)


def test_scores_that_no_row_could_have_given_are_no_zeros(tmp_path, card, tokenizer):
    gold, predicted = ["a", "a", "b", "b"], ["a", "a", "a", "c"]
    run = make_run(tmp_path / "run")
    facts = with_metrics(run, **label_metrics(gold, predicted, ["a", "b", "c", "d"]))
    text = readme_text(card, tokenizer, facts=facts)
    for line in (
        "| a | 2 | 0.667 | 1.000 | 0.800 |",
        # All its rows were missed, and it was never predicted.
        "| b | 2 | \N{EN DASH} | 0.000 | 0.000 |",
        "| c | 0 | 0.000 | \N{EN DASH} | \N{EN DASH} |",
        "| d | 0 | \N{EN DASH} | \N{EN DASH} | \N{EN DASH} |",
    ):
        assert line in text


def test_the_card_says_which_figures_are_over_fewer_rows(tmp_path, card, tokenizer):
    """Its table was "on 300 test rows", where flipped labels were tried on 20 rows and citations compared on 3."""
    counts = {
        "rows": 8,
        "compared_rows": 3,
        "nothing_cited_rows": 4,
        "all_cited_rows": 1,
        "probability_rows": 2,
    }
    run = make_run(tmp_path / "run")
    bleu = json.loads((run / "evaluation" / "metrics.json").read_text())["bleu"] | {"rows": 4}
    facts = with_metrics(
        run,
        bleu=bleu,
        label_flip={"rows": 2, "flips": 6, "names_given_fraction": 0.5},
        faithfulness=counts | {"comprehensiveness": {"difference": 0.25, "cited_change": 0.5}},
        triage={"costs": "linear", "rows_outside_order": 1, "under_fraction": 0.25},
    )
    text = readme_text(card, tokenizer, facts=facts)
    assert (
        "on 5 test rows, measured by r2d_jax. The notes below the table say which are over fewer of them."
        in text
    )
    notes = text[text.index("| cited input out: label changes |") : text.index("Macro-F1 is over the labels")]
    for note in (
        "\n- figures that compare rationales: over the 4 rows that have a gold one\n",
        "\n- flipped label: rationales of 2 rows written under 6 labels that were not predicted\n",
        "\n- cited input: 3 of 8 rows without the sentences that the rationale cites, and without as many random ones; "
        "4 rationales cite none; probabilities over 2 of the 3\n",
        "\n- triage figures: 1 rows have a gold label without a level and are left out\n",
    ):
        assert note in notes, note
    # Nor a label or path, which the console's notes have.
    for word in ("majority class", "model:", "elsewhere", SECRET):
        assert word not in notes
    assert "metrics.json" not in notes


@pytest.mark.parametrize(
    ("model", "rescaled", "title"),
    [
        ("roberta-large", True, "BERTScore F1 of roberta-large, rescaled"),
        ("roberta-large", False, "BERTScore F1 of roberta-large"),
        ("/clinics/Northwood", True, "BERTScore F1 of a model not named here, rescaled"),
        ("Northwood/scorer", False, "BERTScore F1 of a model not named here"),
    ],
)
def test_bertscore_is_told_with_its_model_and_its_scale(
    tmp_path, card, tokenizer, monkeypatch, model, rescaled, title
):
    """The results for the Hub had a rescaled one as plain "BERTScore F1", and neither place said of which model."""
    cached = {"roberta-large": "/cache/config.json"}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, _: cached.get(name))
    score = {"f1": 0.25, "model": model, "rescaled": rescaled, "num_layers": 17, "version": "v"}
    text = readme_text(card, tokenizer, facts=with_metrics(make_run(tmp_path / "run"), bertscore=score))
    told = {one.metric_type: one.metric_name for one in huggingface_hub.ModelCard(text).data.eval_results}
    assert told["bertscore"] == title
    assert f"| {title} | 0.250 |" in text
    assert "Northwood" not in text


@pytest.mark.parametrize(
    ("computed", "stored", "told"),
    [
        ("float32", "float32", None),
        ("float32", "int8", None),
        (
            "float32",
            "bfloat16",
            "`r2d predict` computes in float32, the type of training, as does `from_pretrained(",
        ),
        ("bfloat16", "float32", "`r2d predict` computes in bfloat16, the type of training, but"),
        ("bfloat16", "int8", "`r2d predict` computes in bfloat16, the type of training, but"),
        ("bfloat16", "bfloat16", "`r2d predict` computes in bfloat16, the type of training, but"),
    ],
)
def test_the_card_says_in_what_type_predict_computes(card, tokenizer, computed, stored, told):
    """Of a model trained in bfloat16 it said that float32 is what `r2d predict` does."""
    text = readme_text(dataclasses.replace(card, compute_dtype=computed), tokenizer, dtype=stored)
    assert text.count("`r2d predict` computes in") == (told is not None)
    assert (told or "") in text
