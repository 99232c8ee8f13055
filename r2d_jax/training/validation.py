"""One pass over the validation rows; in: Prepared and an objective, out: mean losses, and predicted labels."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from r2d_jax.data.pipeline import evaluation_batches, evaluation_buckets
from r2d_jax.evaluation.predict import HostBatch, all_of, in_row_order
from r2d_jax.model.parameters import Params
from r2d_jax.runtime.mesh import shard_batch
from r2d_jax.training.objectives import ENCODED, Objective, Terms
from r2d_jax.training.prepare import Prepared
from r2d_jax.training.steps import make_loss_sums

CheckStop = Callable[[], None]


class _Means:
    """Losses summed over batches, as means over the tokens that count."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, found: tuple[Terms, dict[str, jax.Array]]) -> None:
        """The sums and counts of one more batch, from `make_loss_sums`; waits until they are known."""
        sums, counts = jax.device_get(found)
        for name in counts:
            if f"{name}_loss_sum" in sums:
                self._sums[name] = self._sums.get(name, 0.0) + float(sums[f"{name}_loss_sum"])
                self._counts[name] = self._counts.get(name, 0.0) + float(counts[name])

    def by_name(self) -> dict[str, float]:
        """Such as "label_loss"."""
        return {f"{name}_loss": total / max(self._counts[name], 1.0) for name, total in self._sums.items()}


def _batches(prepared: Prepared, number: int) -> Callable[[], Iterator[tuple[np.ndarray, HostBatch]]]:
    features, batch_size = prepared.stages[number].validation, prepared.config.evaluation.batch_size
    overhead = prepared.encoder.prompts.overhead
    buckets = evaluation_buckets(features, batch_size, prompt_tokens=overhead, rationales=True)
    return lambda: evaluation_batches(features, batch_size, buckets)


def losses_alone(
    prepared: Prepared, number: int, objective: Objective
) -> Callable[[Params, CheckStop], dict[str, float]]:
    """A function of weights to the mean losses of a stage's validation rows; it calls check_stop after each batch."""
    sums_of, batches = make_loss_sums(prepared.context, objective, prepared.mesh), _batches(prepared, number)

    def found(params: Params, check_stop: CheckStop) -> dict[str, float]:
        means = _Means()
        for _, batch in batches():
            means.add(sums_of(params, shard_batch(batch, prepared.mesh)))
            check_stop()
        return means.by_name()

    return found


def losses_and_labels(
    prepared: Prepared, number: int, objective: Objective
) -> Callable[[Params, CheckStop], tuple[dict[str, float], list[str]]]:
    """As `losses_alone`, with the label that is predicted for each row; the prompts are encoded once for both."""
    sums_of, batches = make_loss_sums(prepared.context, objective, prepared.mesh), _batches(prepared, number)
    predictor = prepared.predictor()

    def labels_of(params: Params, host: HostBatch, rows: int, means: _Means) -> list[str]:
        batch = shard_batch(host, prepared.mesh)
        # Without the rationales, whose widths would make further programs of it.
        question = {name: batch[name] for name in ("question_ids", "question_length")}
        encoded = predictor.programs.encode_questions(params, question)
        decoded = predictor.programs.decode_labels(params, encoded)
        means.add(sums_of(params, batch | {ENCODED: encoded.states}))
        return predictor.label_texts(decoded, rows)

    def found(params: Params, check_stop: CheckStop) -> tuple[dict[str, float], list[str]]:
        means = _Means()
        lists = in_row_order((rows, labels_of(params, host, len(rows), means)) for rows, host in batches())
        labels = all_of(lists, check_stop)
        return means.by_name(), labels

    return found
