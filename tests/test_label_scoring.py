"""Probabilities of labels: those of torch, whatever the devices and however the labels are packed."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from probability_cases import LABELS, SPARE, lively, words
from t5_cases import single_threaded

from r2d_jax.config import DataConfig, MeshConfig
from r2d_jax.data.features import FeatureEncoder
from r2d_jax.evaluation.label_scoring import LabelScorer, label_numbers, probability_of, scores_of
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.model.label_packs import LabelPacks, max_positions
from r2d_jax.model.label_trie import label_trie
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.mesh import make_mesh

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def made():
    """An encoder, features of 43 texts of 1 to 60 words, and a model with rows of the embedding beyond the texts."""
    tokenizer, shape, params = lively()
    encoder = FeatureEncoder(DataConfig(), tokenizer, LABELS)
    # Likely, were they not forbidden.
    params["head"][tokenizer.size :] *= 3.0
    return encoder, words(43, 1, 60), shape, params


def scorer_on(made, mesh, devices):
    encoder, _, shape, _ = made
    predictor = Predictor.of(T5Factory(shape), encoder, 4, "none", make_mesh(mesh, jax.devices()[:devices]))
    return LabelScorer(predictor, LABELS)


def predictor_on(made, scorer, trie=None):
    programs, encoder = scorer.predictor.programs, scorer.predictor.encoder
    return Predictor(dataclasses.replace(programs, label_trie=trie), encoder)


def all_scores(made, scorer, batch_size):
    features = predictor_on(made, scorer).features_of(made[1])
    lists = scorer.log_probabilities(made[3], features, batch_size)
    return np.array(list(itertools.chain.from_iterable(lists)))


@pytest.fixture(scope="module")
def spread(made):
    """On eight devices, two in each direction of the mesh, in batches of two widths."""
    scorer = scorer_on(made, MeshConfig(data=2, fsdp=2, tensor=2), 8)
    with CompileCounter() as compiled:
        scores = all_scores(made, scorer, 8)
    assert compiled.programs["_scores"] == 2
    return scores


def test_predictions_have_the_scores_beside_them(made, spread):
    """The encoder, most of the work of both, runs once a batch for labels and scores."""
    scorer = scorer_on(made, MeshConfig(data=2, fsdp=2, tensor=2), 8)
    predictor, encoded = scorer.predictor, []
    encode = predictor.programs.encode_questions

    def counted(params, batch):
        encoded.append(len(batch["question_ids"]))
        return encode(params, batch)

    predictor.programs.__dict__["encode_questions"] = counted
    features = predictor.features_of(made[1])
    lists = list(predictor.predict(made[3], features, 8, rationales=False, score=scorer.score_labels))
    predictions = list(itertools.chain.from_iterable(lists))
    np.testing.assert_array_equal(scores_of(predictions, len(LABELS)), spread)
    assert encoded == [8] * 6
    plain = itertools.chain.from_iterable(predictor.predict(made[3], features, 8, rationales=False))
    assert [(one.label, one.log_probs) for one in plain] == [(one.label, None) for one in predictions]


def test_scores_are_the_losses_of_torch(made, spread, tmp_path):
    """Each label of each row by itself, as an output of transformers' T5."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    encoder, texts, shape, params = made
    write_hf_folder(tmp_path / "hf", shape, params, generation={})
    model = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "hf", local_files_only=True
    ).eval()
    size = encoder.tokenizer.size
    # What is never chosen has no probability.
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: output.index_fill(-1, torch.arange(size, size + SPARE), float("-inf"))
    )
    rows = range(0, len(texts), 4)
    with single_threaded(), torch.no_grad():
        for row, (column, label) in itertools.product(rows, enumerate(LABELS)):
            prompt = torch.tensor([[*encoder.tokenizer.encode(f"predict: {texts[row]}"), 1]])
            target = torch.tensor([[*encoder.tokenizer.encode(label), 1]])
            loss = model(input_ids=prompt, labels=target).loss.item()
            assert spread[row, column] == pytest.approx(-loss * target.shape[1], rel=1e-4, abs=1e-4)
    # They differ, so that an exchange of rows or labels would have been seen.
    assert len(np.unique(spread[rows].round(1))) > 60


def test_labels_share_at_most_all_probability(spread):
    total = np.exp(spread.astype(np.float64)).sum(axis=1)
    assert (total > 0).all()
    assert (total <= 1 + 1e-6).all()


def test_packs_batches_and_devices_change_nothing(made, spread, monkeypatch):
    monkeypatch.setattr("r2d_jax.evaluation.label_scoring.max_positions", lambda *_, **__: 4)
    scorer = scorer_on(made, MeshConfig(), 1)
    assert len(LabelPacks.of(scorer._label_ids, 4).lengths) > 2
    np.testing.assert_allclose(all_scores(made, scorer, 43), spread, rtol=1e-4, atol=1e-4)


def test_a_decoded_label_has_the_probability_it_was_decoded_with(made, spread):
    encoder, texts = made[0], made[1]
    predictor = predictor_on(made, scorer_on(made, MeshConfig(), 1), label_trie(LABELS, encoder.tokenizer))
    found = itertools.chain.from_iterable(
        predictor.predict(made[3], predictor.features_of(texts), 43, rationales=False)
    )
    for row, one in enumerate(found):
        column = LABELS.index(one.label)
        tokens = len(encoder.tokenizer.encode(one.label)) + 1
        assert spread[row, column] == pytest.approx(tokens * np.log(one.label_confidence), rel=1e-3, abs=1e-3)


def test_packs_by_hand():
    """Labels 5, 5 6 and 7 in packs of three positions: the last one does not fit beside the first two."""
    packs = LabelPacks.of([(7,), (5, 6), (5,)], 3)
    assert packs.input_ids.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert packs.depth.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert packs.visible.astype(int).tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]],
    ]
    assert packs.positions.tolist() == [[[0, 1, 0], [0, 1, 2]], [[0, 1, 0], [0, 0, 0]]]
    assert packs.targets.tolist() == [[[5, 1, 0], [5, 6, 1]], [[7, 1, 0], [0, 0, 0]]]
    assert packs.lengths.tolist() == [[2, 3], [2, 0]]
    assert packs.slots.tolist() == [2, 1, 0]
    # A label that is too long for a pack has one of its own.
    assert LabelPacks.of([(5, 6, 7), (8,)], 2).input_ids.tolist() == [[0, 5, 6, 7], [0, 8, 0, 0]]


def test_packs_of_many_labels_hold_each_prefix_once():
    rng = np.random.default_rng(0)
    labels = list({tuple(rng.integers(2, 6, rng.integers(1, 8)).tolist()) for _ in range(400)})
    whole = LabelPacks.of(labels, 10_000)
    assert whole.input_ids.shape == (1, len({one[:end] for one in labels for end in range(len(one) + 1)}))
    packs = LabelPacks.of(labels, 64)
    assert packs.input_ids.shape[1] <= 64
    assert sorted(packs.slots.tolist()) == sorted(np.flatnonzero(packs.lengths.ravel()).tolist())
    for number, label in enumerate(labels):
        pack, slot = divmod(int(packs.slots[number]), packs.lengths.shape[1])
        positions = packs.positions[pack, slot][: len(label) + 1]
        assert packs.input_ids[pack, positions].tolist() == [0, *label]
        assert packs.targets[pack, slot][: len(label) + 1].tolist() == [*label, 1]
        assert np.flatnonzero(packs.visible[pack, positions[-1]]).tolist() == sorted(positions.tolist())


@pytest.mark.parametrize(
    ("rows", "width", "positions"),
    [(64, 512, 32), (64, 8192, 16), (1, 512, 128), (4096, 512, 1)],
)
def test_memory_of_a_pack_is_bounded(rows, width, positions):
    """T5-small: 32128 ids, 8 heads; 2^26 numbers of logits or of attention weights."""
    found = max_positions(rows, width, vocab_size=32128, num_heads=8)
    assert found == positions
    assert found == 1 or found * rows * max(32128, 8 * width) <= 2**26


def test_numbers_and_probabilities_of_texts():
    numbers = label_numbers(
        ["not urgent", "urgent", "not  urgent"], ["urgent", " not \turgent", "Urgent", ""]
    )
    assert numbers.tolist() == [1, 0, -1, -1]
    found = probability_of(np.array([[0.25, 0.75]] * 4), numbers)
    np.testing.assert_array_equal(found, [0.75, 0.25, np.nan, np.nan])
