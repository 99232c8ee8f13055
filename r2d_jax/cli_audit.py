"""The command `r2d rationales audit`; in: arguments, out: rationales scored by rules, and rows filtered or flagged."""

import pathlib
from typing import Annotated

import typer

from r2d_jax.cli_options import (
    LlmOptions,
    OverwriteOption,
    RowOptions,
    SplitsOption,
    console,
    shares_options,
)
from r2d_jax.errors import UserError
from r2d_jax.runtime.outputs import require_distinct, require_file, require_folder

_PASS = "What passes"


@shares_options
def audit(
    output: Annotated[pathlib.Path, typer.Option("--output", help="Folder for audit.jsonl and audit.json.")],
    which: RowOptions,
    asking: LlmOptions,
    split: SplitsOption = "all",
    rationale_column: Annotated[
        str | None, typer.Option("--rationale-column", help="Column with the rationales.")
    ] = None,
    filter: Annotated[
        pathlib.Path | None, typer.Option("--filter", help="JSONL file for the rows that pass.")
    ] = None,
    flag: Annotated[
        pathlib.Path | None,
        typer.Option("--flag", help="JSONL file for all rows, with a column of reasons, COLUMN_audit."),
    ] = None,
    overwrite: OverwriteOption = False,
    agreement: Annotated[
        str,
        typer.Option(
            "--agreement",
            help="Labels that may be named. any; no-other: not another one alone; gold: its own; only-gold: its "
            "own and no other.",
            rich_help_panel=_PASS,
        ),
    ] = "no-other",
    min_grounded: Annotated[
        float,
        typer.Option(
            help="Minimum share of numbers and content words that are in the input.",
            min=0,
            max=1,
            rich_help_panel=_PASS,
        ),
    ] = 0.0,
    max_unsupported_numbers: Annotated[
        int,
        typer.Option(
            help="Maximum number of numbers that are not in the input.", min=0, rich_help_panel=_PASS
        ),
    ] = 2,
    min_words: Annotated[
        int, typer.Option(help="Minimum number of words.", min=0, rich_help_panel=_PASS)
    ] = 1,
    max_words: Annotated[
        int | None,
        typer.Option(help="Maximum number of words; no limit by default.", min=1, rich_help_panel=_PASS),
    ] = None,
    max_copied: Annotated[
        float,
        typer.Option(
            help="Maximum share of words copied from the input in runs of 5 or more.",
            min=0,
            max=1,
            rich_help_panel=_PASS,
        ),
    ] = 0.9,
    min_judge_score: Annotated[
        int,
        typer.Option(
            help="With --judge: minimum score for correctness, alignment and grounding.",
            min=1,
            max=5,
            rich_help_panel=_PASS,
        ),
    ] = 3,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="Ask an LLM too (the question of `r2d judge`); needs --base-url."),
    ] = False,
) -> None:
    """Score each rationale: labels that it names, how much of it is in the input, length, copying.

    By rules alone, without any network, unless --judge and --base-url are given. Words are found, not
    understood: see docs/rationales.md for what the rules cannot see. audit.jsonl holds ids and figures.
    """
    from r2d_jax.rationales.audit import Thresholds, audit_rationales
    from r2d_jax.rationales.audit_report import (
        AUDIT_ROWS,
        AUDIT_SUMMARY,
        audit_files,
        print_audit,
        require_no_audit,
        summary,
    )
    from r2d_jax.rationales.row_files import read_row_file, write_rows

    if agreement not in ("any", "no-other", "gold", "only-gold"):
        raise UserError("--agreement", f"{agreement!r} is not known", "Use any, no-other, gold or only-gold.")
    if asking.base_url and not judge:
        raise UserError("--base-url", "goes with --judge only", "Add --judge, or leave it out.")
    if asking.dry_run and not judge:
        raise UserError("--dry-run", "goes with --judge only", "The rules send nothing.")
    endpoint = asking.endpoint() if judge else None
    cache = output / "audit_judge_answers.jsonl"
    named = [(option, path) for option, path in (("--filter", filter), ("--flag", flag)) if path is not None]
    replacing = overwrite or asking.dry_run
    require_folder(output, (AUDIT_ROWS, AUDIT_SUMMARY, cache.name), inputs=[which.input])
    require_no_audit(output, overwrite=replacing)
    own = [("--output", output / AUDIT_ROWS), ("--output", output / AUDIT_SUMMARY), ("--output", cache)]
    require_distinct([*own, *named])
    for option, path in named:
        made = path.parent.resolve() == output.resolve()
        require_file(path, option, endings=[".jsonl"], made=made, inputs=[which.input], overwrite=replacing)
    rows = read_row_file(
        which.model, which.input, split=split, columns=which.columns, encoding=which.encoding
    )
    rows = rows.first(asking.max_rows)
    column = rationale_column or rows.rationale_column
    rationales = rows.rationales(column)
    flags = f"{column}_audit"
    if flag is not None:
        rows.require_new(flags)
    if filter is not None or flag is not None:
        rows.require_writable()
    judged = None
    if endpoint is not None:
        from r2d_jax.llm.job import LlmJob
        from r2d_jax.rationales.audit_judge import judge_cases_of, judge_question, scores_of

        job = LlmJob("audit", endpoint, asking.limits(), cache, asking.max_reasks, console())
        question, cases = judge_question(), judge_cases_of(rows.examples, rationales)
        if asking.dry_run:
            return job.dry_run(question, cases, show_prompt=asking.show_prompt)
        judged = scores_of(rationales, job.ask(question, cases))
    thresholds = Thresholds(
        agreement,  # type: ignore[arg-type]
        min_grounded,
        max_unsupported_numbers,
        min_words,
        max_words,
        max_copied,
        min_judge_score,
    )
    audited = audit_rationales(
        rows.examples,
        rationales,
        rows.labels,
        thresholds,
        judged,
        lambda count: print(f"audit: {count}/{len(rationales)} rows"),
    )
    result = summary(audited, thresholds, column)
    pairs = list(zip(rows.rows, audited, strict=True))
    with audit_files(output, audited, result):
        if filter is not None:
            write_rows(filter, [row.cells for row, scored in pairs if not scored.failures])
        if flag is not None:
            write_rows(flag, [{**row.cells, flags: list(scored.failures)} for row, scored in pairs])
    print_audit(result, console())
    written = [output / AUDIT_ROWS, output / AUDIT_SUMMARY, *(path for _, path in named)]
    print(f"written: {', '.join(map(str, written))}")
