"""Whether rationales carry their label; in: a model, rows and rationales, out: labels read back from rationales."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r2d_jax.data.features import question_text
from r2d_jax.data.mentions import is_blank, rationale_names_label
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.intervals import Ratio, Statistic
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.model_folder import LoadedModel
from r2d_jax.evaluation.predict import Predictor, all_of
from r2d_jax.runtime.row_progress import row_progress

_SEED = 0
"""Of the draw of other labels: every evaluation of the same rows asks for the same ones."""


@dataclasses.dataclass(frozen=True)
class Flip:
    """The rationale of one row under another label than the predicted one.

    Attributes:
        row: number of the row.
        given: the other label.
        rationale: what the model writes when that label is given.
        label: what the model predicts from that rationale alone.
        changed: the text differs from the rationale under the predicted label.
    """

    row: int
    given: str
    rationale: str
    label: str
    changed: bool


class RationaleChecks:
    """Reads labels back from rationales: `predict: {rationale}` in place of `predict: {question}`."""

    def __init__(
        self, model: LoadedModel, predictor: Predictor, batch_size: int, check_stop: Callable[[], None]
    ):
        self._model = model
        self._predictor = predictor
        self._batch_size = batch_size
        self._check_stop = check_stop

    @row_progress("reading labels back")
    def labels_of(self, texts: Sequence[str]) -> tuple[list[str], int]:
        """The label that the model predicts from each of N texts alone, and how many were cut to the input limit."""
        features = self._predictor.features_of(texts)
        lists = self._predictor.predict(self._model.params, features, self._batch_size, rationales=False)
        return [row.label for row in all_of(lists, self._check_stop)], features.cut_questions

    @row_progress("explaining other labels")
    def flips(
        self,
        examples: Sequence[Example],
        predicted: Sequence[str],
        rationales: Sequence[str],
        labels: Sequence[str],
        *,
        rows: int,
        labels_per_row: int,
    ) -> list[Flip]:
        """Rationales of some rows under labels other than the predicted one.

        Args:
            examples: N rows.
            predicted: their predicted labels.
            rationales: their rationales under these.
            labels: the label set.
            rows: most rows, evenly spaced.
            labels_per_row: most other labels of a row; drawn where there are more, always alike.
        """
        rng = np.random.default_rng(_SEED)
        count = min(rows, len(examples))
        asked: list[tuple[int, str]] = []
        for row in np.linspace(0, len(examples) - 1, count).round().astype(int).tolist():
            others = [one for one in labels if normalise_label(one) != normalise_label(predicted[row])]
            if len(others) > labels_per_row:
                others = [others[i] for i in sorted(rng.permutation(len(others))[:labels_per_row])]
            asked += [(row, other) for other in others]
        if not asked:
            return []
        features = self._predictor.features_of(
            [question_text(examples[row]) for row, _ in asked], [given for _, given in asked]
        )
        lists = self._predictor.explain(self._model.params, features, self._batch_size)
        texts = all_of(lists, self._check_stop)
        labels_read, _ = self.labels_of(texts)
        return [
            Flip(row, given, text, label, text != rationales[row])
            for (row, given), text, label in zip(asked, texts, labels_read, strict=True)
        ]


def agreement(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Float64 [N], 1 where two columns of labels agree as labels are compared, else 0."""
    return np.array(
        [float(normalise_label(a) == normalise_label(b)) for a, b in zip(first, second, strict=True)]
    )


def has_text(rationales: Sequence[str]) -> np.ndarray:
    """Float64 [N], 1 where a rationale is not empty: from an empty one a model still gives a label, but reads none."""
    return np.array([float(not is_blank(text)) for text in rationales])


def flip_figures(flips: Sequence[Flip], labels: Sequence[str]) -> dict[str, Any] | None:
    """Label-flip sensitivity: does the rationale follow the label it is given.

    Args:
        flips: rationales under other labels.
        labels: the label set.

    Returns:
        rows, flips: counts; changed_fraction: the text is another one; names_given_fraction and
        names_other_fraction: it names the given label, or only labels other than the given one (0 and 0
        where rationales of this data name no label); label_follows_fraction: the label read back from it is
        the given one, never from an empty text. None without flips.
    """
    if not flips:
        return None
    counts = {"rows": len({flip.row for flip in flips}), "flips": len(flips)}
    return counts | {name: float(values.mean()) for name, values in _flip_flags(flips, labels).items()}


def _flip_flags(flips: Sequence[Flip], labels: Sequence[str]) -> dict[str, np.ndarray]:
    namings = [rationale_names_label(flip.rationale, flip.given, labels) for flip in flips]
    return {
        "changed_fraction": np.array([float(flip.changed) for flip in flips]),
        "names_given_fraction": np.array([float(naming == "label") for naming in namings]),
        "names_other_fraction": np.array([float(naming == "other") for naming in namings]),
        "label_follows_fraction": agreement([flip.label for flip in flips], [flip.given for flip in flips])
        * has_text([flip.rationale for flip in flips]),
    }


def flip_statistics(flips: Sequence[Flip], labels: Sequence[str], rows: int) -> dict[str, Statistic]:
    """The fractions of `flip_figures` as statistics of N resampled rows, each with all its flips."""
    place = np.array([flip.row for flip in flips], np.int64)
    counts = np.bincount(place, minlength=rows)
    return {
        name: Ratio(np.bincount(place, weights=values, minlength=rows), counts, share=True)
        for name, values in _flip_flags(flips, labels).items()
    }


def flips_by_row(flips: Sequence[Flip], labels: Sequence[str]) -> dict[int, dict[str, float]]:
    """For each row with flips, how many it has, and the fractions of `flip_figures` over them."""
    place = np.array([flip.row for flip in flips], np.int64)
    flags = _flip_flags(flips, labels)
    return {
        row: {"flips": int((place == row).sum())}
        | {name: float(values[place == row].mean()) for name, values in flags.items()}
        for row in dict.fromkeys(place.tolist())
    }
