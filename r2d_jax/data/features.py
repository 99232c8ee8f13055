"""Rows as token ids and as arrays of fixed width; in: Example rows and a tokenizer, out: EncodedRows and Features."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from r2d_jax.config import DataConfig
from r2d_jax.data.check.labels import name_of
from r2d_jax.data.prompts import END_ID, WIDTH_MULTIPLE, PromptBuilder, PromptTokens, round_up
from r2d_jax.data.ragged import Padded, Ragged, RaggedWriter, id_type
from r2d_jax.data.reading.raw_rows import RowCallback
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError

# Rows tokenised at once: enough for every core, little beside the texts that are in memory anyway.
_BATCH_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Static sizes of a run, in tokens.

    Attributes:
        question: Q, room for question and context.
        label: L, the label limit, end token included.
        rationale: T, the rationale limit, end token included.
    """

    question: int
    label: int
    rationale: int


@dataclasses.dataclass(frozen=True)
class Features:
    """N rows; every array's first axis is N. The ids are padded only where a part of them is asked for.

    Attributes:
        question_ids: int32 [N, Q].
        question_length: int32 [N].
        label_ids: int32 [N, L], end token included.
        label_length: int32 [N], end token included; 0 where there is no label.
        rationale_ids: int32 [N, T], end token included unless the rationale was cut.
        rationale_length: int32 [N]; 0 where there is no rationale.
        cut_questions: rows whose question or context was shortened.
        cut_rationales: rows whose rationale was shortened.
        label_weight: float32 [N], how much each row's label counts; None: all alike.
    """

    question_ids: np.ndarray | Padded
    question_length: np.ndarray
    label_ids: np.ndarray | Padded
    label_length: np.ndarray
    rationale_ids: np.ndarray | Padded
    rationale_length: np.ndarray
    cut_questions: int
    cut_rationales: int
    label_weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.question_length)

    def arrays(self) -> dict[str, np.ndarray | Padded]:
        """The arrays by name, as a batch holds them."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray | Padded)
        }

    def batch(self, rows: np.ndarray, widths: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """The arrays of rows int64 [B], with first axis B.

        Args:
            rows: their numbers.
            widths: fewer columns of some arrays, by name; they must hold the rows whole.
        """
        widths = widths or {}
        return {
            name: array[rows, : widths[name]] if name in widths else array[rows]
            for name, array in self.arrays().items()
        }


def balanced_weights(labels: Sequence[str]) -> np.ndarray:
    """Float32 [N]: N / (number of labels x rows of the row's label), whose mean is 1."""
    _, index, counts = np.unique(np.array(labels, object), return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts))[index].astype(np.float32)


def label_limit_tokens(
    config: DataConfig, tokenizer: Tokenizer, labels: Sequence[str], *, hide_labels: bool = False
) -> int:
    """The label limit: configured, or the longest label of the set, end token included.

    Args:
        config: of the data.
        tokenizer: of the model.
        labels: the label set.
        hide_labels: they may be case text, so that an error names none.

    Raises:
        UserError: a label is longer than the configured limit, or does not survive encode and decode.
    """
    longest = 1
    for label in labels:
        ids = tokenizer.encode(label)
        if tokenizer.decode(ids) != label:
            raise UserError(
                f"label {name_of(label, hidden=hide_labels)}",
                f"the vocabulary gives it back as {name_of(tokenizer.decode(ids), hidden=hide_labels)}",
                "Rename the label, or use a tokenizer that holds its characters.",
            )
        if config.label_limit_tokens is not None and len(ids) + 1 > config.label_limit_tokens:
            raise UserError(
                f"label {name_of(label, hidden=hide_labels)}",
                f"it takes {len(ids) + 1} tokens and data.label_limit_tokens is {config.label_limit_tokens}",
                "Raise the limit, or leave it null to have it derived from the labels.",
            )
        longest = max(longest, len(ids) + 1)
    return config.label_limit_tokens or longest


def question_text(example: Example) -> str:
    """Question and context as one text; the context stands last, so it is what a cut shortens first."""
    return f"{example.question} {example.context}" if example.context else example.question


def question_limit_tokens(config: DataConfig, prompts: PromptBuilder) -> int:
    """Most question tokens that leave the label and every instruction whole.

    Raises:
        UserError: input_limit_tokens leaves no room for a question.
    """
    room = config.input_limit_tokens // WIDTH_MULTIPLE * WIDTH_MULTIPLE - prompts.overhead
    if room < 1:
        raise UserError(
            "data.input_limit_tokens",
            f"{config.input_limit_tokens} tokens leave no room for the question beside the prompt and the label",
            f"Set at least {round_up(prompts.overhead + WIDTH_MULTIPLE)}.",
        )
    return room


class EncodedRow(NamedTuple):
    """Token ids of a row, uncut; label and rationale with the end token, or empty where there is none."""

    question: list[int]
    label: list[int]
    rationale: list[int]


@dataclasses.dataclass(frozen=True)
class EncodedRows(Sequence[EncodedRow]):
    """Token ids of N rows, as `EncodedRow` has them."""

    question: Ragged
    label: Ragged
    rationale: Ragged

    def __len__(self) -> int:
        return len(self.question)

    @overload
    def __getitem__(self, number: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, number: slice) -> list[EncodedRow]: ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[row] for row in range(len(self))[number]]
        row = range(len(self))[number]
        return EncodedRow(self.question.row(row), self.label.row(row), self.rationale.row(row))


class FeatureEncoder:
    """Tokenises rows once and lays them out in arrays.

    Attributes:
        tokenizer: the only route from text to ids.
        prompts: the builder of all prompts around these rows, in training and in prediction.
        question_limit: most tokens of a question that fit into an input beside prompt and label.
        rationale_limit: T at the most, end token included.
    """

    def __init__(
        self, config: DataConfig, tokenizer: Tokenizer, labels: Sequence[str], *, hide_labels: bool = False
    ):
        """Check the labels and derive the limits; arguments as for `label_limit_tokens`.

        Raises:
            UserError: from `label_limit_tokens` and `question_limit_tokens`.
        """
        self.tokenizer = tokenizer
        label_tokens = label_limit_tokens(config, tokenizer, labels, hide_labels=hide_labels)
        self.prompts = PromptBuilder(PromptTokens.from_tokenizer(tokenizer), label_tokens)
        self.question_limit = question_limit_tokens(config, self.prompts)
        self.rationale_limit = config.rationale_limit_tokens

    @property
    def label_tokens(self) -> int:
        """L, the label limit, end token included."""
        return self.prompts.label_tokens

    def encode(self, examples: Sequence[Example], rationale_source: str | None) -> EncodedRows:
        """Token ids of each row, uncut; a row's rationale is the one of rationale_source."""
        sources = () if rationale_source is None else (rationale_source,)
        writers = {name: RaggedWriter(self.id_type) for name in field_names(sources)}
        self.encode_into(writers, examples, sources)
        return encoded_rows({name: writer.ragged() for name, writer in writers.items()}, rationale_source)

    @property
    def id_type(self) -> np.dtype:
        """The type that token ids are kept in."""
        return id_type(self.tokenizer.size)

    def encode_into(
        self,
        writers: Mapping[str, RaggedWriter],
        examples: Iterable[Example],
        sources: Sequence[str],
        progress: RowCallback | None = None,
    ) -> None:
        """Tokenise each text of each row once.

        Args:
            writers: by `field_names(sources)`, where the ids go.
            examples: the rows, read once, as a stream.
            sources: of rationales.
            progress: called with the number of rows so far, after every batch.
        """
        done = 0
        rows = iter(examples)
        while batch := list(itertools.islice(rows, _BATCH_ROWS)):
            self._encode_texts(writers[QUESTION], [question_text(row) for row in batch])
            self._encode_targets(writers[LABEL], [row.label for row in batch])
            for source in sources:
                texts = [row.rationales.get(source, "") for row in batch]
                self._encode_targets(writers[rationale_field(source)], texts)
            done += len(batch)
            if progress is not None:
                progress(done)

    def _encode_texts(self, writer: RaggedWriter, texts: Sequence[str]) -> None:
        writer.append(*self.tokenizer.encode_batch(texts))

    def _encode_targets(self, writer: RaggedWriter, texts: Sequence[str]) -> None:
        ids, lengths = self.tokenizer.encode_batch(texts)
        there = np.array([bool(text) for text in texts])
        ends = np.cumsum(lengths)[there]
        writer.append(np.insert(ids, ends, END_ID), lengths + there)

    def lost_characters(self, examples: Sequence[Example], rows: EncodedRows) -> np.ndarray:
        """Int64 [N]: how many characters of each input became the unknown id.

        Args:
            examples: N rows.
            rows: what `encode` made of them.
        """
        unknown = np.flatnonzero(rows.question.ids == self.tokenizer.unk_id)
        numbers, ids = np.unique(
            np.searchsorted(rows.question.offsets, unknown, side="right") - 1, return_counts=True
        )
        texts = (question_text(examples[number]) for number in numbers.tolist())
        lost = np.zeros(len(rows), np.int64)
        # Neighbours may share one id; without the map a text that spells a special token has one, too.
        lost[numbers] = np.maximum(ids, self.tokenizer.lost_characters(texts))
        return lost

    def shapes(self, *splits: EncodedRows) -> Shapes:
        """The smallest static sizes, a multiple of 8 each but L, that hold all rows as cut by the limits."""
        question = max((_longest(rows.question) for rows in splits if len(rows)), default=1)
        rationale = max((_longest(rows.rationale) for rows in splits if len(rows)), default=1)
        return Shapes(
            question=min(round_up(question), self.question_limit),
            label=self.label_tokens,
            rationale=min(round_up(max(rationale, 1)), self.rationale_limit),
        )

    def features(self, rows: EncodedRows, shapes: Shapes, only: np.ndarray | None = None) -> Features:
        """Arrays of these rows; a rationale that is cut has no end token, so that no stop is learned there.

        Args:
            rows: tokenised.
            shapes: static sizes.
            only: numbers int64 [N] of those to take; None: all.
        """
        question, label, rationale = (
            Padded(field, width, only)
            for field, width in (
                (rows.question, shapes.question),
                (rows.label, shapes.label),
                (rows.rationale, shapes.rationale),
            )
        )
        return Features(
            question,
            question.lengths,
            label,
            label.lengths,
            rationale,
            rationale.lengths,
            cut_questions=question.cut_rows,
            cut_rationales=rationale.cut_rows,
        )


QUESTION, LABEL = "question", "label"


def rationale_field(source: str) -> str:
    """Name of the field that holds the rationales of a source."""
    return f"rationale {source}"


def field_names(sources: Sequence[str]) -> list[str]:
    """Names of all fields of a row that are tokenised."""
    return [QUESTION, LABEL, *map(rationale_field, sources)]


def encoded_rows(fields: Mapping[str, Ragged], rationale_source: str | None) -> EncodedRows:
    """The fields of one split as rows with the rationale of one source, or with none."""
    question = fields[QUESTION]
    none = Ragged(np.empty(0, question.ids.dtype), np.zeros(len(question) + 1, np.int64))
    rationale = none if rationale_source is None else fields[rationale_field(rationale_source)]
    return EncodedRows(question, fields[LABEL], rationale)


def _longest(rows: Ragged) -> int:
    return int(rows.lengths.max())
