"""The commands `r2d judge` and `r2d zero-shot`; in: arguments, out: an LLM asked about rows, and files of scores."""

import pathlib
from typing import Annotated

import typer

from r2d_jax.cli_options import (
    HOW_PANEL,
    LlmOptions,
    OverwriteOption,
    RowOptions,
    console,
    shares_options,
)
from r2d_jax.runtime.outputs import require_folder
from r2d_jax.runtime.run_files import EVALUATION_FILES, JUDGE_RESULT, JUDGEMENTS, PREDICTIONS

SplitOption = Annotated[str, typer.Option("--split", help="test or validation, where --input is not given.")]
OutputOption = Annotated[
    pathlib.Path, typer.Option("--output", help="Folder for the results and the cache of paid answers.")
]


@shares_options
def judge(
    predictions: Annotated[
        pathlib.Path, typer.Option("--predictions", help="predictions.jsonl of r2d eval, run or zero-shot.")
    ],
    output: OutputOption,
    which: RowOptions,
    asking: LlmOptions,
    split: SplitOption = "test",
    keep_justifications: Annotated[
        bool,
        typer.Option(
            "--keep-justifications",
            help="Write the judge's short reasons too; they may repeat CASE TEXT.",
            rich_help_panel=HOW_PANEL,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Let an LLM grade the rationales of predictions, 1 to 5 on four criteria.

    Sends input, labels and rationale of each row to --base-url, and to nowhere else; see docs/llm.md. A
    stopped command goes on where it stopped, and pays for no answer twice. Results of other predictions, settings
    or LLMs are replaced with --overwrite only.
    """
    endpoint = asking.endpoint()
    require_folder(output, (JUDGEMENTS, JUDGE_RESULT), inputs=(predictions, which.input))
    from r2d_jax.evaluation import judge as judging
    from r2d_jax.evaluation.labelled_rows import labelled_rows
    from r2d_jax.llm.job import LlmJob
    from r2d_jax.llm.standing_results import require_same_questions

    rows = labelled_rows(
        which.model,
        which.input,
        split=split,
        columns=which.columns,
        encoding=which.encoding,
        with_rationales=False,
    )
    judged = judging.read_predictions(predictions, rows.examples)[: asking.max_rows]
    question = judging.judge_question(keep_justifications=keep_justifications)
    cases = judging.judge_cases(rows.examples, judged)
    cache = output / "judge_answers.jsonl"
    job = LlmJob("judge", endpoint, asking.limits(), cache, asking.max_reasks, console())
    if asking.dry_run:
        return job.dry_run(question, cases, show_prompt=asking.show_prompt)
    asked = judging.asked_of(judged, job.hashes(question, cases))
    require_same_questions(output / JUDGEMENTS, cache, asked, overwrite=overwrite)
    answers = job.ask(question, cases)
    result = judging.write_judgements(output, judged, asked, answers, endpoint, predictions)
    judging.print_judgements(result, job.console)
    print(f"written: {output / 'judgements.jsonl'}, {output / 'judge.json'}")


@shares_options
def zero_shot(
    output: OutputOption,
    which: RowOptions,
    asking: LlmOptions,
    split: SplitOption = "test",
    rationale_column: Annotated[
        str | None, typer.Option("--rationale-column", help="Column of --input.")
    ] = None,
    rationale: Annotated[
        bool, typer.Option(help="Ask for a rationale too.", rich_help_panel=HOW_PANEL)
    ] = True,
    task: Annotated[
        str,
        typer.Option("--task", help="What the labels mean, in your words.", rich_help_panel=HOW_PANEL),
    ] = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Let an LLM without training predict label and rationale, and score it as `r2d eval` scores a model.

    Sends the input of each row and the label set to --base-url, and to nowhere else; see docs/llm.md. Gold
    labels and gold rationales are not sent. A stopped command goes on where it stopped. Results of other rows,
    settings or LLMs are replaced with --overwrite only.
    """
    endpoint = asking.endpoint()
    require_folder(output, EVALUATION_FILES, inputs=[which.input])
    from r2d_jax.evaluation import zero_shot as guessing
    from r2d_jax.evaluation.labelled_rows import labelled_rows
    from r2d_jax.evaluation.report import print_results
    from r2d_jax.evaluation.scoring import require_scorer
    from r2d_jax.llm.endpoint import whole_option
    from r2d_jax.llm.job import LlmJob
    from r2d_jax.llm.standing_results import require_same_questions

    whole_option("--task", task)
    cache = output / "zero_shot_answers.jsonl"
    job = LlmJob("zero-shot", endpoint, asking.limits(), cache, asking.max_reasks, console())
    columns = which.columns | {"rationale": rationale_column}
    rows = labelled_rows(
        which.model,
        which.input,
        split=split,
        columns=columns,
        encoding=which.encoding,
        with_rationales=rationale,
    )
    rows = rows.first(asking.max_rows)
    question = guessing.zero_shot_question(rows.labels, rationale=rationale, task=task)
    cases = [guessing.zero_shot_case(example, rows.labels) for example in rows.examples]
    if asking.dry_run:
        return job.dry_run(question, cases, show_prompt=asking.show_prompt)
    hashes = job.hashes(question, cases)
    asked = [(example.row_id, one) for example, one in zip(rows.examples, hashes, strict=True)]
    require_same_questions(output / PREDICTIONS, cache, asked, overwrite=overwrite)
    # Before anything is paid for.
    require_scorer(rows.evaluation.bertscore if rationale and rows.source else None)
    answers = job.ask(question, cases)
    metrics = guessing.write_zero_shot(output, rows, answers, hashes, endpoint, question, rationale=rationale)
    print_results(metrics, job.console)
    if failures := metrics["zero_shot"]["failures"]:
        counts = ", ".join(f"{count} {fault}" for fault, count in failures.items())
        job.say(f"rows without a usable answer, each counted as wrong: {counts}")
    print(f"written: {output / 'predictions.jsonl'}, {output / 'metrics.json'}")


def register(app: typer.Typer) -> None:
    """Add both commands to the `r2d` command."""
    app.command(name="judge")(judge)
    app.command(name="zero-shot")(zero_shot)
