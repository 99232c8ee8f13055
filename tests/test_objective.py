"""Schedules, losses and sampling against METHOD's check values and hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import OptimizerConfig, Stage2Config
from r2d_jax.objective.losses import target_mask, token_cross_entropy
from r2d_jax.objective.scheduled_sampling import mix_labels, sample_mask
from r2d_jax.objective.schedules import label_weight, sampling_probability, transition_end_step
from r2d_jax.training.objectives import as_denominators, target_counts
from r2d_jax.training.optimizer import learning_rate, make_optimizer

PUBLISHED = Stage2Config(max_steps=30000)


@pytest.mark.parametrize(
    ("step", "alpha", "pi"),
    [
        (0, 0.0, 0.0),
        (750, 0.35, 0.0),
        (1500, 0.7, 0.0),
        (1501, 0.7, 5.6e-5),
        (9000, 0.7, 0.41667),
        (17700, 0.7, 0.9),
        (25000, 0.7, 0.9),
    ],
)
def test_schedules_have_the_published_values(step, alpha, pi):
    assert float(label_weight(jnp.int32(step), PUBLISHED)) == pytest.approx(alpha, abs=1e-6)
    assert float(sampling_probability(jnp.int32(step), PUBLISHED)) == pytest.approx(pi, rel=8e-3, abs=1e-9)
    if step == 9000:
        assert float(sampling_probability(jnp.int32(step), PUBLISHED)) == pytest.approx(
            7500 / 18000, rel=1e-6
        )


def test_selection_starts_after_warmup_and_transition():
    assert transition_end_step(PUBLISHED) == 19500
    assert transition_end_step(Stage2Config(max_steps=7)) == 5
    # 6.5 and 6.3: step 6 is within the transition.
    assert transition_end_step(Stage2Config(max_steps=10)) == 7
    late = Stage2Config(max_steps=9, warmup_fraction=0.1, transition_fraction=0.6)
    assert transition_end_step(late) == 7
    # 0.1 + 0.2 is a little more than 0.3.
    assert transition_end_step(Stage2Config(max_steps=10, warmup_fraction=0.1, transition_fraction=0.2)) == 3


def test_no_warmup_means_full_label_weight_from_the_start():
    config = Stage2Config(max_steps=100, warmup_fraction=0.0)
    assert float(label_weight(jnp.int32(0), config)) == pytest.approx(0.7)
    assert float(sampling_probability(jnp.int32(0), config)) == 0.0


def test_cross_entropy_is_hand_worked():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]], jnp.float32))
    loss = token_cross_entropy(logits, jnp.array([[0, 2]]), jnp.ones((1, 2), bool))
    assert float(loss) == pytest.approx(-np.log(0.5) - np.log(0.8), rel=1e-6)


def test_weighted_rows_equal_torch():
    torch = pytest.importorskip("torch")
    logits = np.asarray(jax.random.normal(jax.random.key(0), (3, 4, 5)))
    targets = np.array([[1, 4, 0, 0], [2, 0, 0, 0], [3, 3, 1, 4]])
    lengths, weights = np.array([2, 1, 4]), np.array([0.5, 3.0, 1.25], np.float32)
    each = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(12, 5), torch.tensor(targets).reshape(12), reduction="none"
    ).reshape(3, 4)
    counted = torch.tensor((np.arange(4) < lengths[:, None]) * weights[:, None])
    mask = target_mask(jnp.asarray(lengths), 4)
    loss = token_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), mask, jnp.asarray(weights))
    assert float(loss) == pytest.approx(float((each * counted).sum()), rel=1e-6)


def test_tokens_are_counted_as_much_as_their_row():
    """The rationale of a row of weight 0 counts for nothing, and class weights are for labels alone."""
    batch = {
        "row_weight": jnp.array([1.0, 1.0, 1.0, 0.0]),
        "label_weight": jnp.array([0.5, 3.0, 1.25, 7.0]),
        "label_ids": jnp.zeros((4, 4), jnp.int32),
        "label_length": jnp.array([2, 1, 4, 3]),
        "rationale_ids": jnp.zeros((4, 6), jnp.int32),
        "rationale_length": jnp.array([6, 0, 3, 5]),
    }
    counts = {name: float(count) for name, count in target_counts(batch).items()}
    assert counts == {"label": 0.5 * 2 + 3 + 1.25 * 4, "rationale": 9.0}


@pytest.mark.parametrize("padding", [-100, -1, 0, 7])
def test_padding_ids_of_any_value_do_not_matter(padding):
    """B035: -100 gave NaN and -1 silently scored the last class."""
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    mask = target_mask(jnp.array([2, 0]), 3)
    targets = jnp.array([[1, 4, padding], [padding] * 3])
    loss = token_cross_entropy(logits, targets, mask)
    by_hand = -jax.nn.log_softmax(logits)[0, jnp.arange(2), jnp.array([1, 4])].sum()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-6)


def test_a_batch_without_targets_has_loss_zero_and_no_nan_gradient():
    def loss_of(logits):
        return token_cross_entropy(logits, jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), bool))

    assert float(loss_of(jnp.full((1, 2, 4), jnp.inf))) == 0.0
    value, gradient = jax.value_and_grad(loss_of)(jnp.zeros((1, 2, 4)))
    assert float(value) == 0.0
    assert np.all(np.asarray(gradient) == 0.0)


def test_a_count_below_one_divides_as_it_is():
    """With class weights a batch of common labels can count less than one token."""
    counts = {"label": jnp.float32(0.25), "rationale": jnp.float32(0.0), "given": jnp.float32(3.0)}
    assert {name: float(value) for name, value in as_denominators(counts).items()} == {
        "label": 0.25,
        "rationale": 1.0,
        "given": 3.0,
    }


def test_the_rate_warms_up_and_falls_to_zero_at_the_last_step():
    rate = learning_rate(OptimizerConfig(learning_rate=0.8, warmup_steps=4), 12)
    found = [float(rate(step)) for step in range(13)]
    np.testing.assert_allclose(
        found, [0, 0.2, 0.4, 0.6, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0], atol=1e-6
    )


def test_every_setting_of_the_optimiser_is_that_of_torch():
    """None of them has its default, which left out settings would fall back to."""
    torch = pytest.importorskip("torch")
    config = OptimizerConfig(
        learning_rate=0.1, beta1=0.7, beta2=0.8, eps=0.01, weight_decay=0.3, clip_norm=0.5
    )
    optimizer = make_optimizer(config, 10)
    rng = np.random.default_rng(0)
    ours = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in (("a", 3), ("b", (2, 4)))
    }
    theirs = {name: torch.nn.Parameter(torch.tensor(np.asarray(value))) for name, value in ours.items()}
    adamw = torch.optim.AdamW(theirs.values(), betas=(0.7, 0.8), eps=0.01, weight_decay=0.3)
    state = optimizer.init(ours)
    # The first two gradients are clipped, the others are not.
    for step, size in enumerate((5.0, 0.4, 0.05, 0.01)):
        gradients = {
            name: size * rng.normal(size=value.shape).astype(np.float32) for name, value in ours.items()
        }
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradients), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for name, weight in theirs.items():
            weight.grad = torch.tensor(gradients[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        adamw.param_groups[0]["lr"] = 0.1 * (1 - step / 10)
        adamw.step()
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight.detach().numpy(), atol=1e-5, err_msg=name)


def _keys(seed, rows):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.asarray(rows))


def test_every_row_draws_its_own_coin():
    rows = np.arange(4000)
    coins = np.asarray(sample_mask(_keys(0, rows), jnp.float32(0.3)))
    assert abs(coins.mean() - 0.3) < 0.03
    shuffled = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(coins[shuffled], sample_mask(_keys(0, shuffled), jnp.float32(0.3)))
    alone = [bool(sample_mask(_keys(0, [row]), jnp.float32(0.3))[0]) for row in range(20)]
    np.testing.assert_array_equal(coins[:20], alone)
    assert not np.array_equal(coins, np.asarray(sample_mask(_keys(1, rows), jnp.float32(0.3))))


def test_probability_zero_is_never_and_one_is_always(monkeypatch):
    keys = _keys(3, np.arange(2000))
    assert not np.asarray(sample_mask(keys, jnp.float32(0.0))).any()
    assert np.asarray(sample_mask(keys, jnp.float32(1.0))).all()
    # One draw of eight millions is 0 itself.
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.float32(0.0))
    assert not np.asarray(sample_mask(keys, jnp.float32(0.0))).any()
    assert np.asarray(sample_mask(keys, jnp.float32(1e-9))).all()


def test_labels_are_mixed_row_by_row():
    ids, lengths = mix_labels(
        jnp.array([True, False]),
        jnp.array([[5, 6, 1], [7, 1, 0]]),
        jnp.array([2, 1]),
        jnp.array([[9, 1, 0], [8, 8, 8]]),
        jnp.array([1, 3]),
    )
    np.testing.assert_array_equal(ids, [[9, 1, 0], [7, 1, 0]])
    np.testing.assert_array_equal(lengths, [1, 1])
