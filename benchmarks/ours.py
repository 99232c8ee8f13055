"""The side of r2d_jax; in: a workload and settings, out: seconds of training steps, generations and batches."""

import dataclasses
import functools
import itertools
import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workload import END_ID, PAD_ID, Clock, Row, Settings, Workload, at_quantiles
from r2d_jax.config import MeshConfig, Stage1Config, Stage2Config
from r2d_jax.data.buckets import Bucket, choose_buckets
from r2d_jax.data.features import Features
from r2d_jax.data.pipeline import evaluation_buckets, train_batches
from r2d_jax.data.prompts import PromptBuilder, PromptTokens, round_up
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.predict import DecodePrograms
from r2d_jax.model.hf_format import read_hf_folder
from r2d_jax.model.layer_loop import LayerLoop
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.mesh import batch_sharding, jit_on_mesh, make_mesh, put_flag, replicated, shard_batch
from r2d_jax.training.objectives import StepContext, stage1_objective, stage2_objective
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.state import TrainState, fresh_state
from r2d_jax.training.steps import STOP, make_loss_sums, make_train_step
from r2d_jax.training.work import matmul_flops

HostBatch = dict[str, np.ndarray]

STREAM_BATCHES = 320
"""Batches of the shuffled stream that the timed ones stand for."""


class Place(NamedTuple):
    """Where in training a step is timed: step of max_steps."""

    stage: int
    step: int


# At the end of warm-up pi is 0, so the labels are the gold ones and the compiled decode is skipped; at 25,000 it
# has its largest value, 0.9.
PLACES = {
    "stage1": Place(1, 1500),
    "stage2_gold": Place(2, 1500),
    "stage2_sampled": Place(2, 25000),
    # The published label decode, with dropout: it shares the encoder's output with the label loss.
    "stage2_shared": Place(2, 25000),
}


def host_batch(rows: list[Row], question: int, label: int, rationale: int) -> HostBatch:
    """Arrays of these rows, with the first axis B and the given widths in tokens."""

    def pad(values: list[list[int]], width: int) -> np.ndarray:
        return np.array([ids + [PAD_ID] * (width - len(ids)) for ids in values], np.int32)

    columns = {
        "question": ([row.question for row in rows], question),
        "label": ([row.label for row in rows], label),
        "rationale": ([row.rationale for row in rows], rationale),
    }
    batch = {"row_weight": np.ones(len(rows), np.float32)}
    for name, (values, width) in columns.items():
        batch[f"{name}_ids"] = pad(values, width)
        batch[f"{name}_length"] = np.array(list(map(len, values)), np.int32)
    return batch


class EndsAfter(NamedTuple):
    """A `TokenRule`: any token, and the end token after int32 `tokens` [B]; a node is how many are to come."""

    tokens: jax.Array
    depth: int = 0

    def start(self, batch: int) -> jax.Array:
        """Tokens to come, int32 [B]."""
        return self.tokens

    def best(self, logits: jax.Array, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The next token of each row, its logit, and tokens to come after it."""
        chosen = jnp.where(nodes <= 0, END_ID, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        return chosen, jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0], nodes - 1


class Ours:
    """Runs the real steps and decodes, each compiled once for every width of a batch."""

    def __init__(self, workload: Workload, settings: Settings):
        """Load the weights onto the device and choose the batches."""
        enable_compile_cache()
        self.counter = CompileCounter().__enter__()
        self.workload, self.settings = workload, settings
        shape, params = read_hf_folder(workload.model)
        loop = LayerLoop(settings.remat, settings.scan_layers)
        self.factory = T5Factory(shape, settings.dtype, loop)
        self.mesh = make_mesh(MeshConfig())
        tokens = PromptTokens(**{name: tuple(ids) for name, ids in workload.prompts.items()})
        self.prompts = PromptBuilder(tokens, workload.label_tokens)
        context = StepContext(self.factory, self.prompts, shape.vocab_size)
        self.stage1 = Stage1Config(max_steps=30000, batch_size=settings.batch_size)
        self.stage2 = Stage2Config(max_steps=30000, batch_size=settings.batch_size)
        self.objectives = {1: stage1_objective(context), 2: stage2_objective(context, self.stage2)}
        self.context = context
        self.optimizer = make_optimizer(self.stage2.optimizer, self.stage2.max_steps)
        self.state = fresh_state(params, self.optimizer, self.mesh, settings.seed)
        one = make_train_step(context, self.objectives[1], self.stage1, self.mesh)
        two = make_train_step(context, self.objectives[2], self.stage2, self.mesh)
        shared = dataclasses.replace(self.stage2, label_decode_dropout=True)
        self.steps = {
            "stage1": one,
            "stage2_gold": two,
            "stage2_sampled": two,
            "stage2_shared": make_train_step(context, stage2_objective(context, shared), shared, self.mesh),
        }
        self._choose_batches()
        self._decoders: dict[int, DecodePrograms] = {}

    def _choose_batches(self) -> None:
        rows = self.workload.rows
        self.full = Bucket(
            round_up(max(len(row.question) for row in rows)),
            round_up(max(len(row.rationale) for row in rows)),
        )
        arrays = host_batch(rows, self.full.question, self.workload.label_tokens, self.full.rationale)
        del arrays["row_weight"]
        self.features = Features(**cast(Any, arrays), cut_questions=0, cut_rationales=0)
        self.buckets = choose_buckets(
            self.features.question_length,
            self.features.rationale_length,
            full=self.full,
            count=self.settings.length_buckets,
            prompt_tokens=self.prompts.overhead,
        )
        stream = list(itertools.islice(self._stream(), STREAM_BATCHES))
        picked = at_quantiles(map(_padded_tokens, stream), self.settings.repeats)
        self.batches = [stream[index] for index in picked]
        by_length = sorted(self.workload.rows, key=lambda row: len(row.question))
        self.generation_batches = self.workload.generation_batches(self.settings, by_length)
        self.generation_buckets = evaluation_buckets(
            self.features,
            self.settings.generation_batch_size,
            prompt_tokens=self.prompts.overhead,
            rationales=False,
        )
        self.stream_padding = 1 - sum(map(_real_tokens, stream)) / sum(map(_padded_tokens, stream))

    def _stream(self) -> Any:
        settings = self.settings
        return train_batches(self.features, settings.batch_size, seed=settings.seed, buckets=self.buckets)

    def facts(self) -> dict[str, Any]:
        """What this side runs with."""
        device = jax.devices()[0]
        return {
            "platform": device.platform,
            "device": device.device_kind,
            "compute_dtype": self.settings.dtype,
            "label_decode_dropout": self.stage2.label_decode_dropout,
            "widths": [[bucket.question, bucket.rationale] for bucket in self.buckets],
            "padding_fraction": self.stream_padding,
        }

    def at(self, part: str) -> TrainState:
        """The state, as if it stood where a part is timed."""
        step = jax.device_put(jnp.int32(PLACES[part].step), replicated(self.mesh))
        return self.state._replace(step=step)

    def device_batch(self, index: int) -> dict[str, jax.Array]:
        """The batch of a quantile, as a training step takes it."""
        return shard_batch(self.batches[index], self.mesh) | {STOP: put_flag(False, self.mesh)}

    def step(self, part: str, index: int) -> dict[str, float]:
        """One training step on the batch of a quantile, from host arrays to the new weights."""
        state = self.at(part)
        clock = Clock()
        self.state, metrics = self.steps[part](state, self.device_batch(index))
        jax.block_until_ready((self.state, metrics))
        taken = clock.read()
        fraction = float(metrics.get("sampled_fraction", 0.0))
        return {**taken, "loss": float(metrics["loss"]), "sampled_fraction": fraction}

    def warm(self, part: str) -> dict[str, int]:
        """Run every width of a part once; says how many there are."""
        first = {batch_widths(batch): index for index, batch in enumerate(self.batches)}
        for index in first.values():
            self.step(part, index)
        return {"widths": len(first)}

    def flops(self, part: str) -> dict[str, list[float]]:
        """Operations of the matrix products of each batch's step, padding included."""
        place = PLACES[part]
        config = self.stage2
        if part == "stage2_gold":
            config = Stage2Config(max_steps=30000, batch_size=config.batch_size, max_sampling_probability=0.0)
        objective = (
            stage1_objective(self.context) if place.stage == 1 else stage2_objective(self.context, config)
        )
        step = make_train_step(
            self.context, objective, self.stage1 if place.stage == 1 else config, self.mesh
        )
        counted: dict[tuple[int, int], float] = {}
        for index, batch in enumerate(self.batches):
            if batch_widths(batch) not in counted:
                counted[batch_widths(batch)] = matmul_flops(step, self.state, self.device_batch(index))
        return {"flops": [counted[batch_widths(batch)] for batch in self.batches]}

    def decode_programs(self, label_tokens: int) -> DecodePrograms:
        """Compiled decodes with a label limit."""
        if label_tokens not in self._decoders:
            self._decoders[label_tokens] = DecodePrograms(
                self.factory,
                PromptBuilder(self.prompts.tokens, label_tokens),
                self.factory.config.vocab_size,
                self.settings.rationale_tokens,
                "given_label",
                self.mesh,
            )
        return self._decoders[label_tokens]

    def unending_params(self) -> Any:
        """The weights, but a zero row of the end token: its logit is 0, never the largest, and every row goes on."""
        # Not kept: the next training step takes the state for itself.
        params = self.state.params
        return jax.block_until_ready(params | {"embedding": params["embedding"].at[END_ID].set(0.0)})

    @functools.cached_property
    def _decode_ended(self) -> Any:
        programs = self.decode_programs(self.workload.label_tokens)

        def ended_rationales(params: Any, batch: Any, ids: Any, length: Any, tokens: Any) -> Any:
            question = (batch["question_ids"], batch["question_length"])
            prompt = self.prompts.explain_given_label(*question, ids, length)
            encoded = programs.encoded(params, prompt)
            return programs.decoded(params, encoded, self.settings.rationale_tokens, EndsAfter(tokens))

        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        return jit_on_mesh(
            ended_rationales,
            self.mesh,
            in_shardings=(None, rows, whole, whole, whole),
            out_shardings=whole,
        )

    def generate(self, kind: str, index: int, same: bool = False) -> dict[str, Any]:
        """Greedy labels ("label", "long_label") or rationales given the gold label.

        No row ends early, except those of an "ended_rationale", which are as long as their gold rationales.

        Of a batch of all rows sorted by length, as `Predictor` decodes them; of the first rows of the file where
        both sides must have the `same`.
        """
        settings, rows = self.settings, self.generation_batches[index]
        if same:
            rows = self.workload.rows[: settings.generation_batch_size]
        limit = settings.long_label_tokens if kind == "long_label" else self.workload.label_tokens
        programs = self.decode_programs(limit)
        params = self.unending_params()
        host = host_batch(rows, self._width_of(rows), self.workload.label_tokens, self.full.rationale)
        clock = Clock()
        batch = shard_batch(host, self.mesh)
        if kind.endswith("rationale"):
            given = (host["label_ids"], host["label_length"] - 1)
            labels = (jax.device_put(array, replicated(self.mesh)) for array in given)
            if kind == "rationale":
                decoded = programs.decode_rationales(params, batch, *labels)
            else:
                tokens = np.array([len(row.rationale) - 1 for row in rows], np.int32)
                decoded = self._decode_ended(params, batch, *labels, tokens)
        else:
            decoded = programs.decode_labels(params, programs.encode_questions(params, batch))
        ids = np.asarray(decoded.token_ids)
        taken = clock.read()
        lengths = np.asarray(decoded.lengths)
        told = {"longest_tokens": int(lengths.max()), "mean_tokens": float(lengths.mean())}
        return {**taken, **told, "ids": ids.tolist()}

    def _width_of(self, rows: list[Row]) -> int:
        longest = max(len(row.question) for row in rows)
        return next(bucket.question for bucket in self.generation_buckets if bucket.question >= longest)

    def warm_generation(self, kind: str) -> dict[str, int]:
        """Run every width of a kind once; says how many there are."""
        first = {self._width_of(rows): index for index, rows in enumerate(self.generation_batches)}
        for index in first.values():
            self.generate(kind, index)
        widths = {*first, self._width_of(self.workload.rows[: self.settings.generation_batch_size])}
        return {"widths": len(widths)}

    def check(self) -> dict[str, float]:
        """Mean losses of the first rows with dropout off and gold labels."""
        rows = self.workload.rows[: self.settings.batch_size]
        host = host_batch(rows, self.full.question, self.workload.label_tokens, self.full.rationale)
        batch = shard_batch(host, self.mesh)
        found = {}
        for stage, objective in self.objectives.items():
            sums, counts = make_loss_sums(self.context, objective, self.mesh)(self.state.params, batch)
            for name in ("label", "rationale"):
                if f"{name}_loss_sum" in sums:
                    found[f"stage{stage}_{name}_loss"] = float(sums[f"{name}_loss_sum"] / counts[name])
        return found

    def pipeline(self, batches: int) -> dict[str, float]:
        """Rows per second of the shuffled stream alone, and of tokenising the texts."""
        stream = self._stream()
        next(stream)
        start = time.perf_counter()
        for _ in itertools.islice(stream, batches):
            pass
        batch_secs = time.perf_counter() - start
        tokenizer = Tokenizer.load(self.workload.tokenizer)
        texts = self.workload.texts()
        start = time.perf_counter()
        for column in zip(*texts, strict=True):
            tokenizer.encode_batch(column)
        token_secs = time.perf_counter() - start
        return {
            "batch_rows_per_sec": batches * self.settings.batch_size / batch_secs,
            "tokenised_rows_per_sec": len(texts) / token_secs,
        }

    def matmul_gflops(self, size: int, repeats: int) -> dict[str, float]:
        """Best rate of a product of two square matrices in the compute dtype."""
        left = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(self.settings.dtype))
        product = jax.jit(lambda a, b: a @ b)
        product(left, left).block_until_ready()
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            product(left, left).block_until_ready()
            best = min(best, time.perf_counter() - start)
        return {"gflops": 2 * size**3 / best / 1e9}

    def compiled(self) -> dict[str, Any]:
        """Programs compiled or read from the cache so far, by name, and the seconds of it."""
        return {"programs": dict(self.counter.programs), "secs": self.counter.seconds}

    def device_memory(self) -> int | None:
        """Peak bytes on an accelerator; None on CPU."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def batch_widths(batch: HostBatch) -> tuple[int, int]:
    """Q and T of a batch, in tokens."""
    return batch["question_ids"].shape[1], batch["rationale_ids"].shape[1]


def _padded_tokens(batch: HostBatch) -> int:
    # As `choose_buckets` counts: two encoder passes and one decoder pass.
    question, rationale = batch_widths(batch)
    return len(batch["row_weight"]) * (2 * question + rationale)


def _real_tokens(batch: HostBatch) -> int:
    return int(2 * batch["question_length"].sum() + batch["rationale_length"].sum())
