"""Inputs without what a rationale cites; in: rows and rationales, out: for each row the texts to predict from."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r2d_jax.data.composed import Span
from r2d_jax.data.features import FeatureEncoder
from r2d_jax.data.schema import Example
from r2d_jax.data.sentences import sentences
from r2d_jax.evaluation.citations import Citations, citations, kept_text, random_sentences

VARIANTS = ("full", "cited_removed", "random_removed", "cited_kept", "random_kept")
"""Texts of a row: all that the model sees; the same without the cited sentences, or without as many random ones;
and only the cited ones, or only as many random ones."""


class Part(NamedTuple):
    """An input as the ablation sees it.

    Attributes:
        head: what always stays: the question where there is a context, with a blank after it; otherwise "".
        text: the rest, whose sentences are removed: the context, or the whole input.
    """

    head: str
    text: str


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One row.

    Attributes:
        row: its number.
        offset: where the sentences' text begins in the input.
        found: its sentences, as far as the model sees them, and which are cited.
        texts: one for each of VARIANTS; () where no sentence is cited, or each.
        removed_words: share of the words in the cited, and in the random sentences; (0, 0) without texts.
    """

    row: int
    offset: int
    found: Citations
    texts: tuple[str, ...] = ()
    removed_words: tuple[float, float] = (0.0, 0.0)

    @property
    def cited(self) -> list[Span]:
        """Places of the cited sentences in the input, question and context."""
        places = [self.found.sentences[number] for number in self.found.cited]
        return [(start + self.offset, end + self.offset) for start, end in places]


def part_of(example: Example) -> Part:
    """What of a row stays and what is removed in parts: without the question there is nothing to answer."""
    return Part(f"{example.question} ", example.context) if example.context else Part("", example.question)


def seen_part(part: Part, encoder: FeatureEncoder) -> Part:
    """The part up to the last sentence that the model sees whole, where the input is cut at its limit."""

    def fits(text: str) -> bool:
        return len(encoder.tokenizer.encode(part.head + text)) <= encoder.question_limit

    if fits(part.text):
        return part
    ends = [end for _, end in sentences(part.text)]
    return Part(part.head, part.text[: max((end for end in ends if fits(part.text[:end])), default=0)])


def chosen_rows(rows: int, most: int) -> list[int]:
    """Numbers of at most so many of the rows, evenly spaced."""
    return np.linspace(0, rows - 1, min(rows, most)).round().astype(int).tolist()


def ablate(
    examples: Sequence[Example],
    rationales: Sequence[str],
    labels: Sequence[str],
    encoder: FeatureEncoder,
    *,
    rows: int,
    seed: int = 0,
) -> list[Ablation]:
    """The texts of some rows that tell whether a rationale cites what the label rests on (DeYoung et al., ACL 2020).

    What DeYoung et al. remove is marked by hand or by attention; here it is the sentences that `citations` finds.
    The random sentences are drawn from all of the row's, as many as are cited.

    Args:
        examples: N rows.
        rationales: N texts.
        labels: N predicted labels, whose words point to no sentence.
        encoder: tells what the model sees of an input.
        rows: most rows, evenly spaced.
        seed: of the random sentences; they depend on it and on the number of the row.
    """
    found = []
    for row in chosen_rows(len(examples), rows):
        part = seen_part(part_of(examples[row]), encoder)
        cites = citations(rationales[row], part.text, [labels[row]])
        ablation = Ablation(row, len(part.head), cites)
        found.append(_with_texts(ablation, part, seed) if cites.some else ablation)
    return found


def _with_texts(ablation: Ablation, part: Part, seed: int) -> Ablation:
    places, cited = ablation.found.sentences, set(ablation.found.cited)
    drawn = set(random_sentences(len(cited), len(places), seed=seed, row=ablation.row))
    every = set(range(len(places)))
    kept = (every, every - cited, every - drawn, cited, drawn)
    sizes = np.array([len(part.text[start:end].split()) for start, end in places])
    return dataclasses.replace(
        ablation,
        texts=tuple((part.head + kept_text(part.text, places, some)).rstrip() for some in kept),
        removed_words=(
            float(sizes[sorted(cited)].sum() / sizes.sum()),
            float(sizes[sorted(drawn)].sum() / sizes.sum()),
        ),
    )
