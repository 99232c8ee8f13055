"""Where the time of our stage-1 step goes; in: a shape and data, out: seconds of the step, ablations and parts.

    python benchmarks/breakdown.py --shape tiny --data pubmedqa

Two views that do not add up exactly: the step with something left out, and single operations on their own, each
with its gradient and for as many rows at once as the step takes. Alone they lose fusion with their neighbours, and
the cores that work on other rows meanwhile, so they are upper limits.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.ours import Ours, batch_widths
from benchmarks.prepare import DATA, SHAPES, make
from benchmarks.workload import Settings, Workload
from r2d_jax.model.cpu_parts import cpu_step_parts
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.layers import FeedForward, RMSNorm
from r2d_jax.objective.losses import token_cross_entropy
from r2d_jax.training.objectives import SEED, STAGE1, StepContext, Stream, row_keys, stage1_objective
from r2d_jax.training.steps import make_train_step
from r2d_jax.training.work import matmul_flops

# Of the wall, or of this process: the second means something on a busy machine, with one core to itself.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclasses.dataclass(frozen=True)
class Timer:
    """Median seconds of calls.

    Attributes:
        repeats: timed calls.
        clock: one of CLOCKS.
    """

    repeats: int
    clock: str = "wall"

    def __call__(self, call: Callable[[], Any]) -> float:
        """The first call compiles, and is not counted."""
        found = []
        for _ in range(self.repeats + 1):
            start = CLOCKS[self.clock]()
            jax.block_until_ready(call())
            found.append(CLOCKS[self.clock]() - start)
        return statistics.median(found[1:])


def _with_gradient(function: Callable[..., jax.Array], *arguments: jax.Array) -> Callable[..., Any]:
    # Squares, for the gradient of a plain sum is a constant that the compiler folds away.
    def loss(*args: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(function(*args)))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))


def whole_steps(ours: Ours, timer: Timer) -> Iterator[tuple[str, float, float]]:
    """(name, seconds, matrix-product operations) of the step and of variants."""
    batch = ours.device_batch(0)

    def timed(name: str, factory: Any, micro_batches: int | None = None) -> tuple[str, float, float]:
        context = dataclasses.replace(ours.context, factory=factory)
        config = dataclasses.replace(ours.stage1, micro_batches=micro_batches)
        step = make_train_step(context, stage1_objective(context), config, ours.mesh)

        def call() -> Any:
            # The step takes the state for itself.
            ours.state, metrics = step(ours.at("stage1"), batch)
            return ours.state, metrics

        return name, timer(call), matmul_flops(step, ours.state, batch)

    yield timed("step", ours.factory)
    yield timed("step, all rows at once", ours.factory, 1)
    shape = dataclasses.replace(ours.factory.config, dropout_rate=0.0)
    dry = dataclasses.replace(ours.factory, config=shape)
    yield timed("step without dropout", dry)
    context = StepContext(dry, ours.prompts, shape.vocab_size)
    forward = jax.jit(
        lambda params: stage1_objective(context).terms(
            dry.merge(params),
            {**ours.device_batch(0), "row": jnp.arange(len(batch["row_weight"]))},
            jnp.int32(0),
            False,
        )
    )
    yield "forward pass without dropout", timer(lambda: forward(ours.state.params)), 0.0


def single_parts(ours: Ours, timer: Timer) -> Iterator[tuple[str, float, float]]:
    """(name, seconds, matrix-product operations) of one kind of part, as often as a stage-1 step has it."""
    shape, dtype = ours.factory.config, jnp.dtype(ours.settings.dtype)
    question, target = batch_widths(ours.batches[0])
    source = ours.prompts.width(question)
    parts = cpu_step_parts(ours.settings.batch_size, question, shape.d_model)
    rows = ours.settings.batch_size // parts
    draw = np.random.default_rng(0)

    def normal(*size: int) -> jax.Array:
        return jnp.asarray(draw.normal(size=size), dtype)

    drawn_for = {SEED: jnp.int32(0), "row": jnp.arange(rows)}
    keys = row_keys(drawn_for, STAGE1, jnp.int32(0), Stream.PREDICT_DROPOUT)
    dropout = RowDropout.of(keys, shape.dropout_rate)

    def timed(name: str, function: Any, *arguments: jax.Array, times: int = 1) -> tuple[str, float, float]:
        compiled = _with_gradient(function, *arguments)
        times *= parts
        return (
            f"{name} x {times}",
            times * timer(lambda: compiled(*arguments)),
            times * matmul_flops(compiled, *arguments),
        )

    def head(x: jax.Array, table: jax.Array) -> jax.Array:
        logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
        ids = jnp.ones(x.shape[:2], jnp.int32)
        return token_cross_entropy(logits, ids, ids > 0)

    table = normal(shape.vocab_size, shape.d_model)
    yield timed("head and cross-entropy", head, normal(rows, target, shape.d_model), table)

    def product_of_head(x: jax.Array, table: jax.Array) -> jax.Array:
        return jnp.einsum("btd,vd->btv", x, table)

    yield timed("  of it the products", product_of_head, normal(rows, target, shape.d_model), table)

    def attend(dropped: RowDropout, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        scores = jnp.einsum("bhtk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(dtype)
        return jnp.einsum("bhts,bhsk->bhtk", dropped(weights), v)

    def products(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.einsum("bhts,bhsk->bhtk", jnp.einsum("bhtk,bhsk->bhts", q, k), v)

    for name, queries, values, times in (
        ("encoder attention", source, source, shape.num_layers),
        ("cross-attention", target, source, shape.num_decoder_layers),
    ):
        q, k, v = (normal(rows, shape.num_heads, size, shape.d_kv) for size in (queries, values, values))
        bias = normal(1, shape.num_heads, queries, values)
        with_dropout = functools.partial(attend, dropout)
        yield timed(f"{name}, scores to mix", with_dropout, q, k, v, bias, times=times)
        dry = functools.partial(attend, RowDropout(None, 0.0))
        yield timed("  without dropout", dry, q, k, v, bias, times=times)
        yield timed("  of it the products", products, q, k, v, bias, times=times)

    from flax import nnx

    for name, module in (
        ("feed-forward", FeedForward(shape, dtype=dtype, rngs=nnx.Rngs(0))),
        ("norm", RMSNorm(shape, dtype=dtype)),
    ):
        graph, weights = nnx.split(module)

        def call(x: jax.Array, graph: Any = graph, weights: Any = weights, name: str = name) -> jax.Array:
            layer = nnx.merge(graph, weights)
            return layer(x, dropout) if name == "feed-forward" else layer(x)

        x = normal(rows, source, shape.d_model)
        yield timed(f"encoder {name}", call, x, times=shape.num_layers * (1 if name == "feed-forward" else 2))

    ids = jnp.asarray(draw.integers(2, shape.vocab_size, (rows, source)), jnp.int32)
    yield timed("embedding of the input", lambda table: table[ids], table)

    bits = jax.jit(lambda keys: RowDropout.of(keys, 0.1).bits((shape.num_heads, source, source)))
    times = parts * shape.num_layers
    yield f"random bits of encoder attention x {times}", times * timer(lambda: bits(keys)), 0.0

    @jax.jit
    def update(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = ours.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    arguments = (ours.state.params, ours.state.opt_state, ours.state.params)
    yield "clip, AdamW and new weights", timer(lambda: update(*arguments)), 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both views."""
    parser = argparse.ArgumentParser(prog="benchmarks/breakdown.py", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--data", choices=DATA, default="pubmedqa")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--cache", type=pathlib.Path, help="folder for compiled programs (default: none kept)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        os.environ["R2D_COMPILE_CACHE"] = str(options.cache or folder / "compiled")
        workload = folder / "workload"
        workload.mkdir()
        make(workload, options.shape, options.data)
        settings = Settings(batch_size=options.batch_size, repeats=1)
        ours = Ours(Workload.load(workload), settings)
        square = jnp.full((2048, 2048), 1 / 2048)
        product = jax.jit(jnp.matmul)
        peak = 2 * 2048**3 / Timer(8, options.clock)(lambda: product(square, square)) / 1e9
        question, target = batch_widths(ours.batches[0])
        width = ours.prompts.width(question)
        print(f"input {width} tokens, target {target}; matrix products reach {peak:.0f} GFLOP/s")
        for parts in (whole_steps, single_parts):
            for name, secs, flops in parts(ours, Timer(options.repeats, options.clock)):
                rate = (
                    f"{flops / secs / 1e9:6.0f} GFLOP/s {100 * flops / secs / 1e9 / peak:4.0f} %"
                    if flops
                    else ""
                )
                print(f"{name:45s} {secs:8.4f} s {rate}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
