"""The data sets that `r2d data prepare` knows; in: a name, out: its NamedDataset."""

import difflib

from r2d_jax.data.named.bioasq import BIOASQ
from r2d_jax.data.named.contract import NamedDataset
from r2d_jax.data.named.ddxplus import DDXPLUS
from r2d_jax.data.named.ecqa import ECQA
from r2d_jax.data.named.esnli import ESNLI
from r2d_jax.data.named.medreason import MEDREASON
from r2d_jax.data.named.pubmedqa import PUBMEDQA
from r2d_jax.data.named.pubmedqa_artificial import PUBMEDQA_ARTIFICIAL
from r2d_jax.data.named.pubmedqa_mix import PUBMEDQA_MIX
from r2d_jax.errors import UserError

DATASETS = {
    one.name: one
    for one in (PUBMEDQA, PUBMEDQA_ARTIFICIAL, PUBMEDQA_MIX, BIOASQ, MEDREASON, DDXPLUS, ESNLI, ECQA)
}


def named_dataset(name: str) -> NamedDataset:
    """The data set of this name.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(
            f"data set {name!r}",
            "is not known",
            f"{hint}Known: {', '.join(DATASETS)}. Your own rows need no preparation.",
        )
    return DATASETS[name]
