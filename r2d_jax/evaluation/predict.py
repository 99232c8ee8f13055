"""Labels and rationales by compiled greedy decode; in: weights and Features, out: one Prediction per row."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.data.features import Features
from r2d_jax.data.pipeline import evaluation_batches
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.model.greedy import Decoded, greedy_decode
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.mesh import batch_sharding, place_batch, replicated

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one row.

    Attributes:
        label: text of the greedy label decode, white space at its ends removed.
        label_finished: False where the label limit came before the end token.
        label_confidence: exp of the mean token log-probability of the label, 0 to 1.
        rationale: text of the greedy rationale decode; "" where only labels were asked for.
        rationale_finished: False where the rationale limit came first.
    """

    label: str
    label_finished: bool
    label_confidence: float
    rationale: str = ""
    rationale_finished: bool = True


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Compiled decoding for one shape; the same prompt splice as in training.

    Attributes:
        factory: shape and compute dtype of the model.
        prompts: builds encoder inputs.
        tokenizer: turns ids into text.
        label_tokens: label limit, end token included.
        rationale_tokens: rationale limit, end token included.
        mesh: devices; rows are spread over it.
    """

    factory: T5Factory
    prompts: PromptBuilder
    tokenizer: Tokenizer
    label_tokens: int
    rationale_tokens: int
    mesh: Mesh

    def _labels(self, params: Params, batch: Batch) -> Decoded:
        model = self.factory.merge(params)
        ids, mask = self.prompts.predict(batch["question_ids"], batch["question_length"])
        return greedy_decode(
            model,
            model.encode(ids, mask),
            mask,
            max_tokens=self.label_tokens,
            vocab_limit=self.tokenizer.size,
        )

    def _rationales(
        self, params: Params, batch: Batch, label_ids: jax.Array, label_length: jax.Array
    ) -> Decoded:
        model = self.factory.merge(params)
        ids, mask = self.prompts.explain_given_label(
            batch["question_ids"], batch["question_length"], label_ids, label_length
        )
        return greedy_decode(
            model,
            model.encode(ids, mask),
            mask,
            max_tokens=self.rationale_tokens,
            vocab_limit=self.tokenizer.size,
        )

    @functools.cached_property
    def decode_labels(self) -> Callable[[Params, Batch], Decoded]:
        """Jitted: params and a batch to the decoded labels [B, L]."""
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        return jax.jit(self._labels, in_shardings=(None, rows), out_shardings=whole)

    @functools.cached_property
    def decode_rationales(self) -> Callable[[Params, Batch, jax.Array, jax.Array], Decoded]:
        """Jitted: params, a batch, label ids [B, L] and lengths [B] to the decoded rationales [B, T]."""
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        # The labels come from decode_labels, so every device holds all of them.
        return jax.jit(self._rationales, in_shardings=(None, rows, whole, whole), out_shardings=whole)

    def _texts(self, decoded: Decoded) -> list[str]:
        ids, lengths = np.asarray(decoded.token_ids), np.asarray(decoded.lengths)
        return [
            self.tokenizer.decode(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)
        ]

    def predict(
        self, params: Params, features: Features, batch_size: int, *, rationales: bool = True
    ) -> Iterator[list[Prediction]]:
        """Predictions of all rows in order, a list per batch, so that a caller can show progress or stop."""
        for batch in evaluation_batches(features, batch_size):
            rows = int(batch["row_weight"].sum())
            placed = place_batch(batch, self.mesh)
            labels = self.decode_labels(params, placed)
            texts = self._texts(labels)
            confidence = np.exp(np.asarray(labels.mean_log_prob))
            finished = np.asarray(labels.finished)
            explained, explained_finished = [""] * len(texts), np.ones(len(texts), bool)
            if rationales:
                decoded = self.decode_rationales(params, placed, labels.token_ids, labels.lengths)
                explained, explained_finished = self._texts(decoded), np.asarray(decoded.finished)
            yield [
                Prediction(
                    texts[i].strip(),
                    bool(finished[i]),
                    float(confidence[i]),
                    explained[i],
                    bool(explained_finished[i]),
                )
                for i in range(rows)
            ]
