"""Labelled rows to ask about; in: a run or a file with its column names, out: examples, label set, rationale source."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from r2d_jax.config import ColumnsConfig
from r2d_jax.config_check import rationale_source
from r2d_jax.config_file import load_config
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import load_splits
from r2d_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """Rows with gold labels.

    Attributes:
        examples: in the order of the file or split.
        labels: label set of the model, else all gold labels of the rows, sorted.
        source: whose rationales the examples have; None: they have none.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    source: str | None

    def first(self, max_rows: int | None) -> "LabelledRows":
        """The first rows, with the labels of all."""
        return dataclasses.replace(self, examples=self.examples[:max_rows])


def _named_columns(columns: ColumnsConfig, names: Mapping[str, str | None]) -> ColumnsConfig:
    given = {field: name for field, name in names.items() if name is not None}
    rationale = given.pop("rationale", None)
    if rationale is not None:
        columns = dataclasses.replace(columns, rationales={"default": rationale})
    return dataclasses.replace(columns, **given)  # type: ignore[arg-type]


def labelled_rows(
    model: pathlib.Path | None,
    input_file: pathlib.Path | None,
    *,
    split: str,
    columns: Mapping[str, str | None],
    with_rationales: bool,
) -> LabelledRows:
    """Rows of a file, or of a split of a run.

    Args:
        model: a run's workdir (its own split, column names and label set), or another model folder beside a
            file (its column names and label set).
        input_file: JSONL or CSV; None: the split of the run.
        split: test or validation; for a run without a file.
        columns: names of question, context, label, id and rationale that differ; None where they do not.
        with_rationales: every row must have a gold rationale.

    Raises:
        UserError: neither is given, or a fault of the file or folder.
    """
    if input_file is None and model is None:
        raise UserError(
            "--input", "neither --input nor --model is given", "Name labelled rows, or a run's workdir."
        )
    if input_file is None and any(columns.values()):
        raise UserError(
            "--input", "is needed where columns are named", "Leave them out; a run knows its own."
        )
    named, labels = ColumnsConfig(), tuple[str, ...]()
    if model is not None:
        # Loads Orbax, which rows of a plain file do without.
        from r2d_jax.evaluation.model_folder import find_model_folder, read_card

        home = find_model_folder(model)
        card = read_card(home)
        named, labels = card.columns, card.labels
    if input_file is not None:
        named = _named_columns(named, columns)
        sources = tuple(named.rationales)[:1] if with_rationales else ()
        examples: Sequence[Example] = read_examples(input_file, named, rationale_sources=sources)
    else:
        if not (home / "config.yaml").is_file():
            raise UserError(str(model), "is no run folder, so it has no test split", "Give --input FILE.")
        if split not in ("test", "validation"):
            raise UserError("--split", f"{split!r} is not a split to evaluate", "Use test or validation.")
        config = load_config(home / "config.yaml")
        source = rationale_source(config, config.stage2)
        # A run that learns labels alone has no rationales.
        sources = () if source is None else (source,)
        examples = getattr(load_splits(config.data, config.seed, sources), split)
    found = labels or tuple(sorted({example.label for example in examples}))
    return LabelledRows(tuple(examples), found, sources[0] if sources else None)
