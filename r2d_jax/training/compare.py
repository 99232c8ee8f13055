"""A comparison of methods; in: a comparison file and a folder, out: finished runs and one table of them."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence

from pydantic import TypeAdapter
from rich.console import Console

from r2d_jax.config import Config, DataConfig, EvaluationConfig, Stage2Config
from r2d_jax.config_check import stage_configs, used_sources
from r2d_jax.errors import UserError
from r2d_jax.evaluation.comparison import RunResult, compare, read_result
from r2d_jax.evaluation.comparison_print import print_comparison
from r2d_jax.evaluation.comparison_table import as_csv, markdown
from r2d_jax.runtime.files import write_json, write_text
from r2d_jax.runtime.reporting import say
from r2d_jax.training.compare_config import PlannedRun, load_comparison
from r2d_jax.training.run import run
from r2d_jax.training.workdir import Workdir


def run_comparison(
    path: pathlib.Path,
    folder: pathlib.Path,
    console: Console,
    *,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> None:
    """Train what is not finished yet, then write comparison.md, comparison.csv and comparison.json.

    Runs whose first stages are the same share one: it is trained once and copied. The table of some methods only is
    comparison-only.md (.csv, .json). Either is rewritten each time.

    Args:
        path: the comparison file.
        folder: a workdir per run goes into it.
        console: where progress goes.
        only: methods to train and compare; empty: all.
        overrides: settings of all runs that the file does not set itself.

    Raises:
        UserError: from the file, a run, a folder that holds another comparison's run, or rows that have changed since
            another run of theirs was started.
        Preempted: a stop was requested; the same command goes on.
    """
    comparison, planned = load_comparison(path, only, overrides)
    _check_test_rows(planned)
    _check_folders(planned, folder)
    for number, one in enumerate(planned, 1):
        workdir = Workdir(folder / one.folder)
        if workdir.finished:
            say(console, f"run {number} of {len(planned)}: {one.folder}: finished before")
            continue
        say(console, f"run {number} of {len(planned)}: {one.folder}")
        start = time.monotonic()
        run(
            one.config,
            workdir.path,
            console,
            stage1_from=_donor(one, planned, folder),
            rows_of=_first_of_its_rows(one, planned, folder),
        )
        workdir.mark("wall_secs", workdir.state.get("wall_secs", 0.0) + time.monotonic() - start)
    results: dict[str, dict[int, RunResult]] = {}
    for one in planned:
        results.setdefault(one.method, {})[one.seed] = read_result(Workdir(folder / one.folder).evaluation)
    reference = comparison.reference if comparison.reference in results else next(iter(results))
    table = compare(results, reference)
    # A table of some methods must not take the place of that of all.
    stem = "comparison-only" if only else "comparison"
    write_json(folder / f"{stem}.json", table)
    write_text(folder / f"{stem}.csv", as_csv(table))
    write_text(folder / f"{stem}.md", markdown(table))
    print_comparison(table, console)
    say(console, f"written: {folder / f'{stem}.md'}, {stem}.csv, {stem}.json")


def _check_test_rows(planned: Sequence[PlannedRun]) -> None:
    """Refuse arms that are tested on rows drawn otherwise, before the first is trained.

    Ids of generated notes only count them, so that the table would not tell.
    """
    notes, draws = set(), set()
    for data, seed in ((one.config.data, _data_seed(one.config)) for one in planned):
        if data.source == "triage":
            test = dataclasses.replace(data.triage, train_rows=1, validation_rows=1, label_noise_fraction=0.0)
            notes.add((test, seed))
        elif data.split_shares is not None:
            draws.add((tuple(data.split_shares.items()), seed))
    if len(notes) > 1:
        raise UserError(
            "comparison",
            "the arms would be tested on different generated notes",
            "Give data.seed, data.triage.test_rows, class_shares and distractors in base, for all arms.",
        )
    if len(draws) > 1:
        raise UserError(
            "comparison",
            "the arms would be tested on different rows",
            "Give data.seed and data.split_shares in base, for all arms.",
        )


def _check_folders(planned: Sequence[PlannedRun], folder: pathlib.Path) -> None:
    """Refuse a folder that holds other runs, or runs of different rows, before the first one is trained."""
    for one in planned:
        workdir = Workdir(folder / one.folder)
        if not workdir.started:
            continue
        workdir.check_started(one.config)
        first = _first_of_its_rows(one, planned, folder)
        # Figures of other texts would stand in one table with no sign of it: ids and gold labels may be the same.
        ours = workdir.state["data_hash"]
        if first is not None and (theirs := Workdir(first).state["data_hash"]) != ours:
            raise UserError(
                str(workdir.path),
                f"its run began with other rows than {first} (content hash {ours}, there {theirs})",
                "Move those of the old rows away, and the same command trains them anew; nothing was changed.",
            )


def _data_seed(config: Config) -> int:
    return config.seed if config.data.seed is None else config.data.seed


def _rows_key(config: Config) -> str:
    """Equal for runs that read the same rows, as long as the files stay the same."""
    data = TypeAdapter(DataConfig).dump_python(config.data, mode="json")
    return json.dumps([_data_seed(config), data, sorted(used_sources(config))], sort_keys=True)


def _first_of_its_rows(
    one: PlannedRun, planned: Sequence[PlannedRun], folder: pathlib.Path
) -> pathlib.Path | None:
    """Workdir of another run of the same rows that has been started."""
    key = _rows_key(one.config)
    for other in planned:
        workdir = Workdir(folder / other.folder)
        if other is not one and _rows_key(other.config) == key and workdir.started:
            return workdir.path
    return None


def _stage1_key(config: Config) -> str:
    """Equal for runs whose first stage is the same."""
    rest = dataclasses.replace(
        config,
        # All methods that have a first stage have the same.
        method="r2d",
        stage2=Stage2Config(rationale_source=config.stage2.rationale_source),
        evaluation=EvaluationConfig(batch_size=config.evaluation.batch_size),
    )
    values = TypeAdapter(Config).dump_python(rest, mode="json")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _donor(one: PlannedRun, planned: Sequence[PlannedRun], folder: pathlib.Path) -> pathlib.Path | None:
    if 1 not in stage_configs(one.config):
        return None
    for other in planned:
        workdir = Workdir(folder / other.folder)
        same = 1 in stage_configs(other.config) and _stage1_key(other.config) == _stage1_key(one.config)
        if other is not one and same and workdir.started and workdir.state.get("stage1_done"):
            return workdir.path
    return None
