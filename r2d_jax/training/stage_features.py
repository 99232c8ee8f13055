"""Rows as each stage trains on them; in: token ids of all splits, out: features and batch shapes of each stage."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from r2d_jax.config import Config
from r2d_jax.config_check import stage_configs
from r2d_jax.data.buckets import Bucket, choose_buckets
from r2d_jax.data.features import (
    EncodedRows,
    FeatureEncoder,
    Features,
    Shapes,
    balanced_weights,
    encoded_rows,
)
from r2d_jax.data.row_store import labels_of
from r2d_jax.data.schema import Example
from r2d_jax.data.token_cache import Tokens
from r2d_jax.errors import UserError
from r2d_jax.training.objectives import STAGE1
from r2d_jax.training.workdir import Workdir

_SHAPES_MARK = "batch_widths"


@dataclasses.dataclass(frozen=True)
class StageFeatures:
    """Features of one stage, with its own rationale source, and the shapes of its training batches.

    In the first stage they are of the rows that have a rationale.
    """

    train: Features
    validation: Features
    buckets: tuple[Bucket, ...]

    def with_balanced_labels(self, train: Sequence[Example]) -> "StageFeatures":
        """The same with a weight for each training row, by how rare its label is among these rows."""
        weights = balanced_weights(list(labels_of(train)))
        return dataclasses.replace(self, train=dataclasses.replace(self.train, label_weight=weights))


def encoded_stages(
    config: Config,
    workdir: Workdir,
    encoder: FeatureEncoder,
    tokens: Tokens,
    sources: Mapping[int, str | None],
) -> tuple[Shapes, dict[int, StageFeatures], Features]:
    """Static sizes that hold all rows, the features of each stage by its number, and those of the test split.

    Args:
        config: of the run.
        workdir: where the batch shapes that the run begins with are marked.
        encoder: lays rows out in arrays.
        tokens: ids of all splits.
        sources: rationale source of each stage that the run has.

    Raises:
        UserError: the run began with other batch shapes.
    """
    encoded = {
        number: [encoded_rows(tokens[split], name) for split in ("train", "validation")]
        for number, name in sources.items()
    }
    encoded_test = encoded_rows(tokens["test"], sources[2])
    shapes = encoder.shapes(*(rows for pair in encoded.values() for rows in pair), encoded_test)
    begun_with = workdir.state.get(_SHAPES_MARK, {})
    stages = {
        number: _stage_features(
            config, number, encoder, shapes, train, validation, begun_with.get(str(number))
        )
        for number, (train, validation) in encoded.items()
    }
    if not begun_with:
        widths = {
            str(number): [dataclasses.astuple(one) for one in stage.buckets]
            for number, stage in stages.items()
        }
        workdir.mark(_SHAPES_MARK, widths)
    return shapes, stages, encoder.features(encoded_test, shapes)


def _stage_features(
    config: Config,
    stage: int,
    encoder: FeatureEncoder,
    shapes: Shapes,
    train: EncodedRows,
    validation: EncodedRows,
    begun_with: Sequence[Sequence[int]] | None,
) -> StageFeatures:
    features = encoder.features(train, shapes, _learned(stage, train))
    full = Bucket(shapes.question, shapes.rationale)
    # The order of the batches depends on their shapes: a run goes on with those that it began with, whatever a later
    # version would choose.
    buckets = tuple(Bucket(*widths) for widths in begun_with or ()) or choose_buckets(
        features.question_length,
        features.rationale_length,
        full=full,
        count=config.data.length_buckets,
        prompt_tokens=encoder.prompts.overhead,
        steps=stage_configs(config)[stage].max_steps,
    )
    if buckets[-1] != full:
        raise UserError(
            f"stage {stage}",
            f"began with batches of other widths than {full.question}+{full.rationale} tokens",
            "Go on with the version of r2d_jax that began it, or choose a new --workdir; nothing was changed.",
        )
    return StageFeatures(features, encoder.features(validation, shapes, _learned(stage, validation)), buckets)


def _learned(stage: int, rows: EncodedRows) -> np.ndarray | None:
    """Numbers int64 [n] of the rows that a stage learns from; None: all. The first learns rationales alone."""
    there = rows.rationale.lengths > 0
    return None if stage != STAGE1 or there.all() else np.flatnonzero(there)
