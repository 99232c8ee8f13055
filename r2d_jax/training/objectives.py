"""What each method minimises; in: a model and the rows of a batch, out: loss sums, and a loss combined from them."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2d_jax.config import Stage2Config
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.model.greedy import Decoded, greedy_decode
from r2d_jax.model.label_trie import LabelTrie
from r2d_jax.model.parameters import T5Factory
from r2d_jax.model.t5 import T5, shift_right
from r2d_jax.objective.losses import target_mask, token_cross_entropy
from r2d_jax.objective.scheduled_sampling import mix_labels, sample_mask
from r2d_jax.objective.schedules import label_weight, sampling_probability
from r2d_jax.training.state import nothing, seed_key

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Terms = dict[str, jax.Array]
Denominators = dict[str, jax.Array]

LABEL_WEIGHT = "label_weight"
"""Of a batch, float32 [B]: how much the label of each row counts."""

GIVEN_IDS, GIVEN_LENGTH, SAMPLED = "given_ids", "given_length", "sampled"
"""Of a batch, once labels are drawn: those of the rationale prompts, and which of them the model predicted."""

ENCODED = "encoded"
"""Of a validation batch that was encoded before, [B, S, D]: its predict prompts as the encoder gives them."""

SEED = "seed"
"""Of a batch within a step, scalar: the seed of the state. A constant would make another program of every seed."""

STAGE1, STAGE2 = 1, 2


class Stream(enum.IntEnum):
    """What a row needs random keys for, each a stream of its own.

    Another value here, in KeyPart or of a stage changes every mask and coin, so that a resumed run would differ from
    one without a stop.
    """

    PREDICT_DROPOUT = 0
    EXPLAIN_DROPOUT = 1
    COIN = 2
    CYCLE_DROPOUT = 3
    GUMBEL = 4


class KeyPart(enum.IntEnum):
    """The parts of one pass that dropout keys are folded for."""

    ENCODER = 0
    DECODER = 1
    LABEL_DECODE = 2


@dataclasses.dataclass(frozen=True)
class StepContext:
    """What is fixed while a stage runs.

    Attributes:
        factory: shape and compute dtype of the model.
        prompts: builds encoder inputs on the device.
        vocab_limit: ids from here on are never generated.
        donate_state: whether a step may write over the state it is given.
        label_trie: of the labels that a label decode may give; None: any text.
    """

    factory: T5Factory
    prompts: PromptBuilder
    vocab_limit: int
    donate_state: bool = True
    label_trie: LabelTrie | None = None


def row_keys(batch: Batch, stage: int, step: jax.Array, purpose: Stream) -> jax.Array:
    """Typed keys [B], a function of (seed, stage, step, row of the global batch, purpose) alone."""
    key = jax.random.fold_in(jax.random.fold_in(seed_key(batch[SEED]), stage), step)
    key = jax.random.fold_in(key, int(purpose))
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["row"])


Prompt = tuple[jax.Array, jax.Array]


def real_mask(batch: Batch, name: str) -> jax.Array:
    """Bool [B, T]: the tokens of targets `name` ("label", "rationale") that count."""
    mask = target_mask(batch[f"{name}_length"], batch[f"{name}_ids"].shape[1])
    return mask & (batch["row_weight"][:, None] > 0)


def row_weight(batch: Batch, name: str) -> jax.Array:
    """Float32 [B]: how much a row's targets `name` count; LABEL_WEIGHT, where a batch has it, is for labels."""
    weight = batch["row_weight"]
    return weight * batch[LABEL_WEIGHT] if name == "label" and LABEL_WEIGHT in batch else weight


def given_mask(batch: Batch) -> jax.Array:
    """Bool [B, L]: the tokens of drawn labels, end token included, that can be read back from a rationale.

    A label that was cut has no end token, and a row without a rationale has nothing to read from.
    """
    width = batch[GIVEN_IDS].shape[1]
    mask = target_mask(jnp.minimum(batch[GIVEN_LENGTH] + 1, width), width)
    return mask & ((batch["row_weight"] > 0) & (batch["rationale_length"] > 0))[:, None]


def target_counts(batch: Batch) -> dict[str, jax.Array]:
    """Tokens of labels and rationales, each as much as its row counts, and of given labels, once they are drawn.

    Float32 scalars.
    """
    counts = {
        name: jnp.sum(real_mask(batch, name).astype(jnp.float32) * row_weight(batch, name)[:, None])
        for name in ("label", "rationale")
    }
    if GIVEN_LENGTH in batch:
        counts["given"] = jnp.sum(given_mask(batch).astype(jnp.float32))
    return counts


def as_denominators(counts: dict[str, jax.Array]) -> Denominators:
    """Counts to divide sums by: where nothing counts the sum is 0, and so is the mean."""
    return {name: jnp.where(count > 0, count, 1.0) for name, count in counts.items()}


def fold_keys(keys: jax.Array | None, part: KeyPart) -> jax.Array | None:
    """Typed keys [B] of one part of a pass, so that no two parts share masks."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, int(part))


class Pass(NamedTuple):
    """What one pass gives: loss_sum float32 scalar, encoded [B, S, D], logits float32 [B, T, V]."""

    loss_sum: jax.Array
    encoded: jax.Array
    logits: jax.Array


def target_pass(
    model: T5,
    batch: Batch,
    name: str,
    prompt: Prompt,
    keys: jax.Array | None,
    encoded: jax.Array | None = None,
) -> Pass:
    """One pass: summed cross-entropy of a batch's labels or rationales given a prompt.

    Args:
        model: T5.
        batch: rows.
        name: "label" or "rationale".
        prompt: ids and mask int32 [B, S].
        keys: of the dropout, typed [B]; None: off.
        encoded: the prompt as the encoder gives it, [B, S, D]; None: it is encoded here.
    """
    if encoded is None:
        encoded = model.encode(*prompt, fold_keys(keys, KeyPart.ENCODER))
    targets = batch[f"{name}_ids"]
    logits = model.decode(shift_right(targets), encoded, prompt[1], fold_keys(keys, KeyPart.DECODER))
    mask, weight = real_mask(batch, name), row_weight(batch, name)
    return Pass(token_cross_entropy(logits, targets, mask, weight), encoded, logits)


def question_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Question ids int32 [B, Q] and lengths int32 [B]."""
    return batch["question_ids"], batch["question_length"]


def label_pass(context: StepContext, model: T5, batch: Batch, keys: jax.Array | None) -> Pass:
    """As `target_pass`, of the labels given the predict prompts, which are not encoded where ENCODED is there."""
    prompt = context.prompts.predict(*question_of(batch))
    return target_pass(model, batch, "label", prompt, keys, batch.get(ENCODED))


def gold_labels(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Gold label ids int32 [B, L] and their lengths without the end token, int32 [B]."""
    return batch["label_ids"], jnp.maximum(batch["label_length"] - 1, 0)


Encode = Callable[[jax.Array | None], tuple[jax.Array, jax.Array | None]]
"""From the rows that are asked for, bool [B], or None for all, to the encoded predict prompts [B, S, D], of which the
other rows may be 0, and to the typed keys [B] of the label decode's dropout; None: off."""


def decode_labels(
    context: StepContext, model: T5, batch: Batch, encode: Encode, wanted: jax.Array | None = None
) -> Decoded:
    """The labels [B, L] that the model gives the rows `wanted`, bool [B]; None: all."""
    encoded, keys = encode(wanted)
    mask = context.prompts.predict(*question_of(batch))[1]
    limits = {"max_tokens": batch["label_ids"].shape[1], "vocab_limit": context.vocab_limit}
    return greedy_decode(
        model, encoded, mask, row_keys=keys, trie=context.label_trie, wanted=wanted, **limits
    )


def given_labels(batch: Batch, sampled: jax.Array, predicted: tuple[jax.Array, jax.Array]) -> Batch:
    """Labels for the rationale prompt: GIVEN_IDS [B, L], GIVEN_LENGTH [B], and SAMPLED, which are predicted, bool [B].

    No gradient flows through them.

    Args:
        batch: rows.
        sampled: bool [B].
        predicted: ids int32 [B, L] and lengths without end token int32 [B].
    """
    ids, length = mix_labels(sampled, *gold_labels(batch), *jax.lax.stop_gradient(predicted))
    return {GIVEN_IDS: ids, GIVEN_LENGTH: length, SAMPLED: sampled}


def sampled_labels(
    context: StepContext,
    config: Stage2Config,
    model: T5,
    batch: Batch,
    step: jax.Array,
    encode: Encode,
) -> Batch:
    """As `given_labels`, by coins of probability pi(step); labels are decoded only where a coin of this batch asks."""
    probability = sampling_probability(step, config)
    sampled = sample_mask(row_keys(batch, STAGE2, step, Stream.COIN), probability)

    def decode() -> tuple[jax.Array, jax.Array]:
        decoded = decode_labels(context, model, batch, encode, sampled)
        return decoded.token_ids, decoded.lengths

    predicted = jax.lax.cond(jnp.any(sampled), decode, lambda: gold_labels(batch))
    return given_labels(batch, sampled, predicted)


TermsFn = Callable[[T5, Batch, jax.Array, bool], Terms]
ObjectiveFn = Callable[[Terms, Denominators, jax.Array], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a stage or baseline minimises.

    Attributes:
        terms: sums over the rows it is given.
        combine: those sums, their global denominators and the step to (loss, metrics); linear in the sums, so
            it may be applied to a micro-batch's sums and added up.
        schedule: metrics that depend on the step only.
        draw: what the terms need beside a training batch, from all its rows at once and without gradients, as
            further arrays of the batch; it is given the state of the objective. None: nothing.
        init_state: the state of the objective at the start of a stage: arrays that are kept from step to step in the
            training state, whole on every device, so that none may be named like a weight (`runtime.mesh.RULES`).
        update_state: that state, the metrics of a global batch, its denominators and the step to the state after the
            step and further metrics; None: it stays as it was.
        recomputes: whether its gradient computes anything again that `ModelConfig.remat` does not tell of.
    """

    terms: TermsFn
    combine: ObjectiveFn
    schedule: Callable[[jax.Array], Metrics]
    draw: Callable[[T5, Batch, jax.Array, Any], Batch] | None = None
    init_state: Callable[[], Any] = nothing
    update_state: Callable[[Any, Metrics, Denominators, jax.Array], tuple[Any, Metrics]] | None = None
    recomputes: bool = False


def dropout_keys(
    batch: Batch, stage: int, step: jax.Array, purpose: Stream, training: bool
) -> jax.Array | None:
    """Typed keys [B] of one pass's dropout; None outside training."""
    return row_keys(batch, stage, step, purpose) if training else None


def stage1_objective(context: StepContext) -> Objective:
    """-log P(r | explain: x), a mean over the target tokens of the global batch."""

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        keys = dropout_keys(batch, STAGE1, step, Stream.EXPLAIN_DROPOUT, training)
        prompt = context.prompts.explain(*question_of(batch))
        return {"rationale_loss_sum": target_pass(model, batch, "rationale", prompt, keys).loss_sum}

    def combine(sums: Terms, denominators: Denominators, step: jax.Array) -> tuple[jax.Array, Metrics]:
        loss = sums["rationale_loss_sum"] / denominators["rationale"]
        return loss, {"loss": loss, "rationale_loss": loss}

    return Objective(terms, combine, lambda step: {})


def explain_given(
    context: StepContext, model: T5, batch: Batch, step: jax.Array, training: bool
) -> tuple[Terms, jax.Array]:
    """The rationale pass of stage 2 given the labels of the batch: those drawn, or where none are the gold ones.

    Returns:
        rationale_loss_sum and sampled_rows; logits float32 [B, T, V].
    """
    gold_ids, gold_length = gold_labels(batch)
    given = batch.get(GIVEN_IDS, gold_ids), batch.get(GIVEN_LENGTH, gold_length)
    sampled = batch.get(SAMPLED, jnp.zeros(batch["row"].shape, bool))
    prompt = context.prompts.explain_given_label(*question_of(batch), *given)
    keys = dropout_keys(batch, STAGE2, step, Stream.EXPLAIN_DROPOUT, training)
    done = target_pass(model, batch, "rationale", prompt, keys)
    sums = {"rationale_loss_sum": done.loss_sum, "sampled_rows": jnp.sum(sampled.astype(jnp.float32))}
    return sums, done.logits


def stage2_objective(context: StepContext, config: Stage2Config) -> Objective:
    """alpha·L_label + (1 - alpha)·L_rationale with task-level scheduled sampling."""
    sampling = config.max_sampling_probability > 0
    # The label decode then sees the same encodings as the label loss, so these are computed once.
    shared_encoding = config.label_decode_dropout or context.factory.config.dropout_rate == 0

    def draw(model: T5, batch: Batch, step: jax.Array, objective_state: Any) -> Batch:
        prompt = context.prompts.predict(*question_of(batch))

        def encode(wanted: jax.Array | None) -> tuple[jax.Array, None]:
            return model.encode(*prompt, wanted=wanted), None

        return sampled_labels(context, config, model, batch, step, encode)

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        keys = dropout_keys(batch, STAGE2, step, Stream.PREDICT_DROPOUT, training)
        label = label_pass(context, model, batch, keys)
        if training and sampling and shared_encoding:
            dropped = fold_keys(keys, KeyPart.LABEL_DECODE) if config.label_decode_dropout else None
            encoded = label.encoded, dropped
            batch = batch | sampled_labels(context, config, model, batch, step, lambda _: encoded)
        sums, _ = explain_given(context, model, batch, step, training)
        return {"label_loss_sum": label.loss_sum} | sums

    def combine(sums: Terms, denominators: Denominators, step: jax.Array) -> tuple[jax.Array, Metrics]:
        loss, metrics = weighted_loss(sums, denominators, label_weight(step, config))
        return loss, metrics | {"sampled_fraction": sums["sampled_rows"] / denominators["rows"]}

    def schedule(step: jax.Array) -> Metrics:
        return {
            "label_weight": label_weight(step, config),
            "sampling_probability": sampling_probability(step, config),
        }

    return Objective(terms, combine, schedule, draw if sampling and not shared_encoding else None)


def weighted_loss(
    sums: Terms, denominators: Denominators, label_share: jax.Array | float
) -> tuple[jax.Array, Metrics]:
    """label_share·L_label + (1 - label_share)·L_rationale, each a mean over the tokens of the global batch."""
    label = sums["label_loss_sum"] / denominators["label"]
    rationale = sums["rationale_loss_sum"] / denominators["rationale"]
    loss = label_share * label + (1.0 - label_share) * rationale
    return loss, {"loss": loss, "label_loss": label, "rationale_loss": rationale}
