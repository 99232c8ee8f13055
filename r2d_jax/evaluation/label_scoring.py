"""How probable every label is; in: weights and Features, out: log P(label | input) of the whole label set, by row."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.data.features import FeatureEncoder, Features
from r2d_jax.data.pipeline import evaluation_batches, evaluation_buckets
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.predict import Batch, in_row_order
from r2d_jax.model.label_packs import label_log_probs, most_places, packs_of
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.mesh import batch_sharding, on_mesh, place_batch, replicated


@dataclasses.dataclass(frozen=True)
class LabelScorer:
    """Compiled scoring of a label set: one encoder pass for each row, and one decoder pass over all labels.

    Attributes:
        factory: shape and compute dtype of the model.
        encoder: turns labels into ids; the prompt is that of prediction.
        labels: K labels, at least one.
        mesh: devices; rows are spread over it.
    """

    factory: T5Factory
    encoder: FeatureEncoder
    labels: Sequence[str]
    mesh: Mesh

    @functools.cached_property
    def _label_ids(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(self.encoder.tokenizer.encode(label)) for label in self.labels)

    def _scores(self, params: Params, batch: Batch) -> jax.Array:
        model = self.factory.merge(params)
        prompts = PromptBuilder(self.encoder.tokens, self.encoder.label_tokens)
        ids, mask = prompts.predict(batch["question_ids"], batch["question_length"])
        places = most_places(
            batch_sharding(self.mesh).shard_shape(ids.shape)[0],
            ids.shape[1],
            vocab_size=model.config.vocab_size,
            num_heads=model.config.num_heads,
        )
        packs = packs_of(self._label_ids, places)
        encoded = model.encode(ids, mask)
        return label_log_probs(model, encoded, mask, packs, vocab_limit=self.encoder.tokenizer.size)

    @functools.cached_property
    def score_labels(self) -> Callable[[Params, Batch], jax.Array]:
        """Jitted: params and a batch to log P(label | "predict: x"), float32 [B, K]."""
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        return jax.jit(on_mesh(self._scores, self.mesh), in_shardings=(None, rows), out_shardings=whole)

    def log_probabilities(
        self, params: Params, features: Features, batch_size: int
    ) -> Iterator[list[np.ndarray]]:
        """Scores of all rows, in the order of the rows.

        Args:
            params: weights.
            features: N rows, of which only the questions are used.
            batch_size: rows scored at once; scores depend on it in their last digits alone.

        Yields:
            After each batch the scores that are next, often none, as `Predictor.predict` does: for each row
            float32 [K], log P(label | "predict: x") summed over the label's tokens, end token included, among the
            ids of the vocabulary.
        """
        overhead = self.encoder.tokens.overhead(self.encoder.label_tokens)
        buckets = evaluation_buckets(features, batch_size, prompt_tokens=overhead, rationales=False)
        return in_row_order(
            (rows, list(np.asarray(self.score_labels(params, place_batch(batch, self.mesh)))[: len(rows)]))
            for rows, batch in evaluation_batches(features, batch_size, buckets)
        )


def label_numbers(labels: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """int64 [N]: which label of the set each text is, as labels are compared; -1: none.

    Of labels that differ in blanks alone, the first.
    """
    number: dict[str, int] = {}
    for place, label in enumerate(labels):
        number.setdefault(normalise_label(label), place)
    return np.array([number.get(normalise_label(text), -1) for text in texts], np.int64)


def probability_of(probabilities: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float64 [N]: the probability, of float [N, K], of the label int64 [N] of each row; nan where it is -1."""
    picked = np.take_along_axis(probabilities, np.maximum(numbers, 0)[:, None], axis=1)[:, 0]
    return np.where(numbers >= 0, picked, np.nan)
