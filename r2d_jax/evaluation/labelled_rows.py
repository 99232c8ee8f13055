"""Labelled rows to ask about; in: a run or a file with its column names, out: examples, label set, rationale source."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from r2d_jax.config import ColumnsConfig, Config, EvaluationConfig
from r2d_jax.config_check import rationale_source
from r2d_jax.config_file import load_config
from r2d_jax.data.check.labels import looks_like_text
from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.data.row_store import labels_of
from r2d_jax.data.schema import Example, Splits, any_rationale
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import content_hash, splits_of_run
from r2d_jax.errors import UserError
from r2d_jax.runtime.run_files import RUN_CONFIG

if TYPE_CHECKING:
    from r2d_jax.evaluation.model_folder import ModelCard


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """Rows with gold labels.

    Attributes:
        examples: in the order of the file or split.
        labels: label set of the model, else all gold labels of the rows, sorted.
        source: whose rationales the examples have; None: they have none.
        evaluation: how the run scores; defaults where the rows are of a file.
    """

    examples: Sequence[Example]
    labels: tuple[str, ...]
    source: str | None
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def first(self, max_rows: int | None) -> "LabelledRows":
        """The first rows, with the labels of all."""
        return dataclasses.replace(self, examples=self.examples[:max_rows])


def _without_subgroups(columns: ColumnsConfig) -> ColumnsConfig:
    # Nothing that asks an LLM or looks at rationales tells figures of subgroups, so their columns may be missing.
    return dataclasses.replace(columns, subgroups={}, subgroup_edges={})


def _named_columns(columns: ColumnsConfig, names: Mapping[str, str | None]) -> ColumnsConfig:
    given = {field: name for field, name in names.items() if name is not None}
    rationale = given.pop("rationale", None)
    if rationale is not None:
        columns = dataclasses.replace(columns, rationales={"default": rationale})
    return dataclasses.replace(columns, **given)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class RunRows:
    """The rows of a run.

    Attributes:
        config: of the run.
        labels: its label set.
        splits: its rows, those that it began with.
        source: whose rationales they have; None: a run that learns labels alone.
    """

    config: Config
    labels: tuple[str, ...]
    splits: Splits
    source: str | None


def rows_of_run(model: pathlib.Path) -> RunRows:
    """The rows of the run at, or above, a folder.

    Raises:
        UserError: it is no run, a fault of its files, or its rows have changed since it began.
    """
    home, card = _home_and_card(model)
    if not (home / RUN_CONFIG).is_file():
        raise UserError(str(model), "is not a run folder, so it has no test split", "Give --input FILE.")
    config = load_config(home / RUN_CONFIG)
    source = rationale_source(config, config.stage2)
    return RunRows(config, card.labels, splits_as_trained(home, config), source)


def splits_as_trained(home: pathlib.Path, config: Config) -> Splits:
    """The rows of a run, only if they are still those that it began with.

    They are read and split again. A file that has grown since, or another one at the same relative path, gives other
    splits: rows that the model was trained on would then be scored as test rows.

    Args:
        home: folder of the run; one without run.json, or whose run.json holds no hash of the rows, tells nothing.
        config: of the run.

    Raises:
        UserError: the rows are others, run.json is damaged, or as `splits_of_run`.
    """
    # Loads JAX, which rows of a plain file do without.
    from r2d_jax.evaluation.run_record import stored_data_hash

    begun_with, splits = stored_data_hash(home), splits_of_run(config)
    if begun_with and begun_with != (now := content_hash(splits)):
        raise UserError(
            str(home),
            f"its run began with other rows (content hash {begun_with}, now {now})",
            "Restore the data and start where the run was started, or name rows with --input.",
        )
    return splits


def _home_and_card(model: pathlib.Path) -> "tuple[pathlib.Path, ModelCard]":
    # Loads Orbax, which rows of a plain file do without.
    from r2d_jax.evaluation.model_folder import find_model_folder, read_card

    home = find_model_folder(model)
    return home, read_card(home)


def require_file_for(
    input_file: pathlib.Path | None, columns: Mapping[str, str | None], encoding: str
) -> None:
    """Refuse columns or an encoding of no file.

    Raises:
        UserError: they are named, and there is none.
    """
    if input_file is None and (any(columns.values()) or encoding != "utf-8"):
        raise UserError(
            "--input",
            "is needed where columns or an encoding are named",
            "Leave them out; a run knows its own.",
        )


def require_rows(
    model: pathlib.Path | None,
    input_file: pathlib.Path | None,
    columns: Mapping[str, str | None],
    encoding: str = "utf-8",
) -> None:
    """Refuse options that name no rows, or the form of no file.

    Raises:
        UserError: neither a model nor a file is given, or columns or an encoding without a file.
    """
    if input_file is None and model is None:
        raise UserError(
            "--input", "neither --input nor --model is given", "Name labelled rows, or a run's workdir."
        )
    require_file_for(input_file, columns, encoding)


def labelled_rows(
    model: pathlib.Path | None,
    input_file: pathlib.Path | None,
    *,
    split: str,
    columns: Mapping[str, str | None],
    encoding: str = "utf-8",
    with_rationales: bool,
) -> LabelledRows:
    """Rows of a file, or of a split of a run.

    Args:
        model: a run's workdir (its own split, column names and label set), or another model folder beside a
            file (its column names and label set).
        input_file: of any format that is read; None: the split of the run.
        split: test or validation; for a run without a file.
        columns: names of question, context, label, id and rationale that differ; None where they do not.
        encoding: of the file.
        with_rationales: every row must have a gold rationale.

    Raises:
        UserError: neither is given, or a fault of the file or folder.
    """
    require_rows(model, input_file, columns, encoding)
    evaluation = EvaluationConfig()
    if input_file is None:
        assert model is not None
        if split not in ("test", "validation"):
            raise UserError("--split", f"{split!r} is not a split to evaluate", "Use test or validation.")
        run = rows_of_run(model)
        examples: Sequence[Example] = getattr(run.splits, split)
        labels, source, evaluation = run.labels, run.source, run.config.evaluation
    else:
        form = form_of_file(model, columns)
        source = form.source if with_rationales else None
        sources = () if source is None else (source,)
        examples = read_examples(
            input_file,
            form.columns,
            rationale_sources=sources,
            encoding=encoding,
            label_map=form.label_map,
        )
        labels = form.labels or _labels_alone(examples, form.columns.label)
    return LabelledRows(examples, labels, source, evaluation)


def _labels_alone(examples: Sequence[Example], column: str) -> tuple[str, ...]:
    """All gold labels, sorted, where there is no label set; refuses a column of notes, whose texts would be shown."""
    found = tuple(sorted(set(labels_of(examples))))
    if looks_like_text(found, len(examples)):
        raise UserError(
            f"column {column!r}",
            f"holds {len(found)} different values in {len(examples)} rows, so it looks like text, not like labels",
            "Name the column of labels with --label-column.",
        )
    return found


def rows_to_evaluate(
    card: "ModelCard",
    path: pathlib.Path,
    columns: ColumnsConfig,
    *,
    names: Mapping[str, str | None],
    encoding: str,
    keep_missing: bool,
    need_subgroups: bool,
) -> tuple[Sequence[Example], str | None]:
    """Labelled rows of a file for the evaluation of a model, and whose rationales they have.

    Args:
        card: of the model.
        path: of the file.
        columns: names of its columns, of subgroups too.
        names: those that differ, as for `labelled_rows`.
        encoding: of the file.
        keep_missing: rows may lack a rationale; else a blank one is an error. A file without any column of
            rationales, where none is named, is one of labels alone in both cases.
        need_subgroups: see `read_examples`.

    Returns:
        The rows, with "" for a rationale that one lacks, and the source; None where no row has any.

    Raises:
        UserError: a fault of the file.
    """
    columns = _named_columns(columns, names)
    source = card.source_among(columns.rationales)
    if (
        source is not None
        and not names.get("rationale")
        and not _has(path, columns.rationales[source], encoding)
    ):
        source = None
    examples = read_examples(
        path,
        columns,
        rationale_sources=() if source is None else (source,),
        encoding=encoding,
        missing_rationales="keep" if keep_missing else "error",
        label_map=card.label_map,
        need_subgroups=need_subgroups,
    )
    if not card.labels:
        _labels_alone(examples, columns.label)
    return examples, source if source and any_rationale(examples, source) else None


def _has(path: pathlib.Path, column: str, encoding: str) -> bool:
    return any(column in row.cells for row in raw_rows(path, encoding))


@dataclasses.dataclass(frozen=True)
class FileForm:
    """How a file of labelled rows is read.

    Attributes:
        columns: names of its columns, as in training or as given.
        source: whose rationales count; None: the columns name none.
        labels: label set of the model; empty without one.
        label_map: labels as written in the training files, to those that the model learned.
    """

    columns: ColumnsConfig
    source: str | None
    labels: tuple[str, ...]
    label_map: Mapping[str, str]


def form_of_file(model: pathlib.Path | None, columns: Mapping[str, str | None]) -> FileForm:
    """How a file is read beside a model.

    Args:
        model: None: default names and no labels.
        columns: names that differ, by field; None where they do not.

    Raises:
        UserError: there is no model at that place.
    """
    if model is None:
        named = _without_subgroups(_named_columns(ColumnsConfig(), columns))
        return FileForm(named, next(iter(named.rationales), None), (), {})
    _, card = _home_and_card(model)
    named = _without_subgroups(_named_columns(card.columns, columns))
    return FileForm(named, card.source_among(named.rationales), card.labels, card.label_map)
