"""How probable every label is; in: weights and Features, out: log P(label | input) of the whole label set, by row."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from r2d_jax.data.features import Features
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.predict import Encoded, HostBatch, Prediction, Predictor, ScoreFn, in_row_order
from r2d_jax.model.label_packs import label_log_probs, max_positions, packs_of
from r2d_jax.model.parameters import Params
from r2d_jax.runtime.mesh import batch_sharding, jit_on_mesh, replicated, shard_batch


@dataclasses.dataclass(frozen=True)
class LabelScorer:
    """Compiled scoring of a label set: one decoder pass over all labels for each encoded row.

    Attributes:
        predictor: of the model; prompts, encoder and devices are its own.
        labels: K labels, at least one.
    """

    predictor: Predictor
    labels: Sequence[str]

    @functools.cached_property
    def _label_ids(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(self.predictor.encoder.tokenizer.encode(label)) for label in self.labels)

    def _scores(self, params: Params, encoded: Encoded) -> jax.Array:
        programs = self.predictor.programs
        model = programs.factory.merge(params)
        positions = max_positions(
            *batch_sharding(programs.mesh).shard_shape(encoded.mask.shape),
            vocab_size=model.config.vocab_size,
            num_heads=model.config.num_heads,
        )
        packs = packs_of(self._label_ids, positions)
        return label_log_probs(model, *encoded, packs, vocab_limit=programs.vocab_limit)

    @functools.cached_property
    def score_labels(self) -> ScoreFn:
        """Jitted: params and encoded prompts to log P(label | "predict: x"), float32 [B, K]."""
        mesh = self.predictor.programs.mesh
        rows, whole = batch_sharding(mesh), replicated(mesh)
        return jit_on_mesh(self._scores, mesh, in_shardings=(None, rows), out_shardings=whole)

    def log_probabilities(
        self, params: Params, features: Features, batch_size: int
    ) -> Iterator[list[np.ndarray]]:
        """Scores of all rows, in the order of the rows; `Predictor.predict` gives them beside predictions.

        Args:
            params: weights.
            features: N rows, of which only the questions are used.
            batch_size: rows scored at once; scores depend on it in their last digits alone.

        Yields:
            After each batch the scores that are next, often none, as `Predictor.predict` does: for each row
            float32 [K], log P(label | "predict: x") summed over the label's tokens, end token included, among the
            ids of the vocabulary.
        """
        programs = self.predictor.programs

        def scored(batch: HostBatch) -> np.ndarray:
            encoded = programs.encode_questions(params, shard_batch(batch, programs.mesh))
            return np.asarray(self.score_labels(params, encoded))

        return in_row_order(
            (rows, list(scored(batch)[: len(rows)]))
            for rows, batch in self.predictor.batches(features, batch_size)
        )


def scores_of(predictions: Sequence[Prediction], labels: int) -> np.ndarray:
    """float32 [N, K]: log_probs of N predictions that have them, of a number K of labels."""
    return np.array([prediction.log_probs for prediction in predictions], np.float32).reshape(-1, labels)


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
