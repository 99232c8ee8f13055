"""The parts of R2D-C by hand: schedules, tau, Gumbel noise, soft tokens and the input that is read back."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_steps import LABEL, RATIONALE, ROWS, TOKENS, batch_of, random_rows, small

from r2d_jax.config import Stage2Config
from r2d_jax.data.prompts import END_ID, PromptBuilder
from r2d_jax.model.dropout import RowDropout
from r2d_jax.objective.confidence import init_threshold, update_threshold, use_probability
from r2d_jax.objective.cycle import gumbel_noise, soft_predict, soft_tokens, word_count
from r2d_jax.objective.schedules import cycle_weight, gumbel_temperature, warmup_end_step
from r2d_jax.training import objectives

__all__ = ["small"]


def keys_of(purpose, step=0, rows=ROWS):
    """Of the seed of `start`."""
    batch = {"seed": jnp.int32(7), "row": jnp.arange(rows, dtype=jnp.int32)}
    return objectives.row_keys(batch, 2, jnp.int32(step), purpose)


@pytest.mark.parametrize(
    ("step", "weight", "temperature"),
    [(0, 0.0, 1.0), (1499, 0.0, 0.5 ** (1499 / 30000)), (1500, 0.1, 0.965936), (15000, 0.1, math.sqrt(0.5))],
)
def test_the_published_schedules(step, weight, temperature):
    config = Stage2Config(max_steps=30000)
    assert float(cycle_weight(jnp.int32(step), config)) == pytest.approx(weight)
    assert float(gumbel_temperature(jnp.int32(step), config)) == pytest.approx(temperature, rel=1e-5)


def test_warm_up_ends_at_the_first_step_that_is_not_in_it():
    found = [
        warmup_end_step(Stage2Config(max_steps=steps, warmup_fraction=share))
        for steps, share in ((30000, 0.05), (100, 0.07), (12, 0.05), (10, 0.0), (10, 1.0))
    ]
    assert found == [1500, 7, 1, 0, 10]
    assert float(gumbel_temperature(jnp.int32(10), Stage2Config(max_steps=10))) == pytest.approx(0.5)


def test_a_label_as_sure_as_tau_is_used_with_half_of_pi():
    confidence = jnp.array([0.3, 0.4, 0.2, 1.0], jnp.float32)
    found = np.asarray(use_probability(jnp.float32(0.9), confidence, jnp.float32(0.3)))
    by_hand = 0.9 * np.array([0.5, 0.7310586, 0.2689414, 1 / (1 + math.exp(-7))])
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    assert not np.asarray(use_probability(jnp.float32(0.0), confidence, jnp.float32(0.3))).any()


def test_tau_is_the_mean_of_warm_up_and_then_of_each_window():
    config = Stage2Config(max_steps=20, warmup_fraction=0.15, tau_window_steps=4)
    rng = np.random.default_rng(0)
    confidences = [rng.random(rng.integers(1, 9)) for _ in range(13)]

    def mean(first, stop):
        return np.concatenate(confidences[first:stop]).mean()

    expected = [mean(0, 1), mean(0, 2), *[mean(0, 3)] * 4, *[mean(3, 7)] * 4, *[mean(7, 11)] * 3]
    update = jax.jit(lambda *of_step: update_threshold(*of_step, config))
    threshold, found = init_threshold(), []
    for step, values in enumerate(confidences):
        sums = jnp.float32(values.sum()), jnp.int32(len(values))
        threshold = update(threshold, *sums, jnp.int32(step))
        found.append(float(threshold.tau))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Steps 11 and 12 are in the window that is open.
    assert int(threshold.window_rows) == len(confidences[11]) + len(confidences[12])
    nothing = update(init_threshold(), jnp.float32(0), jnp.int32(0), jnp.int32(0))
    assert float(nothing.tau) == 0.0
    # Nor does a window without rows make one: that before it stays.
    kept = update(init_threshold()._replace(tau=jnp.float32(0.4)), jnp.float32(0), jnp.int32(0), jnp.int32(6))
    assert float(kept.tau) == pytest.approx(0.4)


def test_noise_is_gumbel_and_belongs_to_its_row_and_place():
    keys = keys_of(objectives.Stream.GUMBEL)
    noise = np.asarray(gumbel_noise(keys, (50, 96)))
    assert np.isfinite(noise).all()
    assert scipy.stats.kstest(noise.ravel(), "gumbel_r").pvalue > 1e-3
    np.testing.assert_array_equal(gumbel_noise(keys, (70, 96))[:, :50], noise)
    np.testing.assert_array_equal(gumbel_noise(keys[3:5], (50, 96)), noise[3:5])
    for other in (keys_of(objectives.Stream.GUMBEL, step=1), keys_of(objectives.Stream.COIN)):
        elsewhere = np.asarray(gumbel_noise(other, (50, 96))).ravel()
        assert abs(np.corrcoef(noise.ravel(), elsewhere)[0, 1]) < 5 / math.sqrt(noise.size)
    # The largest of logit + noise is a token drawn by its probability.
    logits = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    drawn = np.argmax(logits + np.asarray(gumbel_noise(keys, (4000, 3))), axis=-1).ravel()
    counts = np.bincount(drawn, minlength=3)
    assert scipy.stats.chisquare(counts, np.array([0.5, 0.3, 0.2]) * counts.sum()).pvalue > 1e-3


def test_the_rarest_noise_is_no_infinity(monkeypatch):
    """A draw of 0 comes once in eight millions, which is once in a few hundred places of a vocabulary."""
    ends = jnp.array([[0, 2**32 - 1]], jnp.uint32)
    monkeypatch.setattr(RowDropout, "bits", lambda *_: ends)
    np.testing.assert_allclose(
        gumbel_noise(keys_of(objectives.Stream.GUMBEL)[:1], (2,)), [[-2.81, 16.64]], atol=0.01
    )


def test_soft_tokens_leave_out_what_stands_in_no_text():
    logits = jax.random.normal(jax.random.key(0), (ROWS, RATIONALE, 96)) * 3
    keys = keys_of(objectives.Stream.GUMBEL)
    shares = np.asarray(soft_tokens(logits, keys, jnp.float32(0.7), 90))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert not shares[..., [0, 1]].any()
    assert not shares[..., 90:].any()
    assert (shares[..., 2:90] > 0).mean() > 0.99
    cold = np.asarray(soft_tokens(logits, keys, jnp.float32(1e-3), 90))
    noisy = np.asarray(logits + gumbel_noise(keys, (RATIONALE, 96)))[..., 2:90]
    np.testing.assert_array_equal(cold.argmax(-1), 2 + noisy.argmax(-1))


def test_a_rationale_of_certain_tokens_is_the_input_of_its_text(small):
    """Layout, end token and mask are those of any text, so the reader sees what prediction would show it."""
    factory, params = small
    # Else `predict:` is as long as `explain:`.
    tokens = dataclasses.replace(TOKENS, predict=(*TOKENS.predict, 8))
    model, prompts = factory.merge(params), PromptBuilder(tokens, LABEL)
    rows = random_rows(4)
    rows[2] = (*rows[2][:2], list(range(20, 20 + RATIONALE)))  # cut: no end token
    batch = {name: jnp.asarray(value) for name, value in batch_of(rows).items()}
    ids, length = batch["rationale_ids"], batch["rationale_length"]
    words = word_count(ids, length)
    assert words.tolist() == [len([token for token in row[2] if token != END_ID]) for row in rows]
    expected, expected_mask = prompts.predict(ids, words)
    found, mask = soft_predict(model, prompts, jax.nn.one_hot(ids, 96), words)
    np.testing.assert_array_equal(mask, expected_mask)
    wanted = model.embed(expected)
    np.testing.assert_allclose(np.asarray(found)[mask > 0], np.asarray(wanted)[mask > 0], rtol=1e-6)
