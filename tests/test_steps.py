"""The jitted steps against plain torch, and what must not change their result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_oracle as oracle

from r2d_jax.config import MeshConfig, OptimizerConfig, Stage1Config, Stage2Config
from r2d_jax.data.prompts import PromptBuilder, PromptTokens
from r2d_jax.model import cpu_parts
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.hf_format import read_hf_folder
from r2d_jax.model.layer_loop import LayerLoop
from r2d_jax.model.parameters import T5Factory, flatten
from r2d_jax.runtime.mesh import make_mesh, shard_batch
from r2d_jax.training import baselines, objectives, r2dc, steps
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.r2dc import r2dc_objective
from r2d_jax.training.state import fresh_state

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROWS, QUESTION, LABEL, RATIONALE = 8, 16, 5, 12
# What a step adds to its batch.
IN_A_STEP = {"row": np.arange(ROWS, dtype=np.int32), "seed": np.int32(7)}
TOKENS = PromptTokens(oracle.PREDICT, oracle.EXPLAIN, oracle.GIVEN, oracle.THEN_EXPLAIN)
# The published rate. In the first update Adam divides a gradient by its own size, so at higher rates an element
# whose gradient is all rounding moves by more than the limit, in torch against float64 torch as well.
OPTIMIZER = OptimizerConfig(learning_rate=5e-5)
# pi is 1 from step 2 on.
SAMPLING = Stage2Config(
    max_steps=20,
    batch_size=ROWS,
    optimizer=OPTIMIZER,
    warmup_fraction=0.05,
    transition_fraction=0.05,
    max_sampling_probability=1.0,
)
VARIANTS = {"t5-1.0": {"tied": True, "gated": False}, "flan": {"tied": False, "gated": True}}


def random_rows(seed, rows=ROWS):
    rng = np.random.default_rng(seed)

    def ids(low, high):
        return rng.integers(11, 96, rng.integers(low, high + 1)).tolist()

    return [(ids(6, QUESTION), [*ids(1, LABEL - 1), 1], [*ids(4, RATIONALE - 1), 1]) for _ in range(rows)]


def batch_of(rows, question=QUESTION, label=LABEL, rationale=RATIONALE):
    def pad(values, width):
        return np.array([row + [0] * (width - len(row)) for row in values], np.int32)

    columns = list(zip(*rows, strict=True))
    arrays = {"row_weight": np.ones(len(rows), np.float32)}
    for name, values, width in zip(
        ("question", "label", "rationale"), columns, (question, label, rationale), strict=True
    ):
        arrays |= {
            f"{name}_ids": pad(values, width),
            f"{name}_length": np.array(list(map(len, values)), np.int32),
        }
    return arrays


def factory_and_params(tmp_path, model, dropout=0.0):
    model.save_pretrained(tmp_path)
    config, params = read_hf_folder(tmp_path)
    return T5Factory(dataclasses.replace(config, dropout_rate=dropout)), params


@pytest.fixture(scope="module")
def one_device():
    return jax.make_mesh(
        (1, 1, 1),
        ("data", "fsdp", "tensor"),
        devices=jax.devices()[:1],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )


def context_of(factory):
    return objectives.StepContext(factory, PromptBuilder(TOKENS, LABEL), factory.config.vocab_size)


def start(params, config, mesh, step=0, seed=7):
    state = fresh_state(
        jax.tree.map(jnp.array, params), make_optimizer(config.optimizer, config.max_steps), mesh, seed
    )
    return state._replace(step=jax.device_put(state.step + step, state.step.sharding))


def weights_of(model, tmp_path):
    model.save_pretrained(tmp_path)
    return flatten(read_hf_folder(tmp_path)[1])


def assert_same_weights(ours, reference, limit):
    ours = flatten(jax.device_get(ours))
    assert ours.keys() == reference.keys()
    worst = max(float(np.abs(ours[name] - reference[name]).max()) for name in ours)
    assert worst <= limit, worst
    return worst


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    factory, params = factory_and_params(tmp_path_factory.mktemp("small"), oracle.random_t5(5))
    return factory, jax.tree.map(jnp.asarray, params)


def gradient(context, params, config, batch, step):
    objective = objectives.stage2_objective(context, config)
    batch = {name: jnp.asarray(value) for name, value in batch.items()} | IN_A_STEP
    denominators = {"label": jnp.float32(20), "rationale": jnp.float32(60), "rows": jnp.float32(ROWS)}

    def loss_of(params):
        return objective.combine(
            objective.terms(context.factory.merge(params), batch, jnp.int32(step), True),
            denominators,
            jnp.int32(step),
        )[0]

    return jax.jit(jax.grad(loss_of))(params)


def test_no_gradient_flows_through_the_label_decode(small):
    """B041: the gradient equals that with the predicted labels given as data."""
    factory, params = small
    rows = random_rows(11)
    model = factory.merge(params)
    batch = batch_of(rows)
    ids, mask = PromptBuilder(TOKENS, LABEL).predict(
        jnp.asarray(batch["question_ids"]), jnp.asarray(batch["question_length"])
    )
    decoded = objectives.greedy_decode(model, model.encode(ids, mask), mask, max_tokens=LABEL, vocab_limit=96)

    def with_given(given):
        """A context whose rationale prompt always gets these labels."""

        class Forced(PromptBuilder):
            def explain_given_label(self, question_ids, question_length, label_ids, label_length):
                return super().explain_given_label(question_ids, question_length, *given)

        return Forced(TOKENS, LABEL)

    context = context_of(factory)
    sampled = gradient(context, params, SAMPLING, batch, 10)
    never = dataclasses.replace(SAMPLING, max_sampling_probability=0.0)
    forced = dataclasses.replace(context, prompts=with_given((decoded.token_ids, decoded.lengths)))
    expected = gradient(forced, params, never, batch, 10)
    teacher_forced = gradient(context, params, never, batch, 10)
    for name, value in flatten(sampled).items():
        np.testing.assert_allclose(value, flatten(expected)[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert any(
        not np.allclose(value, flatten(teacher_forced)[name], atol=1e-4)
        for name, value in flatten(sampled).items()
    )


def run_steps(factory, params, config, mesh, count=3, first_step=5, seed=7, step_fn=None, **widths):
    context = context_of(factory)
    objective = (
        objectives.stage2_objective(context, config)
        if isinstance(config, Stage2Config)
        else objectives.stage1_objective(context)
    )
    step_fn = step_fn or steps.make_train_step(context, objective, config, mesh)
    state = start(params, config, mesh, first_step, seed)
    history = []
    for index in range(count):
        state, metrics = step_fn(state, shard_batch(batch_of(random_rows(index), **widths), mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history, step_fn


@pytest.fixture(scope="module")
def with_dropout(small):
    factory, params = small
    return T5Factory(dataclasses.replace(factory.config, dropout_rate=0.1)), params


HALF = dataclasses.replace(SAMPLING, max_sampling_probability=0.5)


@pytest.fixture(scope="module")
def reference(with_dropout, one_device):
    return run_steps(*with_dropout, HALF, one_device)


def test_the_same_seed_gives_the_same_bits(with_dropout, one_device, reference):
    again, history, _ = run_steps(*with_dropout, HALF, one_device)
    assert history == reference[1]
    for name, value in flatten(jax.device_get(again.params)).items():
        np.testing.assert_array_equal(value, flatten(jax.device_get(reference[0].params))[name])


def test_another_seed_is_another_run_of_the_same_program(with_dropout, one_device, reference):
    """The seed was a constant of the program, and a comparison compiled each method once for every seed."""
    step_fn = reference[2]
    before = step_fn._cache_size()
    _, history, _ = run_steps(*with_dropout, HALF, one_device, seed=8, step_fn=step_fn)
    assert step_fn._cache_size() == before
    assert [row["loss"] for row in history] != [row["loss"] for row in reference[1]]


@pytest.mark.parametrize(("parts", "tokens_at_once"), [(2, 320), (4, 1)])
def test_micro_batches_do_not_matter_with_dropout_and_sampling(
    with_dropout, one_device, reference, monkeypatch, parts, tokens_at_once
):
    """Coins and masks belong to rows of the global batch; one token-weighted mean (METHOD 9).

    The label decode of the second case encodes row by row, and only the rows that a coin has chosen.
    """
    monkeypatch.setattr(cpu_parts, "_TOKENS", tokens_at_once)
    config = dataclasses.replace(HALF, micro_batches=parts)
    state, history, _ = run_steps(*with_dropout, config, one_device)
    assert [row["sampled_fraction"] for row in history] == [row["sampled_fraction"] for row in reference[1]]
    assert 0 < history[0]["sampled_fraction"] < 1
    # What is logged is the rate of this update: of steps 5, 6 and 7 of 20.
    rates = [row["learning_rate"] for row in history]
    assert rates == pytest.approx([5e-5 * (1 - step / 20) for step in (5, 6, 7)])
    for ours, theirs in zip(history, reference[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert_same_weights(state.params, flatten(jax.device_get(reference[0].params)), 1e-5)


STAGE1 = Stage1Config(max_steps=40, batch_size=ROWS, optimizer=HALF.optimizer)


@pytest.fixture(scope="module")
def reference1(with_dropout, one_device):
    return run_steps(*with_dropout, STAGE1, one_device)


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 8, 1)])
@pytest.mark.parametrize("stage", [1, 2])
def test_device_layouts_do_not_matter(with_dropout, reference1, reference, axes, stage):
    """The layouts 2x2x1 and 2x2x2 are compared over whole runs, in test_two_processes."""
    mesh = make_mesh(MeshConfig(*axes))
    config, (expected, curve, _) = (STAGE1, reference1) if stage == 1 else (HALF, reference)
    state, history, _ = run_steps(*with_dropout, config, mesh)
    for ours, theirs in zip(history, curve, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours.get("sampled_fraction") == theirs.get("sampled_fraction")
    assert_same_weights(state.params, flatten(jax.device_get(expected.params)), 1e-5)


def test_a_scanned_and_recomputed_stack_takes_the_same_steps(with_dropout, reference):
    """On eight devices; test_footprint.py has the gradients of one."""
    factory, params = with_dropout
    factory = dataclasses.replace(factory, loop=LayerLoop("full", scan=True))
    state, history, _ = run_steps(factory, params, HALF, make_mesh(MeshConfig(2, 2, 2)))
    for ours, theirs in zip(history, reference[1], strict=True):
        assert ours["sampled_fraction"] == theirs["sampled_fraction"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert_same_weights(state.params, flatten(jax.device_get(reference[0].params)), 1e-5)


@pytest.mark.parametrize(
    "objective_of", [baselines.sft_objective, baselines.dss_objective, objectives.stage2_objective]
)
def test_a_label_of_weight_two_counts_as_two_rows(small, one_device, objective_of):
    rows = random_rows(3, 4)
    factory, params = small
    context = context_of(factory)
    sums_of = steps.make_loss_sums(context, objective_of(context, Stage2Config()), one_device)
    weights = {"label_weight": np.array([2, 1, 1, 3], np.float32)}
    ours = sums_of(params, shard_batch(batch_of(rows) | weights, one_device))
    repeated = [rows[0], *rows, rows[3], rows[3]]
    theirs = sums_of(params, shard_batch(batch_of(repeated), one_device))
    assert float(ours[1]["label"]) == float(theirs[1]["label"])
    np.testing.assert_allclose(ours[0]["label_loss_sum"], theirs[0]["label_loss_sum"], rtol=1e-6)
    # A rationale counts as before.
    plain = sums_of(params, shard_batch(batch_of(rows), one_device))
    assert float(ours[1]["rationale"]) == float(plain[1]["rationale"])
    if "rationale_loss_sum" in plain[0]:
        np.testing.assert_allclose(ours[0]["rationale_loss_sum"], plain[0]["rationale_loss_sum"], rtol=1e-6)


def test_extra_padding_does_not_matter(small, one_device):
    """B037."""
    plain = run_steps(*small, SAMPLING, one_device)
    wide = run_steps(*small, SAMPLING, one_device, question=32, rationale=40)
    for ours, theirs in zip(wide[1], plain[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert_same_weights(wide[0].params, flatten(jax.device_get(plain[0].params)), 1e-5)


def test_no_label_is_decoded_while_no_coin_asks_for_it(with_dropout, one_device, monkeypatch):
    """METHOD 10. One program serves both phases."""
    calls = []
    decode = objectives.greedy_decode

    def counted(*args, **kwargs):
        jax.debug.callback(lambda: calls.append(1))
        return decode(*args, **kwargs)

    monkeypatch.setattr(objectives, "greedy_decode", counted)
    *_, step_fn = run_steps(*with_dropout, SAMPLING, one_device, count=1, first_step=0)
    jax.effects_barrier()
    assert calls == []
    *_, step_fn = run_steps(*with_dropout, SAMPLING, one_device, count=3, first_step=0)
    jax.effects_barrier()
    # pi is 0 at steps 0 and 1, and 1 at step 2.
    assert len(calls) == 1
    assert step_fn._cache_size() == 1


def test_published_decode_keeps_dropout_on(with_dropout, one_device):
    factory = T5Factory(dataclasses.replace(with_dropout[0].config, dropout_rate=0.4))
    published = dataclasses.replace(SAMPLING, label_decode_dropout=True)
    ours = run_steps(factory, with_dropout[1], SAMPLING, one_device)
    theirs = run_steps(factory, with_dropout[1], published, one_device)
    assert ours[1][0]["label_loss"] == theirs[1][0]["label_loss"]
    assert [row["rationale_loss"] for row in ours[1]] != [row["rationale_loss"] for row in theirs[1]]


@pytest.mark.parametrize("objective_of", [objectives.stage2_objective, r2dc_objective])
def test_published_decode_drops_out_in_the_decoder_too(with_dropout, monkeypatch, objective_of):
    """By keys of its own; without the setting by none."""
    decode, drawn, keys_of_decode = objectives.greedy_decode, [], []
    fold = objectives.fold_keys

    def folded(keys, part):
        drawn.append((part, fold(keys, part)))
        return drawn[-1][1]

    def recorded(*args, row_keys, **named):
        keys_of_decode.append(row_keys)
        return decode(*args, row_keys=row_keys, **named)

    for module in (objectives, r2dc):
        monkeypatch.setattr(module, "fold_keys", folded)
    monkeypatch.setattr(objectives, "greedy_decode", recorded)
    context = context_of(with_dropout[0])
    batch = {name: jnp.asarray(value) for name, value in batch_of(random_rows(0)).items()}
    batch |= IN_A_STEP
    for on in (True, False):
        config = dataclasses.replace(SAMPLING, label_decode_dropout=on)
        objective = objective_of(context, config)

        def drawing(params, objective=objective):
            model = context.factory.merge(params)
            if objective.draw is None:
                return objective.terms(model, batch, jnp.int32(3), True)
            return objective.draw(model, batch, jnp.int32(3), objective.init_state())

        jax.eval_shape(drawing, with_dropout[1])
    one, none = keys_of_decode
    assert none is None
    assert [part for part, keys in drawn if keys is one] == [2]


def test_every_dropout_of_a_step_has_a_mask_of_its_own(small, monkeypatch):
    """Where T5 has them: embedding and output of each stack, weights, hidden layer and output of each part."""
    factory = T5Factory(dataclasses.replace(small[0].config, dropout_rate=0.1))
    shape, words = factory.config, []
    call = RowDropout.__call__

    def counted(dropout, x):
        words.append(np.asarray(dropout.words).tobytes())
        return call(dropout, x)

    monkeypatch.setattr(RowDropout, "__call__", counted)
    never = dataclasses.replace(SAMPLING, max_sampling_probability=0.0)
    objective = objectives.stage2_objective(context_of(factory), never)
    batch = {name: jnp.asarray(value) for name, value in batch_of(random_rows(0)).items()}
    objective.terms(factory.merge(small[1]), batch | IN_A_STEP, jnp.int32(3), True)
    of_a_pass = (2 + 4 * shape.num_layers) + (2 + 6 * shape.num_decoder_layers)
    assert len(words) == 2 * of_a_pass
    assert len(set(words)) == len(words)


def drawn_keys(seed, stage, step, rows, purpose):
    batch = {"seed": jnp.int32(seed), "row": jnp.asarray(rows, jnp.int32)}
    return np.asarray(jax.random.key_data(objectives.row_keys(batch, stage, jnp.int32(step), purpose)))


def test_row_keys_depend_on_everything_they_should():
    def key(seed=0, stage=1, step=0, row=0, purpose=0):
        return tuple(drawn_keys(seed, stage, step, [row], purpose)[0].tolist())

    keys = [key(), key(seed=1), key(stage=2), key(step=1), key(row=1), key(purpose=1)]
    assert len(set(keys)) == len(keys)
    assert key() == key()


def test_keys_are_of_one_kind_whatever_the_default_is():
    expected = drawn_keys(7, 2, 3, np.arange(4), 1)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(drawn_keys(7, 2, 3, np.arange(4), 1), expected)


def test_keys_follow_the_rule_where_the_seed_is_an_argument():
    """Another rule would give a run that goes on other coins and masks."""
    seed, stage, step, purpose, row = 2**31 - 1, 2, 3, 1, 5
    key = jax.random.key(seed, impl="threefry2x32")
    for number in (stage, step, purpose, row):
        key = jax.random.fold_in(key, number)

    def found(seed):
        batch = {"seed": seed, "row": jnp.array([row])}
        return jax.random.key_data(objectives.row_keys(batch, stage, jnp.int32(step), purpose))

    np.testing.assert_array_equal(jax.jit(found)(jnp.int32(seed))[0], jax.random.key_data(key))
