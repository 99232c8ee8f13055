"""The commands `r2d judge` and `r2d zero-shot`; in: arguments, out: an LLM asked about rows, and files of scores."""

import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from r2d_jax.errors import UserError

if TYPE_CHECKING:
    from r2d_jax.evaluation.llm_endpoint import Endpoint

_WHERE, _HOW, _COST = "Where it is sent", "How it is asked", "Limits"

ModelOption = Annotated[
    pathlib.Path | None, typer.Option("--model", help="A run's workdir: its own split, columns and labels.")
]
InputOption = Annotated[
    pathlib.Path | None, typer.Option("--input", help="Labelled rows (JSONL or CSV) in place of the split.")
]
SplitOption = Annotated[str, typer.Option("--split", help="test or validation, where --input is not given.")]
OutputOption = Annotated[
    pathlib.Path, typer.Option("--output", help="Folder for the results and the cache of paid answers.")
]
QuestionColumn = Annotated[str | None, typer.Option("--question-column", help="Column of --input.")]
ContextColumn = Annotated[str | None, typer.Option("--context-column", help="Column of --input.")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column of --input.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column of --input; else line numbers.")]
BaseUrl = Annotated[
    str,
    typer.Option(
        "--base-url",
        help="Required. Address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1. CASE TEXT "
        "IS SENT THERE.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
]
LlmName = Annotated[
    str,
    typer.Option(
        "--llm",
        help="Required. Name of the model at that endpoint.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
]
KeyVariable = Annotated[
    str,
    typer.Option("--api-key-env", help="Environment variable with the API key.", rich_help_panel=_WHERE),
]
AllowHttp = Annotated[
    bool,
    typer.Option(
        "--allow-http", help="Send unencrypted to another machine than this.", rich_help_panel=_WHERE
    ),
]
EnvironmentProxy = Annotated[
    bool,
    typer.Option(
        "--environment-proxy",
        help="Use HTTPS_PROXY and SSL_CERT_FILE of the environment; else the connection is direct.",
        rich_help_panel=_WHERE,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be sent, how much and where; send nothing.", rich_help_panel=_COST
    ),
]
ShowPrompt = Annotated[
    bool,
    typer.Option(
        "--show-prompt",
        help="With --dry-run: print the whole prompt of one row, WITH ITS CASE TEXT.",
        rich_help_panel=_COST,
    ),
]
MaxRows = Annotated[
    int | None, typer.Option("--max-rows", help="Only the first rows.", min=1, rich_help_panel=_COST)
]
MaxRequests = Annotated[
    int | None,
    typer.Option(
        "--max-requests",
        help="Most requests of this command, retries included.",
        min=1,
        rich_help_panel=_COST,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens-total",
        help="Most tokens of this command, prompts and answers.",
        min=1,
        rich_help_panel=_COST,
    ),
]
MaxAnswer = Annotated[
    int,
    typer.Option("--max-answer-tokens", help="Longest answer.", min=1, rich_help_panel=_COST),
]
MaxAttempts = Annotated[
    int,
    typer.Option(
        "--max-attempts",
        help="Requests per answer when the endpoint fails, the first included.",
        min=1,
        rich_help_panel=_COST,
    ),
]
MaxReasks = Annotated[
    int,
    typer.Option(
        "--max-reasks",
        help="How often a row is asked again after an unusable answer.",
        min=0,
        rich_help_panel=_COST,
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout-secs", help="Longest wait for an answer.", min=0.1, rich_help_panel=_COST),
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="0: the likeliest answer.", min=0, rich_help_panel=_HOW)
]
JsonMode = Annotated[
    bool,
    typer.Option("--json-mode", help="Ask the endpoint itself to keep to JSON.", rich_help_panel=_HOW),
]
ReasoningModel = Annotated[
    bool,
    typer.Option(
        "--reasoning-model",
        help="For models that refuse temperature and max_tokens.",
        rich_help_panel=_HOW,
    ),
]


def _require_folder(folder: pathlib.Path, written: tuple[str, ...], *inputs: pathlib.Path | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(str(folder), "is a file, not a folder", "Name the folder to write to.")
    for name in written:
        if any(path and path.absolute() == (folder / name).absolute() for path in inputs):
            raise UserError(str(folder / name), "is an input, and would be written over", _ANOTHER_FOLDER)


_ANOTHER_FOLDER = "Choose another --output; nothing was changed."


def _checked_endpoint(dry_run: bool, show_prompt: bool, **settings: Any) -> "Endpoint":
    from r2d_jax.evaluation.llm_endpoint import Endpoint

    if show_prompt and not dry_run:
        raise UserError("--show-prompt", "goes with --dry-run only", "Add --dry-run, or leave it out.")
    endpoint = Endpoint(**settings)
    endpoint.check()
    return endpoint


def _console() -> Console:
    return Console(soft_wrap=not sys.stdout.isatty())


def judge(
    predictions: Annotated[
        pathlib.Path, typer.Option("--predictions", help="predictions.jsonl of r2d eval, run or zero-shot.")
    ],
    output: OutputOption,
    base_url: BaseUrl = "",
    llm: LlmName = "",
    model: ModelOption = None,
    input: InputOption = None,
    split: SplitOption = "test",
    question_column: QuestionColumn = None,
    context_column: ContextColumn = None,
    label_column: LabelColumn = None,
    id_column: IdColumn = None,
    keep_justifications: Annotated[
        bool,
        typer.Option(
            "--keep-justifications",
            help="Write the judge's short reasons too; they may repeat CASE TEXT.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    json_mode: JsonMode = False,
    reasoning_model: ReasoningModel = False,
    temperature: Temperature = 0.0,
    api_key_env: KeyVariable = "OPENAI_API_KEY",
    allow_http: AllowHttp = False,
    environment_proxy: EnvironmentProxy = False,
    dry_run: DryRun = False,
    show_prompt: ShowPrompt = False,
    max_rows: MaxRows = None,
    max_requests: MaxRequests = None,
    max_tokens_total: MaxTokens = None,
    max_answer_tokens: MaxAnswer = 1024,
    max_attempts: MaxAttempts = 5,
    max_reasks: MaxReasks = 2,
    timeout_secs: Timeout = 120.0,
) -> None:
    """Let an LLM grade the rationales of predictions, 1 to 5 on four criteria.

    Sends input, labels and rationale of each row to --base-url, and to nowhere else; see docs/llm.md. A
    stopped command goes on where it stopped, and pays for no answer twice.
    """
    endpoint = _checked_endpoint(
        dry_run,
        show_prompt,
        base_url=base_url,
        llm=llm,
        key_variable=api_key_env,
        temperature=temperature,
        max_answer_tokens=max_answer_tokens,
        json_mode=json_mode,
        reasoning_model=reasoning_model,
        timeout_secs=timeout_secs,
        max_attempts=max_attempts,
        allow_http=allow_http,
        environment_proxy=environment_proxy,
    )
    _require_folder(output, ("judgements.jsonl", "judge.json"), predictions, input)
    from r2d_jax.evaluation import judge as judging
    from r2d_jax.evaluation.llm_client import Limits
    from r2d_jax.evaluation.llm_job import LlmJob
    from r2d_jax.evaluation.llm_rows import labelled_rows

    columns = {
        "question": question_column,
        "context": context_column,
        "label": label_column,
        "id": id_column,
    }
    rows = labelled_rows(model, input, split=split, columns=columns, with_rationales=False)
    judged = judging.read_predictions(predictions, rows.examples)[:max_rows]
    question = judging.judge_question(keep_justifications=keep_justifications)
    cases = judging.judge_cases(rows.examples, judged)
    limits = Limits(max_requests, max_tokens_total)
    job = LlmJob("judge", endpoint, limits, output, max_reasks, _console())
    if dry_run:
        return job.dry_run(question, cases, show_prompt=show_prompt)
    answers = job.ask(question, cases)
    result = judging.write_judgements(output, judged, answers, endpoint, predictions)
    judging.print_judgements(result, job.console)
    print(f"written: {output / 'judgements.jsonl'}, {output / 'judge.json'}")


def zero_shot(
    output: OutputOption,
    base_url: BaseUrl = "",
    llm: LlmName = "",
    model: ModelOption = None,
    input: InputOption = None,
    split: SplitOption = "test",
    question_column: QuestionColumn = None,
    context_column: ContextColumn = None,
    label_column: LabelColumn = None,
    rationale_column: Annotated[
        str | None, typer.Option("--rationale-column", help="Column of --input.")
    ] = None,
    id_column: IdColumn = None,
    rationale: Annotated[bool, typer.Option(help="Ask for a rationale too.", rich_help_panel=_HOW)] = True,
    task: Annotated[
        str,
        typer.Option("--task", help="What the labels mean, in your words.", rich_help_panel=_HOW),
    ] = "",
    json_mode: JsonMode = False,
    reasoning_model: ReasoningModel = False,
    temperature: Temperature = 0.0,
    api_key_env: KeyVariable = "OPENAI_API_KEY",
    allow_http: AllowHttp = False,
    environment_proxy: EnvironmentProxy = False,
    dry_run: DryRun = False,
    show_prompt: ShowPrompt = False,
    max_rows: MaxRows = None,
    max_requests: MaxRequests = None,
    max_tokens_total: MaxTokens = None,
    max_answer_tokens: MaxAnswer = 1024,
    max_attempts: MaxAttempts = 5,
    max_reasks: MaxReasks = 2,
    timeout_secs: Timeout = 120.0,
) -> None:
    """Let an LLM without training predict label and rationale, and score it as `r2d eval` scores a model.

    Sends the input of each row and the label set to --base-url, and to nowhere else; see docs/llm.md. Gold
    labels and gold rationales are not sent. A stopped command goes on where it stopped.
    """
    endpoint = _checked_endpoint(
        dry_run,
        show_prompt,
        base_url=base_url,
        llm=llm,
        key_variable=api_key_env,
        temperature=temperature,
        max_answer_tokens=max_answer_tokens,
        json_mode=json_mode,
        reasoning_model=reasoning_model,
        timeout_secs=timeout_secs,
        max_attempts=max_attempts,
        allow_http=allow_http,
        environment_proxy=environment_proxy,
    )
    _require_folder(output, ("predictions.jsonl", "row_scores.jsonl", "metrics.json"), input)
    from r2d_jax.evaluation import zero_shot as asking
    from r2d_jax.evaluation.llm_client import Limits
    from r2d_jax.evaluation.llm_job import LlmJob
    from r2d_jax.evaluation.llm_rows import labelled_rows
    from r2d_jax.evaluation.report import print_results

    limits = Limits(max_requests, max_tokens_total)
    job = LlmJob("zero-shot", endpoint, limits, output, max_reasks, _console())
    if (output / "predictions.jsonl").exists() and not job.cache_file.exists():
        raise UserError(
            str(output / "predictions.jsonl"), "is there and not of this command", _ANOTHER_FOLDER
        )
    columns = {
        "question": question_column,
        "context": context_column,
        "label": label_column,
        "id": id_column,
        "rationale": rationale_column,
    }
    rows = labelled_rows(model, input, split=split, columns=columns, with_rationales=rationale)
    rows = rows.first(max_rows)
    question = asking.zero_shot_question(rows.labels, rationale=rationale, task=task)
    cases = [asking.zero_shot_case(example, rows.labels) for example in rows.examples]
    if dry_run:
        return job.dry_run(question, cases, show_prompt=show_prompt)
    answers = job.ask(question, cases)
    metrics = asking.write_zero_shot(output, rows, answers, endpoint, question, rationale=rationale)
    print_results(metrics, job.console)
    if failures := metrics["zero_shot"]["failures"]:
        counts = ", ".join(f"{count} {fault}" for fault, count in failures.items())
        job.say(f"rows without a usable answer, each counted as wrong: {counts}")
    print(f"written: {output / 'predictions.jsonl'}, {output / 'metrics.json'}")


def register(app: typer.Typer) -> None:
    """Add both commands to the `r2d` command."""
    app.command(name="judge")(judge)
    app.command(name="zero-shot")(zero_shot)
