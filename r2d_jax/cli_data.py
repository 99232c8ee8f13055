"""The commands `r2d data ...`; in: arguments, out: rows looked at, converted or written, without training."""

import pathlib
from collections.abc import Callable
from typing import Annotated

import typer

from r2d_jax.cli_options import OverwriteOption, console

data_app = typer.Typer(
    name="data",
    help="Look at rows, convert data sets and write prepared files; nothing is trained.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Add the group to the `r2d` command."""
    app.add_typer(data_app)


@data_app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="pubmedqa, pubmedqa_artificial, pubmedqa_mix, bioasq, medreason, ddxplus, esnli or ecqa.",
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            help="Folder (or file) with the original files; hf:OWNER/NAME[@REVISION] downloads them from the Hub."
        ),
    ],
    out: Annotated[pathlib.Path, typer.Option(help="Folder to write: rows.jsonl and its data card.")],
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of rows of each split. Default: all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits that are drawn here.", min=0)] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert a published data set into rows and a card that says where they come from.

    docs/datasets.md says which files to download, the licences, and what is done to the text.
    """
    from r2d_jax.data.named.prepare import CARD_TEXT_FILE, ROWS_FILE
    from r2d_jax.data.named.prepare import prepare as prepare_rows
    from r2d_jax.runtime.outputs import require_local

    require_local(out, "--out")
    card = prepare_rows(
        name,
        source,
        out,
        limit=limit,
        seed=seed,
        overwrite=overwrite,
        report=lambda line: print(line, flush=True),
    )
    print(
        ", ".join(f"{split} {count:,}" for split, count in card.rows.items()) + f" rows in {out / ROWS_FILE}"
    )
    for reason, count in card.dropped.items():
        print(f"  left out: {count:,} x {reason}")
    for what, count in card.noted.items():
        print(f"  counted: {count:,} x {what}")
    print(f"licence and all else: {out / CARD_TEXT_FILE}")


@data_app.command()
def tfds(
    out: Annotated[pathlib.Path, typer.Option(help="Folder to write the data set rows/1.0.0 in.")],
    config: Annotated[
        pathlib.Path | None, typer.Option(help="YAML file of the run whose rows are written.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Source of the rows (data.path), instead of the config's.")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="Files per split. Default: by size.", min=1)] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for example data.columns.split=split."),
    ] = None,
) -> None:
    """Write the splits of a run as a TFDS data set in ArrayRecord, for runs on several hosts.

    Prints the settings that read it; with them a run has the same rows in the same order.
    """
    import json

    from r2d_jax.config_file import load_config
    from r2d_jax.data.splits import describe, splits_of_run
    from r2d_jax.data.tfds_write import columns_of, require_new, write_tfds
    from r2d_jax.errors import UserError
    from r2d_jax.runtime.outputs import require_folder

    require_folder(out, (), "--out")
    require_new(out)
    if config is None and path is None:
        raise UserError("r2d data tfds", "no rows are named", "Give --config or --path.")
    named = [] if path is None else [f"data.path={json.dumps(path)}"]
    settings = load_config(config, [*named, *(overrides or ())])
    splits = splits_of_run(settings, _counter("rows read"))
    folder = write_tfds(splits, out, shards=shards)
    print(describe(splits))
    print(f"written: {folder}; read it with\ndata:")
    print(f"  path: {json.dumps(f'tfds:{folder.absolute()}', ensure_ascii=False)}")
    print(f"  columns: {json.dumps(columns_of(splits), ensure_ascii=False)}")
    if settings.data.missing_rationales == "keep":
        print("  missing_rationales: keep")


def _counter(what: str) -> Callable[[int], None] | None:
    """Shows a count of rows on one line of a terminal; None where nobody looks."""
    import sys

    if not sys.stderr.isatty():
        return None
    return lambda rows: print(f"\r{rows:,} {what}", end="", file=sys.stderr, flush=True)


_ROWS, _SHOWN = "Columns", "What is shown"


@data_app.command()
def check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]...",
            help="Rows to look at (without FILE: those of --config), and settings, such as "
            "data.rationale_limit_tokens=128.",
        ),
    ] = None,
    config: Annotated[
        pathlib.Path | None, typer.Option(help="YAML file of a run: its rows, columns, limits and tokenizer.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub name of a tokenizer. Default: that of --config; without one, lengths and "
            "lost characters are left out."
        ),
    ] = None,
    json_file: Annotated[
        pathlib.Path | None, typer.Option("--json", metavar="OUT", help="JSON file to write everything to.")
    ] = None,
    overwrite: OverwriteOption = False,
    question_column: Annotated[
        str | None,
        typer.Option(help="Default: that of --config, else question.", rich_help_panel=_ROWS),
    ] = None,
    context_column: Annotated[
        str | None,
        typer.Option(help="Default: that of --config, else none.", rich_help_panel=_ROWS),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Default: that of --config, else label.", rich_help_panel=_ROWS),
    ] = None,
    rationale_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Default: those of --config, else rationale. May be given several times.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    no_rationales: Annotated[
        bool, typer.Option("--no-rationales", help="The rows have labels alone.", rich_help_panel=_ROWS)
    ] = False,
    id_column: Annotated[
        str | None,
        typer.Option(
            help="Default: that of --config, else none: rows are named by their place.", rich_help_panel=_ROWS
        ),
    ] = None,
    split_column: Annotated[
        str | None,
        typer.Option(
            help="Default: that of --config, else none: all rows are one split.", rich_help_panel=_ROWS
        ),
    ] = None,
    show_ids: Annotated[
        bool,
        typer.Option(
            "--show-ids",
            help="Name rows by their id, which may be a patient's, in place of their number.",
            rich_help_panel=_SHOWN,
        ),
    ] = False,
    show_text: Annotated[
        bool,
        typer.Option(
            "--show-text",
            help="Show excerpts of CASE TEXT around what was found, in the JSON file too.",
            rich_help_panel=_SHOWN,
        ),
    ] = False,
) -> None:
    """Look for what would damage training, or surprise; changes nothing. docs/data_check.md lists all rules.

    Exit code 0: nothing would damage training; 1: something would; 2: the rows cannot be read.
    """
    from r2d_jax.data.check.run_check import check_rows
    from r2d_jax.data.check.source import check_config_of, file_and_settings, rows_to_check
    from r2d_jax.data.tokenizer import Tokenizer, tokenizer_folder
    from r2d_jax.errors import EXIT_DAMAGING, UserError
    from r2d_jax.evaluation.data_check_report import data_check_json, print_data_check
    from r2d_jax.model.hf_format import locate
    from r2d_jax.runtime.files import write_json
    from r2d_jax.runtime.outputs import require_file

    file, settings = file_and_settings(words or ())
    if file is None and config is None:
        raise UserError("r2d data check", "no rows are named", "Give FILE, or --config.")
    if json_file is not None:
        require_file(
            json_file, "--json", inputs=[pathlib.Path(file) if file else None, config], overwrite=overwrite
        )
    if no_rationales and rationale_column:
        raise UserError(
            "--no-rationales", "cannot be combined with --rationale-column", "Give one of the two."
        )
    columns = {
        "question": question_column,
        "context": context_column,
        "label": label_column,
        "id": id_column,
        "split": split_column,
    }
    rationales = [] if no_rationales else rationale_column
    settled = check_config_of(str(config) if config else None, file, columns, rationales, settings)
    vocabulary = None
    if source := tokenizer or settled.tokenizer.path or settled.model.init:
        # Without a config the tokenizer is that of a model, which must not get a map that the model has not.
        settings_say = config is not None or any(word.startswith("tokenizer") for word in settings)
        vocabulary = Tokenizer.load(
            tokenizer_folder(locate(source)),
            text_map=settled.tokenizer.text_map if settings_say or not tokenizer else None,
        )
    rows, notes = rows_to_check(
        settled,
        file,
        all_rationales=bool(rationale_column),
        show_ids=show_ids,
        progress=_counter("rows read"),
    )
    # Of a file's rows the ids are hidden already.
    result = check_rows(
        rows,
        settled.data,
        vocabulary,
        show_ids=show_ids or file is not None,
        show_text=show_text,
        progress=_counter("rows checked"),
    )
    for note in notes:
        print(f"note: {note}")
    print_data_check(result, console())
    if json_file is not None:
        write_json(json_file, data_check_json(result, vocabulary.fingerprint if vocabulary else None))
        print(f"written: {json_file}")
    if result.damaging:
        raise typer.Exit(EXIT_DAMAGING)
