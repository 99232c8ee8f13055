"""Parts of the T5; in: distances, queries, keys, rows, out: torch's buckets, attention by hand, rows in parts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from t5_cases import SMALL, one_torch_thread

from r2d_jax.config import MeshConfig, T5Config
from r2d_jax.model.attention import Attention
from r2d_jax.model.cpu_parts import cpu_parts, cpu_step_parts, map_rows, scan_unroll, split_rows
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.layer_loop import LayerLoop
from r2d_jax.model.layers import relative_position_buckets
from r2d_jax.model.mixing import AttentionBias, KVCache, attend
from r2d_jax.model.t5 import T5, DecoderBlock, EncoderBlock
from r2d_jax.runtime.mesh import _on_mesh, jit_on_mesh, make_mesh, on_one_cpu
from r2d_jax.training import work

__all__ = ["one_torch_thread"]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("buckets", "largest"), [(32, 128), (16, 64), (8, 20), (64, 256), (32, 1024), (32, 33)]
)
def test_position_buckets_equal_torch(bidirectional: bool, buckets: int, largest: int) -> None:
    torch = pytest.importorskip("torch")
    T5Attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    positions = torch.arange(601)
    theirs = T5Attention._relative_position_bucket(
        positions[None, :] - positions[:, None],
        bidirectional=bidirectional,
        num_buckets=buckets,
        max_distance=largest,
    )
    ours = relative_position_buckets(
        601, 601, bidirectional=bidirectional, num_buckets=buckets, max_distance=largest
    )
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, theirs.numpy())


BATCH, HEADS, QUERIES, KEYS, SIZE = 3, 2, 7, 11, 4
OFF = RowDropout(None, 0.3)


def made_bias(parts: str) -> AttentionBias:
    position = np.random.default_rng(1).normal(size=(1, HEADS, QUERIES, KEYS)).astype(np.float32)
    masked = np.where(np.arange(KEYS) < np.array([[11], [4], [7]]), 0.0, -1e30)[:, None, None, :]
    return AttentionBias(
        jnp.asarray(position) if parts in ("position", "both") else None,
        jnp.asarray(masked, jnp.float32) if parts in ("keys", "both") else None,
    )


@pytest.mark.parametrize("parts", ["position", "keys", "both", "none"])
def test_attention_is_that_worked_out_row_by_row(parts: str) -> None:
    draw = np.random.default_rng(0)
    queries, keys, values = (
        draw.normal(size=(BATCH, HEADS, length, SIZE)).astype(np.float32) for length in (QUERIES, KEYS, KEYS)
    )
    bias = made_bias(parts)
    attended = attend(queries, keys, values, bias, OFF)
    for row, head, query in np.ndindex(BATCH, HEADS, QUERIES):
        scores = keys[row, head].astype(np.float64) @ queries[row, head, query]
        scores += 0 if bias.position is None else np.asarray(bias.position)[0, head, query]
        scores += 0 if bias.keys is None else np.asarray(bias.keys)[row, 0, 0]
        weights = np.exp(scores - scores.max())
        expected = weights / weights.sum() @ values[row, head]
        np.testing.assert_allclose(attended[row, head, query], expected, atol=2e-6)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("dropped", [False, True])
def test_attention_from_a_cache_is_that_of_all_positions(dropped: bool, devices: int) -> None:
    """One CPU adds up by itself, several devices take products."""
    config = T5Config(**SMALL)
    attention = Attention(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(2)
    x, source = (jnp.asarray(draw.normal(size=(BATCH, n, config.d_model)), jnp.float32) for n in (1, KEYS))
    masked = made_bias("keys").keys
    dropout = RowDropout.of(jax.random.split(jax.random.key(9), BATCH), 0.3) if dropped else OFF
    bias = AttentionBias(None, masked)

    def from_a_cache() -> jax.Array:
        return attention(x, KVCache.of(*attention.keys_values(source)), bias, dropout)

    found = _on_mesh(from_a_cache, make_mesh(MeshConfig(), jax.devices()[:devices]))()
    expected = attention(x, attention.keys_values(source), bias, dropout)
    # A mask of the dropout that differed would show at once, for it doubles or drops whole weights.
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert dropped == (
        float(jnp.abs(found - attention(x, attention.keys_values(source), bias, OFF)).max()) > 1e-3
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_a_cache_that_is_written_by_position_is_that_of_all_positions(devices: int) -> None:
    """One CPU keeps values the other way round, and adds them up in parts where the positions divide."""
    draw = np.random.default_rng(3)
    heads, size = 2, 4

    def from_both(positions: int, queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        whole = KVCache.of(keys, values)
        cache = whole.empty(positions)
        for position in range(positions):
            of_one = KVCache.of(*(x[:, :, position : position + 1] for x in (keys, values)))
            cache = cache.updated(jnp.int32(position), of_one)
        bias = AttentionBias(None, None)
        return jnp.stack([kept.attend(queries, bias, OFF) for kept in (whole, cache)])

    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    for positions in (1, 7, 8):
        shape = (2, heads, positions, size)
        queries, keys, values = (
            jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((2, heads, 1, size), shape, shape)
        )
        found = jit_on_mesh(functools.partial(from_both, positions), mesh)(queries, keys, values)
        expected = attend(queries, keys, values, AttentionBias(None, None), OFF)
        np.testing.assert_allclose(found, np.stack([expected, expected]), atol=2e-6)


@pytest.mark.parametrize("devices", [1, 2])
def test_scores_of_a_half_precision_cache_are_wide(devices: int) -> None:
    """Rounded to bfloat16, a score of 20 is up to 0.06 off, and a weight 6 %."""
    draw = np.random.default_rng(5)
    queries, keys, values = (
        jnp.asarray(draw.normal(size=(2, HEADS, length, 64)) * scale, jnp.bfloat16)
        for length, scale in ((1, 2.5), (KEYS, 1.0), (KEYS, 1.0))
    )

    def from_a_cache() -> jax.Array:
        return KVCache.of(keys, values).attend(queries, AttentionBias(None, None), OFF)

    found = _on_mesh(from_a_cache, make_mesh(MeshConfig(), jax.devices()[:devices]))()
    exact = [np.asarray(x, np.float64) for x in (queries, keys, values)]
    scores = exact[0] @ exact[1].swapaxes(2, 3)
    assert np.abs(scores).max() > 15
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ exact[2]
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=0.012)


def test_a_projection_that_is_transposed_gives_the_same() -> None:
    config = T5Config(**SMALL)
    attention = Attention(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(4).normal(size=(BATCH, 3, config.d_model)), jnp.float32)
    straight = attention.q(x)
    assert attention.q.kernel.shape[0] == config.d_model
    attention.q.transpose()
    assert attention.q.kernel.shape[1] == config.d_model
    np.testing.assert_allclose(attention.q(x), straight, atol=2e-6)


@pytest.mark.parametrize(
    ("devices", "dtype", "steps", "transposed"),
    [(1, "float32", 8, True), (1, "float32", 7, False), (1, "bfloat16", 8, False), (2, "float32", 8, False)],
)
def test_matrices_are_transposed_for_long_float32_decodes_on_one_cpu(
    devices: int, dtype: str, steps: int, transposed: bool
) -> None:
    found: list[int] = []

    def traced() -> None:
        model = T5(T5Config(**SMALL), rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype)).for_decoding(steps)
        found.extend(block.feed_forward.wi.kernel.shape[0] for block in model.decoder.blocks)
        found.extend(block.feed_forward.wi.kernel.shape[0] for block in model.encoder.blocks)

    jax.eval_shape(_on_mesh(traced, make_mesh(MeshConfig(), jax.devices()[:devices])))
    config = T5Config(**SMALL)
    of_decoder = config.d_ff if transposed else config.d_model
    assert found == [of_decoder] * config.num_decoder_layers + [config.d_model] * config.num_layers


def precisions(jaxpr: Any) -> set[Any]:
    """Of all matrix products of a traced program."""
    products = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    inner = (part for equation in jaxpr.eqns for part in work._inner(equation.params))
    return {equation.params["precision"] for equation in products}.union(*map(precisions, inner))


@pytest.mark.parametrize(
    ("devices", "dtype", "precision"),
    [
        (1, "float32", jax.lax.Precision.HIGHEST),
        (2, "float32", jax.lax.Precision.HIGHEST),
        (2, "bfloat16", None),
    ],
)
def test_products_of_float32_are_not_rounded(
    devices: int, dtype: str, precision: jax.lax.Precision | None
) -> None:
    """A TPU would round their operands to bfloat16, and a CPU does not tell."""
    ids, keys = jnp.ones((2, 5), jnp.int32), jax.random.split(jax.random.key(0), 2)

    def traced() -> list[jax.Array]:
        model = T5(T5Config(**SMALL), rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))
        encoded = model.encode(ids, ids, keys)
        cache = model.start_cache(encoded, ids, 3)
        step = model.decode_step(ids[:, 0], jnp.int32(0), cache)[0]
        mixture = model.embed_mixture(jnp.ones((2, 3, 40), jnp.float32))
        return [model.decode(ids, encoded, ids, keys), step, mixture]

    program = _on_mesh(traced, make_mesh(MeshConfig(), jax.devices()[:devices]))
    assert precisions(jax.make_jaxpr(program)().jaxpr) == {precision and (precision, precision)}


def test_rows_are_computed_in_parts_on_a_single_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(devices: int) -> tuple[bool, int, int]:
        found: list[tuple[bool, int, int]] = []
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        jit_on_mesh(lambda: found.append((on_one_cpu(), cpu_parts(16, 508), scan_unroll(255))), mesh).lower()
        return found[0]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert (seen(1), seen(8)) == ((True, 16, 2), (False, 1, 1))


@pytest.mark.parametrize(
    ("wanted", "beside", "computed"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], 2, 0),
        ([0, 0, 0, 1, 0, 0, 1, 0], 1, 1),
        ([0, 1, 0, 1, 0, 0, 1, 0], 2, 2),
        ([1, 1, 0, 1, 0, 0, 1, 1], 2, 4),
        ([1, 1, 1, 1, 1, 1, 1, 1], 3, 6),  # the last part three times
        ([1, 1, 1, 1, 1, 1, 1, 1], 2, 4),
    ],
)
def test_parts_without_a_wanted_row_are_left_out(wanted: list[int], beside: int, computed: int) -> None:
    """8 rows in 4 parts, `beside` of them in each iteration."""
    seen: list[int] = []

    def function(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        jax.debug.callback(lambda _: seen.append(1), rows[0][0])
        return rows[0][:, None] + rows[1]

    tree = jnp.arange(8.0), jnp.arange(24.0).reshape(8, 3)
    asked = jnp.array(wanted, bool)
    found = jax.jit(lambda tree: map_rows(function, tree, 4, beside, asked))(tree)
    jax.effects_barrier()
    np.testing.assert_array_equal(found[asked], (tree[0][:, None] + tree[1])[asked])
    assert len(seen) == computed


@pytest.mark.parametrize(
    ("rows", "tokens", "parts"),
    [
        (16, 508, 16),  # one row is enough
        (16, 100, 4),  # 3 rows have 300 tokens, and 16 are not divided by 5
        (16, 40, 1),  # 8 rows would be needed: two parts, which gain nothing
        (32, 40, 4),
        (6, 200, 1),
        (3, 4000, 1),
        (7, 512, 7),
        (1, 512, 1),
    ],
)
def test_a_part_has_320_tokens_and_there_are_four_at_least(rows: int, tokens: int, parts: int) -> None:
    assert cpu_parts(rows, tokens) == parts
    assert cpu_step_parts(rows, tokens, d_model=255) == parts


@pytest.mark.parametrize(
    ("rows", "tokens", "parts"),
    [
        (16, 344, 8),
        (16, 640, 16),
        (16, 639, 8),
        (16, 100, 2),  # 7 rows are enough, but do not divide 16
        (16, 40, 1),
        (2, 640, 2),
        (7, 344, 1),
    ],
)
def test_a_part_of_a_wide_models_step_has_640_tokens(rows: int, tokens: int, parts: int) -> None:
    assert cpu_step_parts(rows, tokens, d_model=256) == parts


@pytest.mark.parametrize(
    ("cores", "d_model", "beside"),
    [
        (1, 255, 1),
        (2, 255, 2),
        (3, 255, 3),
        (16, 255, 4),
        (1, 256, 1),
        (2, 256, 1),
        (5, 256, 2),
        (16, 256, 4),
    ],
)
def test_a_part_of_a_wide_model_keeps_two_cores_busy(
    monkeypatch: pytest.MonkeyPatch, cores: int, d_model: int, beside: int
) -> None:
    """Two side by side made the program of T5-small twice as long, and no step of it faster."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert scan_unroll(d_model) == beside


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_rows_in_parts_come_out_in_order(parts: int) -> None:
    tree = {"x": jnp.arange(12.0).reshape(6, 2), "y": jnp.arange(6.0)}

    def function(rows):
        return rows["x"] * 10 + rows["y"][:, None] + rows["x"].shape[0] * 1000

    expected = function(tree) + (6 // parts - 6) * 1000
    for beside in (1, 2):
        found = jax.jit(map_rows, static_argnums=(0, 2, 3))(function, tree, parts, beside)
        np.testing.assert_array_equal(found, expected)
    # Part p has every parts-th row, from p on.
    assert split_rows(tree, parts)["y"][0].tolist() == list(range(0, 6, parts))


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_all_blocks_of_a_stack_are_traced_once(monkeypatch: pytest.MonkeyPatch, remat: str) -> None:
    """Of deep models tracing and lowering took longer than the first step."""
    traced: list[str] = []
    for kind in (EncoderBlock, DecoderBlock):
        call = kind.__call__

        def told(self: nnx.Module, *arguments: object, call: object = call) -> jax.Array:
            traced.append(type(self).__name__)
            return call(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(kind, "__call__", told)
    config = T5Config(**SMALL | {"num_layers": 4, "num_decoder_layers": 3})
    graphdef, state = nnx.split(T5(config, rngs=nnx.Rngs(0), loop=LayerLoop(remat)))
    ids = jnp.ones((2, 5), jnp.int32)

    def loss(state: nnx.State, keys: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        encoded = model.encode(ids, ids, keys)
        return jnp.sum(model.decode(ids, encoded, ids, keys))

    def first_token(state: nnx.State) -> jax.Array:
        model = nnx.merge(graphdef, state)
        cache = model.start_cache(model.encode(ids, ids), ids, 3)
        return model.decode_step(ids[:, 0], jnp.int32(0), cache)[0]

    jax.make_jaxpr(jax.grad(loss))(state, jax.random.split(jax.random.key(0), 2))
    assert traced == ["EncoderBlock", "DecoderBlock"]
    traced.clear()
    jax.make_jaxpr(first_token)(state)
    assert traced == ["EncoderBlock", "DecoderBlock"]
