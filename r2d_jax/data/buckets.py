"""Few array widths that fit the rows; in: token counts of N rows, out: bucket shapes and each row's bucket."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from r2d_jax.data.prompts import WIDTH_MULTIPLE

# A further shape costs a compilation, which it has to save: the time of 3 to 60 steps on a CPU, of hundreds on a GPU.
# But from the second run on the compiled program lies in the cache, and the shapes may not depend on the device.
_STEPS_OF_A_COMPILATION = 20
# Below this share of the tokens none is worth one.
_LEAST_GAIN = 0.005
_CANDIDATES_PER_AXIS = 24
_ROWS_LOOKED_AT = 20_000


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Array widths of a batch, in tokens.

    Attributes:
        question: Q of the batch.
        rationale: T of the batch.
    """

    question: int
    rationale: int

    def holds(self, question: np.ndarray, rationale: np.ndarray) -> np.ndarray:
        """Which rows of these token counts int32 [N] fit, bool [N]."""
        return (question <= self.question) & (rationale <= self.rationale)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of the arrays of a batch, by name."""
        return {"question_ids": self.question, "rationale_ids": self.rationale}


def _candidates(lengths: np.ndarray, full: int, fixed: int) -> list[int]:
    # With `fixed` prompt tokens beside it a width fills whole multiples; at most a few dozen are tried.
    sizes = np.maximum(lengths, 1) + fixed
    widths = -(-sizes // WIDTH_MULTIPLE) * WIDTH_MULTIPLE - fixed
    widths = np.unique(np.minimum(widths, full))
    picked = np.linspace(0, len(widths) - 1, min(len(widths), _CANDIDATES_PER_AXIS)).round().astype(int)
    return [int(width) for width in {*widths[picked].tolist(), full}]


def choose_buckets(
    question: np.ndarray,
    rationale: np.ndarray,
    *,
    full: Bucket,
    count: int,
    prompt_tokens: int,
    steps: int | None = None,
) -> tuple[Bucket, ...]:
    """At most `count` shapes that leave the least padding, found greedily; the last one is `full`.

    A row costs two encoder passes over prompt and question and one decoder pass over the rationale, so
    its padded size is counted as 2·(Q + prompt_tokens) + T.

    Args:
        question: int32 [N], tokens of each question.
        rationale: int32 [N], tokens of each rationale.
        full: the shape that holds every row.
        count: most shapes, that of `full` included.
        prompt_tokens: tokens that the longest prompt adds to the question.
        steps: training steps in which the shapes are used: the fewer, the more a further shape must save.
            None: so many that its compilation does not count.

    Returns:
        Shapes, cheapest first.
    """

    def cost(bucket: Bucket) -> int:
        return 2 * (bucket.question + prompt_tokens) + bucket.rationale

    least_gain = max(_LEAST_GAIN, _STEPS_OF_A_COMPILATION / steps if steps else 0)
    stride = max(1, len(question) // _ROWS_LOOKED_AT)
    question, rationale = question[::stride], rationale[::stride]
    chosen = [full]
    best = np.full(len(question), cost(full), np.int64)
    shapes = [
        Bucket(q, t)
        for q, t in itertools.product(
            _candidates(question, full.question, prompt_tokens),
            _candidates(rationale, full.rationale, 0),
        )
    ]
    fits = {shape: shape.holds(question, rationale) for shape in shapes}
    while len(chosen) < count and shapes:
        totals = {shape: np.minimum(best, np.where(fits[shape], cost(shape), best)).sum() for shape in shapes}
        shape = min(totals, key=lambda one: (totals[one], one))
        if totals[shape] > (1 - least_gain) * best.sum():
            break
        best = np.minimum(best, np.where(fits[shape], cost(shape), best))
        chosen.append(shape)
    return tuple(sorted(chosen, key=cost))


def bucket_of_rows(buckets: Sequence[Bucket], question: np.ndarray, rationale: np.ndarray) -> np.ndarray:
    """int32 [N]: index of the first bucket that holds each row; the last must hold all."""
    fits = np.stack([bucket.holds(question, rationale) for bucket in buckets])
    return np.argmax(fits, axis=0).astype(np.int32)


def padding_fraction(buckets: Sequence[Bucket], question: np.ndarray, rationale: np.ndarray) -> float:
    """Share of the question and rationale tokens of batches that is padding, where each row is in its own bucket.

    Batches of rows of several buckets, a few in a window of them, have somewhat more.

    Args:
        buckets: from `choose_buckets`.
        question: int32 [N], tokens of each question.
        rationale: int32 [N], tokens of each rationale.
    """
    rows = np.bincount(bucket_of_rows(buckets, question, rationale), minlength=len(buckets))
    widths = np.array([bucket.question + bucket.rationale for bucket in buckets])
    real = int(question.sum(dtype=np.int64) + rationale.sum(dtype=np.int64))
    return 1 - real / max(int(rows @ widths), 1)
