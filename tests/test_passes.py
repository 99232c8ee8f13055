"""What each pass of a step is given, without a model; in: a batch, out: keys, labels, limits and figures by hand."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_steps import LABEL, ROWS, SAMPLING, TOKENS, batch_of, random_rows

from r2d_jax.config import T5Config
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.model.dropout import DecoderSite, EncoderSite, StackSite
from r2d_jax.model.greedy import Decoded
from r2d_jax.objective.scheduled_sampling import sample_mask
from r2d_jax.training import objectives
from r2d_jax.training.objectives import STAGE1, STAGE2, KeyPart, Pass, StepContext, Stream, row_keys

STEP = jnp.int32(2)
HALF = dataclasses.replace(SAMPLING, max_sampling_probability=0.5)
PUBLISHED = dataclasses.replace(HALF, label_decode_dropout=True)


@pytest.fixture
def batch():
    arrays = {name: jnp.asarray(value) for name, value in batch_of(random_rows(0)).items()}
    # As in a micro-batch: not the first rows of the global one.
    return arrays | {"row": jnp.arange(100, 100 + ROWS, dtype=jnp.int32), "seed": jnp.int32(7)}


def context_of(dropout=0.1, trie=None):
    config = T5Config(vocab_size=96, dropout_rate=dropout)
    factory = types.SimpleNamespace(config=config)
    return StepContext(factory, PromptBuilder(TOKENS, LABEL), 90, label_trie=trie)


def words(keys):
    return None if keys is None else jax.random.key_data(keys).tolist()


def wanted_keys(stage, batch, purpose):
    return row_keys(batch, stage, STEP, purpose)


@pytest.fixture
def passes(monkeypatch):
    """Name and keys of every pass; none is computed."""
    found = {}

    def target_pass(model, batch, name, prompt, keys, encoded=None):
        # In training no pass is given what was encoded before.
        assert encoded is None
        found[name] = words(keys)
        return Pass(jnp.float32(0), "encoded", jnp.float32(0))

    monkeypatch.setattr(objectives, "target_pass", target_pass)
    return found


@pytest.fixture
def decodes(monkeypatch):
    """Settings of every decode; each gives the label 50 51 and its end."""
    found = []

    def greedy_decode(model, encoded, mask, **settings):
        found.append(settings | {"encoded": encoded})
        ids = jnp.tile(jnp.array([[50, 51, 1, 0, 0]], jnp.int32), (ROWS, 1))
        return Decoded(ids, jnp.full(ROWS, 2, jnp.int32), jnp.ones(ROWS, bool), jnp.zeros(ROWS))

    monkeypatch.setattr(objectives, "greedy_decode", greedy_decode)
    return found


def test_the_passes_of_both_stages_have_keys_of_their_own(passes, batch):
    """Stage 2 begins with the step, rows and seed of stage 1, and shall not repeat its masks."""
    never = dataclasses.replace(SAMPLING, max_sampling_probability=0.0)
    objectives.stage1_objective(context_of()).terms(None, batch, STEP, True)
    assert passes == {"rationale": words(wanted_keys(1, batch, Stream.EXPLAIN_DROPOUT))}
    terms = objectives.stage2_objective(context_of(), never).terms
    terms(None, batch, STEP, True)
    assert passes == {
        "label": words(wanted_keys(2, batch, Stream.PREDICT_DROPOUT)),
        "rationale": words(wanted_keys(2, batch, Stream.EXPLAIN_DROPOUT)),
    }
    terms(None, batch, STEP, False)
    assert passes == {"label": None, "rationale": None}


def test_streams_and_places_of_dropout_keep_their_numbers():
    """Another number changes masks and coins, and a run that was stopped before would go on in another way."""
    assert (STAGE1, STAGE2) == (1, 2)
    numbers = {kind: {one.name: int(one) for one in kind} for kind in (Stream, KeyPart)}
    names = "PREDICT_DROPOUT", "EXPLAIN_DROPOUT", "COIN", "CYCLE_DROPOUT", "GUMBEL"
    assert numbers[Stream] == {name: number for number, name in enumerate(names)}
    assert numbers[KeyPart] == {"ENCODER": 0, "DECODER": 1, "LABEL_DECODE": 2}
    assert [list(kind) for kind in (StackSite, EncoderSite, DecoderSite)] == [
        [*range(3)],
        [*range(4)],
        [*range(6)],
    ]


def test_labels_are_decoded_for_the_rows_of_the_coins(decodes, batch):
    """Neither for the others nor with the keys of another purpose; a few of the rows are enough to decode."""
    coins = np.asarray(sample_mask(wanted_keys(2, batch, Stream.COIN), jnp.float32(0.5)))
    assert 0 < coins.sum() < ROWS
    trie, asked = object(), []

    def encode(wanted):
        asked.append(wanted)
        return "encoded", None

    # Else the rows that are asked for would be no values yet.
    with jax.disable_jit():
        found = objectives.sampled_labels(context_of(trie=trie), HALF, None, batch, STEP, encode)
    np.testing.assert_array_equal(found[objectives.SAMPLED], coins)
    for row, sampled in enumerate(coins):
        ids, length = (found[name][row].tolist() for name in (objectives.GIVEN_IDS, objectives.GIVEN_LENGTH))
        gold = batch["label_ids"][row].tolist()
        expected = [50, 51] if sampled else gold[: int(batch["label_length"][row]) - 1]
        assert ids[:length] == expected
    (decode,) = decodes
    assert (decode["max_tokens"], decode["vocab_limit"], decode["trie"]) == (LABEL, 90, trie)
    assert decode["row_keys"] is None
    for wanted in (decode["wanted"], *asked):
        np.testing.assert_array_equal(wanted, coins)


@pytest.mark.parametrize(
    ("config", "dropout", "shared"),
    [(HALF, 0.1, False), (HALF, 0.0, True), (PUBLISHED, 0.1, True), (PUBLISHED, 0.0, True)],
)
def test_the_label_decode_takes_the_encoding_of_the_label_loss_where_it_is_the_same(
    passes, monkeypatch, batch, config, dropout, shared
):
    found = []

    def sampled_labels(context, config, model, batch, step, encode):
        encoded, keys = encode(None)
        found.append((encoded, words(keys)))
        return {}

    monkeypatch.setattr(objectives, "sampled_labels", sampled_labels)
    objective = objectives.stage2_objective(context_of(dropout), config)
    objective.terms(None, batch, STEP, False)
    # An evaluation reads gold labels.
    assert found == []
    objective.terms(None, batch, STEP, True)
    assert (objective.draw is None) == shared
    keys = wanted_keys(2, batch, Stream.PREDICT_DROPOUT)
    own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 2) if config is PUBLISHED else None
    assert found == ([("encoded", words(own))] if shared else [])


def test_the_figures_of_a_step_by_hand():
    objective = objectives.stage2_objective(context_of(), SAMPLING)
    sums = {"label_loss_sum": 6.0, "rationale_loss_sum": 40.0, "sampled_rows": 3.0}
    denominators = {"label": 12.0, "rationale": 50.0, "rows": 8.0, "real_rows": 6.0}
    loss, metrics = objective.combine(sums, denominators, STEP)
    # 0.7 of 6/12 and 0.3 of 40/50; of all rows of the batch 3 got the label that was predicted.
    assert float(loss) == float(metrics["loss"]) == pytest.approx(0.7 * 0.5 + 0.3 * 0.8)
    assert (metrics["label_loss"], metrics["rationale_loss"]) == (0.5, 0.8)
    assert metrics["sampled_fraction"] == 3 / 8
