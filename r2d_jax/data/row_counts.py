"""How many rows a run has, for its model card; in: the splits, out: counts by split and label, without case text."""

import collections
from typing import Any

from r2d_jax.data.data_card import label_table
from r2d_jax.data.row_store import labels_of
from r2d_jax.data.schema import Splits
from r2d_jax.data.splits import NAMES


def row_counts(splits: Splits) -> dict[str, Any]:
    """Counts of the rows of a run.

    Args:
        splits: the rows.

    Returns:
        rows: split to count; labels: distinct labels, and counts by label and split of the commonest short ones
        (see `label_table`: what may be case text is not named).
    """
    each = {name: getattr(splits, name) for name in NAMES}
    counts = collections.Counter((name, label) for name, rows in each.items() for label in labels_of(rows))
    return {"rows": {name: len(rows) for name, rows in each.items()}, "labels": label_table(counts)}
