"""The commands `r2d rationales ...`; in: arguments, out: rows with LLM or polished rationales, or an audit of them."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from r2d_jax.cli_audit import audit
from r2d_jax.cli_options import (
    HOW_PANEL,
    LlmOptions,
    OverwriteOption,
    RowOptions,
    SplitsOption,
    console,
    shares_options,
)
from r2d_jax.runtime.outputs import require_file

if TYPE_CHECKING:
    from r2d_jax.rationales.provenance import NewRationale

rationales_app = typer.Typer(
    name="rationales",
    help="Write rationales by an LLM, polish human ones, and audit both; see docs/rationales.md.\n\n"
    "`generate` and `polish` send case text to the address that you name by `--base-url`, and nowhere without "
    "it. **De-identifying the texts is your duty: nothing here takes out names, dates or numbers of persons.**",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
RowsOutput = Annotated[
    pathlib.Path,
    typer.Option(
        "--output",
        help="JSONL file for the rows; paid answers are kept beside it, in NAME_COMMAND_answers.jsonl.",
    ),
]
Prompt = Annotated[
    pathlib.Path | None,
    typer.Option("--prompt", help="Text file with your own prompt template.", rich_help_panel=HOW_PANEL),
]


def _cache_of(output: pathlib.Path, command: str) -> pathlib.Path:
    return output.with_name(f"{output.stem}_{command}_answers.jsonl")


def _require_files(output: pathlib.Path, cache: pathlib.Path, *inputs: pathlib.Path | None) -> None:
    require_file(output, endings=[".jsonl"], made=True, inputs=inputs)
    require_file(cache, made=True, inputs=inputs)


@shares_options
def generate(
    output: RowsOutput,
    which: RowOptions,
    asking: LlmOptions,
    split: SplitsOption = "all",
    column: Annotated[str, typer.Option("--column", help="Name of the new column.")] = "rationale_llm",
    prompt: Prompt = None,
    hide_label: Annotated[
        bool,
        typer.Option(
            "--hide-label",
            help="Let the LLM choose the label too; a rationale is kept where it chose the gold one.",
            rich_help_panel=HOW_PANEL,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Let an LLM write a rationale for each labelled row; the output holds the rows with one more column.

    Sends question, context and gold label (not with --hide-label) to --base-url, and to nowhere else.
    **De-identification is your duty.** A stopped command goes on where it stopped, and pays for no answer
    twice. Rows without a usable answer stay in the output with an empty rationale and a status. An output of other
    rows, settings or LLMs is replaced with --overwrite only.
    """
    endpoint = asking.endpoint()
    cache = _cache_of(output, "generate")
    _require_files(output, cache, which.input, prompt)
    from r2d_jax.llm.job import LlmJob
    from r2d_jax.llm.standing_results import require_same_questions
    from r2d_jax.rationales import generate as generating
    from r2d_jax.rationales.prompt_templates import read_template
    from r2d_jax.rationales.provenance import Asked, provenance_column, told_by, with_rationale
    from r2d_jax.rationales.row_files import read_row_file, write_rows

    rows = read_row_file(
        which.model, which.input, split=split, columns=which.columns, encoding=which.encoding
    )
    rows = rows.first(asking.max_rows)
    rows.require_new(column, provenance_column(column))
    rows.require_writable()
    with_context = any(example.context for example in rows.examples)
    allowed, required = generating.generate_places(hide_label=hide_label, with_context=with_context)
    packaged = "generate_hidden_label" if hide_label else "generate"
    template = read_template(prompt, packaged, allowed=allowed, required=required)
    question = generating.generate_question(hide_label=hide_label)
    cases = [
        generating.generate_case(example, rows.labels, template, hide_label=hide_label)
        for example in rows.examples
    ]
    asked = Asked(endpoint, question, template.hash_with(question.instructions))
    job = LlmJob("generate", endpoint, asking.limits(), cache, asking.max_reasks, console())
    if asking.dry_run:
        return job.dry_run(question, cases, show_prompt=asking.show_prompt)
    require_same_questions(
        output, cache, asked.of_rows(rows.rows, cases), overwrite=overwrite, told_by=told_by(column)
    )
    answers = job.ask(question, cases)
    news = [
        generating.new_rationale(example, rows.labels, answer, hide_label=hide_label)
        for example, answer in zip(rows.examples, answers, strict=True)
    ]
    parts = zip(rows.rows, news, cases, answers, strict=True)
    write_rows(
        output,
        [with_rationale(row.cells, column, new, asked, case, answer) for row, new, case, answer in parts],
    )
    _tell(news, column, output)


@shares_options
def polish(
    output: RowsOutput,
    which: RowOptions,
    asking: LlmOptions,
    split: SplitsOption = "all",
    rationale_column: Annotated[
        str | None, typer.Option("--rationale-column", help="Column with the human rationales.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Name of the new column.")] = "rationale_polished",
    prompt: Prompt = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Let an LLM put human rationales into whole sentences; the output holds the rows with one more column.

    Sends the rationale of each row (and what else your own --prompt names) to --base-url, and to nowhere
    else. **De-identification is your duty.** An answer that drops, adds or changes a number or unit, or the
    label that the text names, is refused: the original is kept then, with a status. An output of other rows, settings
    or LLMs is replaced with --overwrite only.
    """
    endpoint = asking.endpoint()
    cache = _cache_of(output, "polish")
    _require_files(output, cache, which.input, prompt)
    from r2d_jax.data.mentions import LabelFinder, is_blank
    from r2d_jax.llm.job import LlmJob
    from r2d_jax.llm.standing_results import require_same_questions
    from r2d_jax.rationales import polish as polishing
    from r2d_jax.rationales.prompt_templates import read_template
    from r2d_jax.rationales.provenance import Asked, provenance_column, told_by, with_rationale
    from r2d_jax.rationales.row_files import read_row_file, write_rows

    rows = read_row_file(
        which.model, which.input, split=split, columns=which.columns, encoding=which.encoding
    )
    rows = rows.first(asking.max_rows)
    rows.require_new(column, provenance_column(column))
    rows.require_writable()
    originals = rows.rationales(rationale_column or rows.rationale_column)
    template = read_template(prompt, "polish", allowed=polishing.PLACES, required=["rationale"])
    question = polishing.polish_question()
    finder = LabelFinder(rows.labels)
    cases = [
        None
        if is_blank(original)
        else polishing.polish_case(template.fill(example, rows.labels, original), original, example, finder)
        for example, original in zip(rows.examples, originals, strict=True)
    ]
    sent = [case for case in cases if case is not None]
    asked = Asked(endpoint, question, template.hash_with(question.instructions))
    job = LlmJob("polish", endpoint, asking.limits(), cache, asking.max_reasks, console())
    if asking.dry_run:
        return job.dry_run(question, sent, show_prompt=asking.show_prompt)
    require_same_questions(
        output, cache, asked.of_rows(rows.rows, cases), overwrite=overwrite, told_by=told_by(column)
    )
    left = iter(job.ask(question, sent))
    answers = [None if case is None else next(left) for case in cases]
    news = [polishing.polished(text, answer) for text, answer in zip(originals, answers, strict=True)]
    parts = zip(rows.rows, news, cases, answers, strict=True)
    write_rows(
        output,
        [with_rationale(row.cells, column, new, asked, case, answer) for row, new, case, answer in parts],
    )
    _tell(news, column, output)


def _tell(news: "list[NewRationale]", column: str, output: pathlib.Path) -> None:
    from r2d_jax.rationales.provenance import status_counts

    empty = sum(not new.text for new in news)
    print(f"status of {len(news)} rows: {status_counts(news)}")
    if empty:
        print(f"{empty} rows have no text in {column}; `r2d rationales audit --filter FILE` leaves them out")
    print(f"written: {output}")


rationales_app.command(name="generate")(generate)
rationales_app.command(name="polish")(polish)
rationales_app.command(name="audit")(audit)


def register(app: typer.Typer) -> None:
    """Add the group to the `r2d` command."""
    app.add_typer(rationales_app)
