"""Labels and rationales by compiled greedy decode; in: weights and Features, out: one Prediction per row."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.data.features import FeatureEncoder, Features
from r2d_jax.data.pipeline import evaluation_batches, evaluation_buckets
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.data.schema import Example
from r2d_jax.methods import RationalePrompt
from r2d_jax.model.greedy import Decoded, TokenRule, greedy_decode
from r2d_jax.model.label_trie import LabelTrie
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.mesh import batch_sharding, jit_on_mesh, put, replicated, shard_batch
from r2d_jax.runtime.row_progress import followed

Batch = dict[str, jax.Array]
HostBatch = dict[str, np.ndarray]
T = TypeVar("T")


class Encoded(NamedTuple):
    """What the encoder makes of the prompts that ask for labels; of use to every reader of labels.

    Attributes:
        states: [B, S, D], in the compute dtype.
        mask: int32 [B, S], 1 where a prompt has a token.
    """

    states: jax.Array
    mask: jax.Array


ScoreFn = Callable[[Params, Encoded], jax.Array]
"""Jitted: params and encoded prompts to log P of each of K labels, float32 [B, K]."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one row.

    Attributes:
        label: text of the greedy label decode, blanks at its ends removed.
        label_finished: False where the label limit came before the end token.
        label_confidence: exp of the mean token log-probability of the label, 0 to 1.
        rationale: text of the greedy rationale decode; "" where none was asked for or the model gives none.
        rationale_finished: False where the rationale limit came first.
        log_probs: float32 [K], log P of each label of the set; None where they were not asked for.
    """

    label: str
    label_finished: bool
    label_confidence: float
    rationale: str = ""
    rationale_finished: bool = True
    log_probs: np.ndarray | None = dataclasses.field(default=None, compare=False)


def in_row_order(batches: Iterable[tuple[np.ndarray, Sequence[T]]]) -> Iterator[list[T]]:
    """Results of batches, which come with the numbers of their rows int64 [n], in the order of the rows.

    Yields:
        After each batch the results that are next, none while that of an earlier row is missing.
    """
    waiting: dict[int, T] = {}
    following = 0
    for rows, results in batches:
        waiting |= zip(rows.tolist(), results, strict=True)
        ready = []
        while following in waiting:
            ready.append(waiting.pop(following))
            following += 1
        yield ready


def all_of(lists: Iterable[list[T]], check_stop: Callable[[], None] = lambda: None) -> list[T]:
    """What comes in lists, batch by batch, as one list; `check_stop` is called after each and may raise."""
    whole: list[T] = []
    for some in lists:
        check_stop()
        whole += some
    return whole


@dataclasses.dataclass(frozen=True)
class DecodePrograms:
    """The compiled programs of prediction; they know token ids alone, and the prompts as training has them.

    Attributes:
        factory: shape and compute dtype of the model.
        prompts: what is asked, and L, the limit of a label.
        vocab_limit: ids from here on (padding rows of the embedding) are never decoded.
        rationale_tokens: rationale limit, end token included.
        rationale_prompt: what asks this model for a rationale, "none" where it gives none.
        mesh: devices; rows are spread over it.
        label_trie: of the only labels that are decoded; None: any text.
    """

    factory: T5Factory
    prompts: PromptBuilder
    vocab_limit: int
    rationale_tokens: int
    rationale_prompt: RationalePrompt
    mesh: Mesh
    label_trie: LabelTrie | None = None

    def encoded(self, params: Params, prompt: tuple[jax.Array, jax.Array]) -> Encoded:
        """Prompts, int32 ids and mask [B, S], as the encoder sees them; to be jitted."""
        return Encoded(self.factory.merge(params).encode(*prompt), prompt[1])

    def decoded(
        self, params: Params, encoded: Encoded, max_tokens: int, trie: TokenRule | None = None
    ) -> Decoded:
        """Greedy decode of at most max_tokens [B, T] after encoded prompts; to be jitted."""
        model = self.factory.merge(params)
        return greedy_decode(model, *encoded, max_tokens=max_tokens, vocab_limit=self.vocab_limit, trie=trie)

    def _questions(self, params: Params, batch: Batch) -> Encoded:
        return self.encoded(params, self.prompts.predict(batch["question_ids"], batch["question_length"]))

    def _labels(self, params: Params, encoded: Encoded) -> Decoded:
        return self.decoded(params, encoded, self.prompts.label_tokens, self.label_trie)

    def _rationales(
        self, params: Params, batch: Batch, label_ids: jax.Array, label_length: jax.Array
    ) -> Decoded:
        question = (batch["question_ids"], batch["question_length"])
        prompt = (
            self.prompts.explain(*question)
            if self.rationale_prompt == "explain"
            else self.prompts.explain_given_label(*question, label_ids, label_length)
        )
        return self.decoded(params, self.encoded(params, prompt), self.rationale_tokens)

    @functools.cached_property
    def encode_questions(self) -> Callable[[Params, Batch], Encoded]:
        """Jitted: params and a batch to its encoded prompts; a program of its own, so that rows are encoded once."""
        rows = batch_sharding(self.mesh)
        return jit_on_mesh(self._questions, self.mesh, in_shardings=(None, rows), out_shardings=rows)

    @functools.cached_property
    def decode_labels(self) -> Callable[[Params, Encoded], Decoded]:
        """Jitted: params and encoded prompts to the decoded labels [B, L]."""
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        return jit_on_mesh(self._labels, self.mesh, in_shardings=(None, rows), out_shardings=whole)

    @functools.cached_property
    def decode_rationales(self) -> Callable[[Params, Batch, jax.Array, jax.Array], Decoded]:
        """Jitted: params, a batch, label ids [B, L] and lengths [B] to the decoded rationales [B, T]."""
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        # The labels come from decode_labels, so every device holds all of them.
        return jit_on_mesh(
            self._rationales, self.mesh, in_shardings=(None, rows, whole, whole), out_shardings=whole
        )


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Labels and rationales as texts: the compiled programs of a model, and what turns its texts into ids and back.

    Attributes:
        programs: of the model; they have the prompts of `encoder`, and its tokenizer's size as vocab_limit.
        encoder: turns text into ids, and back with its tokenizer.
    """

    programs: DecodePrograms
    encoder: FeatureEncoder

    @classmethod
    def of(
        cls,
        factory: T5Factory,
        encoder: FeatureEncoder,
        rationale_tokens: int,
        rationale_prompt: RationalePrompt,
        mesh: Mesh,
        label_trie: LabelTrie | None = None,
    ) -> Self:
        """With programs that fit the encoder; the other arguments as in `DecodePrograms`. Compiles nothing yet."""
        programs = DecodePrograms(
            factory,
            encoder.prompts,
            encoder.tokenizer.size,
            rationale_tokens,
            rationale_prompt,
            mesh,
            label_trie,
        )
        return cls(programs, encoder)

    @property
    def explains(self) -> bool:
        """Whether the model gives rationales."""
        return self.programs.rationale_prompt != "none"

    def _texts(self, decoded: Decoded, rows: int) -> list[str]:
        ids, lengths = np.asarray(decoded.token_ids)[:rows], np.asarray(decoded.lengths)[:rows]
        return [
            self.encoder.tokenizer.decode(row[:length].tolist())
            for row, length in zip(ids, lengths, strict=True)
        ]

    def label_texts(self, decoded: Decoded, rows: int) -> list[str]:
        """The first rows of decoded labels as texts, blanks at their ends removed."""
        # A line break may be part of a label; a blank at an end never is.
        return [text.strip(" ") for text in self._texts(decoded, rows)]

    def batches(self, features: Features, batch_size: int) -> Iterator[tuple[np.ndarray, HostBatch]]:
        """Batches of all rows by length, each with the numbers of its rows, for `in_row_order`; shows progress."""
        overhead = self.encoder.prompts.overhead
        buckets = evaluation_buckets(features, batch_size, prompt_tokens=overhead, rationales=False)
        return followed(evaluation_batches(features, batch_size, buckets), len(features))

    def _predicted(
        self, params: Params, host: HostBatch, rows: int, rationales: bool, score: ScoreFn | None
    ) -> list[Prediction]:
        batch = shard_batch(host, self.programs.mesh)
        encoded = self.programs.encode_questions(params, batch)
        labels = self.programs.decode_labels(params, encoded)
        scores = [None] * rows if score is None else list(np.asarray(score(params, encoded))[:rows])
        texts = self.label_texts(labels, rows)
        confidence = np.exp(np.asarray(labels.mean_log_prob))
        finished = np.asarray(labels.finished)
        explained, explained_finished = [""] * rows, np.ones(rows, bool)
        if rationales:
            decoded = self.programs.decode_rationales(params, batch, labels.token_ids, labels.lengths)
            explained, explained_finished = self._texts(decoded, rows), np.asarray(decoded.finished)
        return [
            Prediction(
                texts[i],
                bool(finished[i]),
                float(confidence[i]),
                explained[i],
                bool(explained_finished[i]),
                scores[i],
            )
            for i in range(rows)
        ]

    def predict(
        self,
        params: Params,
        features: Features,
        batch_size: int,
        *,
        rationales: bool = True,
        score: ScoreFn | None = None,
    ) -> Iterator[list[Prediction]]:
        """Predictions of all rows, in the order of the rows.

        Rows are decoded in another order, by length. A row's prediction depends on neither that nor the batch
        size, except for the last digits of its confidence and scores.

        Args:
            params: weights.
            features: N rows, of which only the questions are used.
            batch_size: rows decoded at once.
            rationales: whether to decode them, too.
            score: of `LabelScorer`, to have log_probs in each prediction; the encoder runs once for both.

        Yields:
            After each batch, so that a caller can stop, the predictions that are next; often none, as at most some
            dozens of batches are sorted together.
        """
        explain = rationales and self.explains
        return in_row_order(
            (rows, self._predicted(params, batch, len(rows), explain, score))
            for rows, batch in self.batches(features, batch_size)
        )

    def features_of(self, questions: Sequence[str], labels: Sequence[str] | None = None) -> Features:
        """Features of N texts as questions, with N labels to be given; cut by the limits of the encoder."""
        given = [""] * len(questions) if labels is None else labels
        examples = [
            Example(str(row), question, label, {})
            for row, (question, label) in enumerate(zip(questions, given, strict=True))
        ]
        rows = self.encoder.encode(examples, None)
        return self.encoder.features(rows, self.encoder.shapes(rows))

    def _explained(self, params: Params, host: HostBatch, rows: int) -> list[str]:
        mesh, length = self.programs.mesh, np.maximum(host["label_length"] - 1, 0)
        given = (put(array, replicated(mesh)) for array in (host["label_ids"], length))
        return self._texts(self.programs.decode_rationales(params, shard_batch(host, mesh), *given), rows)

    def explain(self, params: Params, features: Features, batch_size: int) -> Iterator[list[str]]:
        """Rationales given each row's own label instead of the predicted one; order and lists as in `predict`."""
        return in_row_order(
            (rows, self._explained(params, batch, len(rows)))
            for rows, batch in self.batches(features, batch_size)
        )
