"""Rows as fixed-shape arrays; in: Example rows and a tokenizer, out: int32 arrays and a report of what was cut."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from r2d_jax.config import DataConfig
from r2d_jax.data.prompts import END_ID, PAD_ID, WIDTH_MULTIPLE, PromptBuilder, PromptTokens, round_up
from r2d_jax.data.reading.raw_rows import shown
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError


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

    def prompt_builder(self, tokens: PromptTokens) -> PromptBuilder:
        """A builder of prompts with labels of this size."""
        return PromptBuilder(tokens, self.label)


@dataclasses.dataclass(frozen=True)
class Features:
    """N rows; every array's first axis is N.

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

    question_ids: np.ndarray
    question_length: np.ndarray
    label_ids: np.ndarray
    label_length: np.ndarray
    rationale_ids: np.ndarray
    rationale_length: np.ndarray
    cut_questions: int
    cut_rationales: int
    label_weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.question_length)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, as a batch holds them."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }


def balanced_weights(labels: Sequence[str]) -> np.ndarray:
    """Float32 [N]: N / (number of labels x rows of the row's label), whose mean is 1."""
    _, index, counts = np.unique(np.array(labels, object), return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts))[index].astype(np.float32)


def label_limit_tokens(config: DataConfig, tokenizer: Tokenizer, labels: Sequence[str]) -> int:
    """The label limit: configured, or the longest label of the set, end token included.

    Raises:
        UserError: a label is longer than the configured limit, or does not survive encode and decode.
    """
    longest = 1
    for label in labels:
        ids = tokenizer.encode(label)
        if tokenizer.decode(ids) != label:
            raise UserError(
                f"label {shown([label])}",
                f"the vocabulary gives it back as {shown([tokenizer.decode(ids)])}",
                "Rename the label, or use a tokenizer that holds its characters.",
            )
        if config.label_limit_tokens is not None and len(ids) + 1 > config.label_limit_tokens:
            raise UserError(
                f"label {shown([label])}",
                f"it takes {len(ids) + 1} tokens and data.label_limit_tokens is {config.label_limit_tokens}",
                "Raise the limit, or leave it null to have it derived from the labels.",
            )
        longest = max(longest, len(ids) + 1)
    return config.label_limit_tokens or longest


def question_text(example: Example) -> str:
    """Question and context as one text; the context stands last, so it is what a cut shortens first."""
    return f"{example.question} {example.context}" if example.context else example.question


def question_limit_tokens(config: DataConfig, tokens: PromptTokens, label_tokens: int) -> int:
    """Most question tokens that leave the label and every instruction whole.

    Raises:
        UserError: input_limit_tokens leaves no room for a question.
    """
    room = config.input_limit_tokens // WIDTH_MULTIPLE * WIDTH_MULTIPLE - tokens.overhead(label_tokens)
    if room < 1:
        raise UserError(
            "data.input_limit_tokens",
            f"{config.input_limit_tokens} tokens leave no room for the question beside the prompt and the label",
            f"Set at least {round_up(tokens.overhead(label_tokens) + WIDTH_MULTIPLE)}.",
        )
    return room


@dataclasses.dataclass(frozen=True)
class EncodedRow:
    """Token ids of a row, uncut; label and rationale with the end token, or empty where there is none."""

    question: list[int]
    label: list[int]
    rationale: list[int]


class FeatureEncoder:
    """Tokenises rows once and lays them out in arrays."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, labels: Sequence[str]):
        """Check the labels and derive the limits.

        Raises:
            UserError: from `label_limit_tokens` and `question_limit_tokens`.
        """
        self.tokenizer = tokenizer
        self.tokens = PromptTokens.from_tokenizer(tokenizer)
        self.label_tokens = label_limit_tokens(config, tokenizer, labels)
        self.question_limit = question_limit_tokens(config, self.tokens, self.label_tokens)
        self.rationale_limit = config.rationale_limit_tokens

    def encode(self, examples: Sequence[Example], rationale_source: str | None) -> list[EncodedRow]:
        """Token ids of each row, uncut; a row's rationale is the one of rationale_source."""

        def target(text: str) -> list[int]:
            return [*self.tokenizer.encode(text), END_ID] if text else []

        return [
            EncodedRow(
                self.tokenizer.encode(question_text(example)),
                target(example.label),
                target(example.rationales.get(rationale_source, "") if rationale_source else ""),
            )
            for example in examples
        ]

    def shapes(self, *splits: Sequence[EncodedRow]) -> Shapes:
        """The smallest static sizes, a multiple of 8 each but L, that hold all rows as cut by the limits."""
        rows = [row for split in splits for row in split]
        question = max((len(row.question) for row in rows), default=1)
        rationale = max((len(row.rationale) for row in rows), default=1)
        return Shapes(
            question=min(round_up(question), self.question_limit),
            label=self.label_tokens,
            rationale=min(round_up(max(rationale, 1)), self.rationale_limit),
        )

    def features(self, rows: Sequence[EncodedRow], shapes: Shapes) -> Features:
        """Arrays of these rows; a rationale that is cut has no end token, so that no stop is learned there."""
        question_ids, question_length = _padded([row.question for row in rows], shapes.question)
        label_ids, label_length = _padded([row.label for row in rows], shapes.label)
        rationale_ids, rationale_length = _padded([row.rationale for row in rows], shapes.rationale)
        return Features(
            question_ids,
            question_length,
            label_ids,
            label_length,
            rationale_ids,
            rationale_length,
            cut_questions=sum(len(row.question) > shapes.question for row in rows),
            cut_rationales=sum(len(row.rationale) > shapes.rationale for row in rows),
        )


def _padded(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((len(rows), width), PAD_ID, np.int32)
    for index, row in enumerate(rows):
        ids[index, : min(len(row), width)] = row[:width]
    return ids, np.minimum(np.array([len(row) for row in rows], np.int32), np.int32(width))
