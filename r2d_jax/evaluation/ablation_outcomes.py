"""What a model says of inputs without what is cited; in: ablations, out: for each its labels and probabilities."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from r2d_jax.evaluation.ablations import VARIANTS, Ablation
from r2d_jax.evaluation.label_scoring import scores_of
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.predict import Predictor, ScoreFn, all_of
from r2d_jax.model.parameters import Params
from r2d_jax.runtime.row_progress import row_progress


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the model says of the texts of one ablation, in the order of VARIANTS.

    Attributes:
        row: number of the row.
        labels: 5 greedy labels.
        probabilities: float64 [5], of the label of the full text; nan where it is none of the label set, or
            probabilities are not asked for.
    """

    row: int
    labels: tuple[str, ...]
    probabilities: np.ndarray

    def changed(self, variant: str) -> float:
        """1.0 where the label is another one than that of the full text, else 0.0."""
        return float(normalise_label(self.labels[VARIANTS.index(variant)]) != normalise_label(self.labels[0]))

    def drop(self, variant: str) -> float:
        """How much less probable the label of the full text is, -1 to 1; nan where that is not known."""
        return float(self.probabilities[0] - self.probabilities[VARIANTS.index(variant)])


@row_progress("leaving sentences out")
def measure(
    predictor: Predictor,
    params: Params,
    ablations: Sequence[Ablation],
    batch_size: int,
    *,
    labels: Sequence[str] = (),
    score_labels: ScoreFn | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Predict from all texts of some ablations; those without texts have no place in the result.

    Args:
        predictor: of the labels.
        params: weights.
        ablations: from `ablate`.
        batch_size: rows decoded at once.
        labels: the K labels that are scored.
        score_labels: of `LabelScorer`; None: only the greedy labels are compared.
        check_stop: called between batches; may raise to stop.
    """
    from scipy.special import softmax

    there = [one for one in ablations if one.texts]
    texts = [text for one in there for text in one.texts]
    if not texts:
        return []
    features = predictor.features_of(texts)
    lists = predictor.predict(params, features, batch_size, rationales=False, score=score_labels)
    predictions = all_of(lists, check_stop)
    found = [prediction.label for prediction in predictions]
    table = np.full((len(texts), len(labels)), np.nan)
    if score_labels is not None:
        table = softmax(scores_of(predictions, len(labels)).astype(np.float64), axis=-1)
    number = {normalise_label(label): place for place, label in enumerate(labels)}
    measured = []
    for place, one in enumerate(there):
        rows = slice(place * len(VARIANTS), (place + 1) * len(VARIANTS))
        given = tuple(found[rows])
        column = number.get(normalise_label(given[0]))
        of_label = np.full(len(VARIANTS), np.nan) if column is None else table[rows, column]
        measured.append(Measured(one.row, given, of_label))
    return measured
