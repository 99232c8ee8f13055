"""Rows of an evaluation are computed by length and come out in order; no figure or text depends on it."""

import itertools
import types

import jax
import numpy as np
import pytest
from t5_cases import SMALL, random_weights

from r2d_jax.config import DataConfig, MeshConfig, T5Config
from r2d_jax.config_file import load_config
from r2d_jax.data.features import FeatureEncoder, Features
from r2d_jax.data.pipeline import evaluation_batches, evaluation_buckets
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.model.greedy import Decoded
from r2d_jax.model.parameters import T5Factory
from r2d_jax.model.t5 import T5
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training.loop import Selection
from r2d_jax.training.objectives import StepContext, stage2_objective
from r2d_jax.training.stages import stage1, stage2
from r2d_jax.training.steps import make_loss_sums
from r2d_jax.training.validation import losses_alone, losses_and_labels

LABELS = ("urgent", "standard", "none")
WORDS = ["fever", "pain", "cough", "rash", "since", "two", "days", "because", "no"]


# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


def features_of_sizes(question, rationale):
    """Features whose ids of a row are its number + 1, so that a batch tells which rows it holds."""
    question, rationale = (np.asarray(sizes, np.int32) for sizes in (question, rationale))
    number = np.arange(1, len(question) + 1, dtype=np.int32)[:, None]
    ids = [np.where(np.arange(np.max(n)) < n[:, None], number, 0) for n in (question, rationale)]
    return Features(ids[0], question, number, number[:, 0] * 0 + 1, ids[1], rationale, 0, 0)


def shapes_of(batches):
    return {(batch["question_ids"].shape, batch["rationale_ids"].shape) for _, batch in batches}


def batches_of(data, batch_size, *, rationales):
    buckets = evaluation_buckets(data, batch_size, prompt_tokens=8, rationales=rationales)
    return list(evaluation_batches(data, batch_size, buckets))


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 4), (130, 4), (1000, 7), (513, 16)])
@pytest.mark.parametrize("rationales", [False, True])
def test_every_row_is_in_one_batch_whole_and_few_widths_are_made(rows, batch_size, rationales):
    rng = np.random.default_rng(rows)
    data = features_of_sizes(rng.integers(1, 200, rows), rng.integers(0, 90, rows))
    batches = batches_of(data, batch_size, rationales=rationales)
    assert sorted(itertools.chain.from_iterable(held.tolist() for held, _ in batches)) == list(range(rows))
    assert len(batches) == -(-rows // batch_size)
    assert [len(held) for held, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for held, batch in batches:
        filled = [*held, *[held[0]] * (batch_size - len(held))]
        assert batch["row_weight"].tolist() == [1] * len(held) + [0] * (batch_size - len(held))
        for name in ("question", "rationale"):
            ids, sizes = batch[f"{name}_ids"], getattr(data, f"{name}_length")[filled]
            np.testing.assert_array_equal(batch[f"{name}_length"], sizes)
            expected = np.where(np.arange(ids.shape[1]) < sizes[:, None], np.array(filled)[:, None] + 1, 0)
            np.testing.assert_array_equal(ids, expected)
            assert (sizes <= ids.shape[1]).all()
    shapes = shapes_of(batches)
    assert len(shapes) == 1 if rows == 1 else 1 < len(shapes) <= 8
    assert rationales or len({rationale for _, rationale in shapes}) == 1
    # After a window of 32 batches all rows before its end were seen, so that they can be given out.
    seen = np.concatenate([held for held, _ in batches[:32]])
    assert seen.max() == len(seen) - 1


@pytest.mark.parametrize(("batches", "widths"), [(3, 1), (4, 2), (31, 4), (32, 5), (79, 7), (200, 8)])
def test_more_widths_only_where_the_batches_are_worth_their_compilation(batches, widths):
    # One that is filled up is a batch as well.
    for rows in (batches * 4, batches * 4 - 3):
        data = features_of_sizes(np.arange(rows) % 190 + 1, np.full(rows, 8))
        assert len(evaluation_buckets(data, 4, prompt_tokens=8, rationales=False)) == widths


def test_less_is_padded_and_few_or_like_rows_have_one_width():
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(3.5, 0.6, 640), 4, 300).astype(int)
    data = features_of_sizes(sizes, np.full(640, 8))
    cells = [
        sum(batch["question_ids"].size for _, batch in batches)
        for batches in (batches_of(data, 16, rationales=False), list(evaluation_batches(data, 16)))
    ]
    assert sizes.sum() <= cells[0] < 0.5 * cells[1]
    for few, batch_size in ((data, 256), (features_of_sizes([40] * 640, [8] * 640), 16)):
        batches = batches_of(few, batch_size, rationales=True)
        assert len(shapes_of(batches)) == 1
        # With one width nothing is gained by another order: rows come out batch by batch.
        assert np.concatenate([held for held, _ in batches]).tolist() == list(range(640))


def test_the_longest_rows_come_first_and_the_batch_that_is_filled_up_is_of_short_ones():
    sizes = np.random.default_rng(3).integers(1, 200, 130)
    batches = batches_of(features_of_sizes(sizes, np.full(130, 8)), 8, rationales=False)
    longest = [sizes[held].max() for held, _ in batches]
    assert longest == sorted(longest, reverse=True)
    assert len(batches[-1][0]) == 2
    assert sorted(sizes[batches[-1][0]]) == sorted(sizes)[:2]


def words(rows, seed, most):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most))) for _ in range(rows)]


@pytest.fixture(scope="module")
def made():
    """An encoder, 43 rows of 1 to 60 words with rationales, their features, and random weights."""
    tokenizer = Tokenizer.train(["predict: explain: given label: , ", *LABELS, *WORDS * 3], 120)
    encoder = FeatureEncoder(DataConfig(), tokenizer, LABELS)
    examples = [
        Example(str(row), question, LABELS[row % 3], {"a": rationale})
        for row, (question, rationale) in enumerate(zip(words(43, 1, 60), words(43, 2, 30), strict=True))
    ]
    encoded = encoder.encode(examples, "a")
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size, "num_layers": 1}, num_decoder_layers=1)
    return encoder, examples, encoder.features(encoded, encoder.shapes(encoded)), shape


def predictor_on(made, devices):
    encoder, _, _, shape = made
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Predictor.of(T5Factory(shape), encoder, 12, "given_label", mesh)


@pytest.fixture(scope="module")
def spread(made):
    """On all eight devices, with what it has compiled, and weights."""
    return predictor_on(made, 8), random_weights(made[3])


def all_of(lists):
    return list(itertools.chain.from_iterable(lists))


def test_predictions_do_not_depend_on_width_batch_size_or_devices(made, spread):
    """43 rows: in batches of 8 they have two widths, and the last batch is filled up."""
    features, (predictor, params) = made[2], spread
    # One batch of all rows has one width, that of the longest row.
    whole = predictor_on(made, 1)
    expected = all_of(whole.predict(params, features, 43))
    assert len({one.label for one in expected}) > 10
    assert len({one.rationale for one in expected}) > 10
    with CompileCounter() as compiled:
        found = all_of(predictor.predict(params, features, 8))
        explained = all_of(predictor.explain(params, features, 8))
    assert explained == all_of(whole.explain(params, features, 43))
    # `explain` meets the widths of `predict`, and compiles nothing more.
    names = ("_questions", "_labels", "_rationales")
    assert [compiled.programs[name] for name in names] == [2, 2, 2]
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.rationale) == (other.label, other.rationale)
        assert (one.label_finished, one.rationale_finished) == (
            other.label_finished,
            other.rationale_finished,
        )
        assert one.label_confidence == pytest.approx(other.label_confidence, rel=1e-4)


def test_predictions_go_out_in_order_window_by_window(made):
    encoder, predictor = made[0], predictor_on(made, 1)

    def decoded(params, batch):
        ids, lengths = np.asarray(batch["question_ids"]), np.asarray(batch["question_length"])
        return Decoded(ids, lengths, lengths > 0, np.zeros(len(ids)))

    predictor.programs.__dict__["encode_questions"] = lambda params, batch: batch

    predictor.programs.__dict__["decode_labels"] = decoded
    texts = words(300, 3, 60)
    lists = list(predictor.predict(None, predictor.features_of(texts), 4, rationales=False))
    features = predictor.features_of(texts)
    assert [one.label for one in all_of(lists)] == [
        encoder.tokenizer.decode(features.question_ids[row][: features.question_length[row]].tolist()).strip()
        for row in range(300)
    ]
    # A list after each batch, so that a stop is seen; at the end of a window nothing is held back.
    assert len(lists) == 75
    assert [sum(map(len, lists[:end])) for end in (32, 64, 75)] == [128, 256, 300]


def prepared_with(made, predictor):
    """What a validation of 43 rows in batches of 8 asks of a run."""
    encoder, examples, features, _ = made
    return types.SimpleNamespace(
        config=load_config(None, ["data.source=triage", "evaluation.batch_size=8"]),
        context=StepContext(predictor.programs.factory, encoder.prompts, encoder.tokenizer.size),
        encoder=encoder,
        mesh=predictor.programs.mesh,
        labels=LABELS,
        splits=types.SimpleNamespace(validation=examples),
        stages={number: types.SimpleNamespace(validation=features) for number in (1, 2)},
        predictor=lambda: predictor,
    )


def test_validation_encodes_a_row_once_for_its_label_and_the_loss_of_its_label(made, spread, monkeypatch):
    params, predictor = spread[1], predictor_on(made, 8)
    encoded, encode = [], T5.encode

    def counted(model, *prompt, **rest):
        encoded.append(prompt[0].shape)
        return encode(model, *prompt, **rest)

    monkeypatch.setattr(T5, "encode", counted)
    prepared = prepared_with(made, predictor)
    objective = stage2_objective(prepared.context, prepared.config.stage2)
    losses, labels = losses_and_labels(prepared, 2, objective)(params, lambda: None)
    # Of each of two widths, those that ask for the label and those that ask for the rationale.
    assert len(encoded) == 4
    assert len(set(encoded)) == 2
    assert labels == [one.label for one in all_of(spread[0].predict(params, made[2], 8, rationales=False))]
    assert losses == pytest.approx(losses_alone(prepared, 2, objective)(params, lambda: None), rel=1e-6)


def test_validation_figures_equal_those_of_one_width(made, spread, monkeypatch):
    predictor, params = spread
    prepared = prepared_with(made, predictor)
    # Made once, so that the width that both have is compiled once.
    objective = stage2_objective(prepared.context, prepared.config.stage2)
    sums = make_loss_sums(prepared.context, objective, predictor.programs.mesh)
    monkeypatch.setattr("r2d_jax.training.validation.make_loss_sums", lambda *_: sums)
    stops = []
    with CompileCounter() as compiled:
        found = stage2(prepared).evaluate(params, 0, lambda: stops.append(1))
    assert len(stops) == 6
    assert compiled.programs["loss_sums"] == 2
    monkeypatch.setattr("r2d_jax.training.validation.evaluation_buckets", lambda *_, **__: ())
    expected = stage2(prepared).evaluate(params, 0, lambda: None)
    assert {"eval/label_loss", "eval/rationale_loss", "eval/macro_f1"} <= set(expected)
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("before", ["false", "true"])
def test_each_stage_chooses_by_its_own_figure_and_from_its_own_step(made, spread, before):
    """Stage 2 takes the evaluations from 65 % of its steps on, or all; either way patience begins there."""
    prepared = prepared_with(made, spread[0])
    changes = [f"stage2.{name}=200" for name in ("max_steps", "eval_every_steps", "save_every_steps")]
    changes.append(f"stage2.select_before_transition={before}")
    prepared.config = load_config(None, ["data.source=triage", *changes])
    assert stage1(prepared).selection == Selection("eval/rationale_loss", False, 0, 0)
    assert stage2(prepared).selection == Selection(
        "eval/macro_f1", True, {"false": 130, "true": 0}[before], 130
    )
    prepared.config = load_config(None, ["data.source=triage", *changes, "method=sft"])
    assert stage2(prepared).selection == Selection("eval/macro_f1", True, 0, 0)


def test_b065_a_validation_of_stage_1_looks_at_the_stop_after_each_batch(made, spread, monkeypatch):
    """That of stage 2 is counted above, where it is computed."""
    sums = {"rationale_loss_sum": 3.0}, {"rationale": 2.0}
    monkeypatch.setattr("r2d_jax.training.validation.make_loss_sums", lambda *_: lambda *_: sums)
    stops = []
    values = stage1(prepared_with(made, spread[0])).evaluate(None, 0, lambda: stops.append(1))
    assert values == {"eval/rationale_loss": 1.5}
    assert len(stops) == 6
