"""Options that several commands share; in: dataclasses of options, out: commands that take their fields."""

import dataclasses
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console

from r2d_jax.errors import UserError

if TYPE_CHECKING:
    from r2d_jax.llm.client import LlmLimits
    from r2d_jax.llm.endpoint import Endpoint

HOW_PANEL = "How it is asked"
_WHERE, _COST = "Where it is sent", "Limits"

SplitsOption = Annotated[
    str, typer.Option("--split", help="train, validation, test or all, where --input is not given.")
]
_COLUMN = "Column of --input. Default: as in training"
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
EncodingOption = Annotated[str, typer.Option("--encoding", help="Of the text of --input, such as cp1252.")]


def shares_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take whole dataclasses of options; on the command line each field is an option.

    Args:
        command: its parameters are options as typer knows them, or annotated with a dataclass whose fields
            are.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        assert isinstance(kind, type)
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(kind)
        ]

    def expanded(**given: Any) -> None:
        for name, kind in groups.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            given[name] = kind(**{field: given.pop(field) for field in fields})
        command(**given)

    expanded.__doc__ = command.__doc__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How the labelled rows of --input are read."""

    encoding: EncodingOption = "utf-8"
    question_column: Annotated[str | None, typer.Option("--question-column", help=_COLUMN)] = None
    context_column: Annotated[str | None, typer.Option("--context-column", help=_COLUMN)] = None
    label_column: Annotated[str | None, typer.Option("--label-column", help=_COLUMN)] = None
    id_column: Annotated[str | None, typer.Option("--id-column", help=f"{_COLUMN}, else line numbers.")] = (
        None
    )

    @property
    def columns(self) -> dict[str, str | None]:
        """The column names that the user gave, by field."""
        return {
            "question": self.question_column,
            "context": self.context_column,
            "label": self.label_column,
            "id": self.id_column,
        }


@dataclasses.dataclass(frozen=True)
class _WhichRows:
    model: Annotated[
        pathlib.Path | None,
        typer.Option("--model", help="A run's workdir: its own split, columns and labels."),
    ] = None
    input: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--input", help="Labelled rows (JSONL, JSON, CSV, TSV or Parquet) in place of the split."
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class RowOptions(InputOptions, _WhichRows):
    """Which labelled rows, and how they are read."""


@dataclasses.dataclass(frozen=True)
class LlmOptions:
    """Where questions are sent, how they are asked, and what they may cost."""

    base_url: Annotated[
        str,
        typer.Option(
            "--base-url",
            help="Needed to ask an LLM: address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1. "
            "CASE TEXT IS SENT THERE; taking names out of it is your duty.",
            show_default=False,
            rich_help_panel=_WHERE,
        ),
    ] = ""
    llm: Annotated[
        str,
        typer.Option(
            "--llm",
            help="Needed to ask an LLM: name of the model at that endpoint.",
            show_default=False,
            rich_help_panel=_WHERE,
        ),
    ] = ""
    api_key_env: Annotated[
        str,
        typer.Option("--api-key-env", help="Environment variable with the API key.", rich_help_panel=_WHERE),
    ] = "OPENAI_API_KEY"
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http", help="Allow an unencrypted connection to another machine.", rich_help_panel=_WHERE
        ),
    ] = False
    environment_proxy: Annotated[
        bool,
        typer.Option(
            "--environment-proxy",
            help="Use HTTPS_PROXY and SSL_CERT_FILE of the environment; otherwise the connection is direct.",
            rich_help_panel=_WHERE,
        ),
    ] = False
    json_mode: Annotated[
        bool,
        typer.Option(
            "--json-mode", help="Ask the endpoint itself to keep to JSON.", rich_help_panel=HOW_PANEL
        ),
    ] = False
    reasoning_model: Annotated[
        bool,
        typer.Option(
            "--reasoning-model",
            help="For models that refuse temperature and max_tokens.",
            rich_help_panel=HOW_PANEL,
        ),
    ] = False
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", help="0: the likeliest answer.", min=0, max=10, rich_help_panel=HOW_PANEL
        ),
    ] = 0.0
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be sent, how much and where; send nothing.",
            rich_help_panel=_COST,
        ),
    ] = False
    show_prompt: Annotated[
        bool,
        typer.Option(
            "--show-prompt",
            help="With --dry-run: print the whole prompt of one row, WITH ITS CASE TEXT.",
            rich_help_panel=_COST,
        ),
    ] = False
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", help="Only the first rows.", min=1, rich_help_panel=_COST)
    ] = None
    max_requests: Annotated[
        int | None,
        typer.Option(
            "--max-requests",
            help="Maximum number of requests of this command, retries included.",
            min=1,
            rich_help_panel=_COST,
        ),
    ] = None
    max_tokens_total: Annotated[
        int | None,
        typer.Option(
            "--max-tokens-total",
            help="Maximum number of tokens of this command, prompts and answers.",
            min=1,
            rich_help_panel=_COST,
        ),
    ] = None
    max_answer_tokens: Annotated[
        int, typer.Option("--max-answer-tokens", help="Longest answer.", min=1, rich_help_panel=_COST)
    ] = 1024
    max_attempts: Annotated[
        int,
        typer.Option(
            "--max-attempts",
            help="Requests per answer when the endpoint fails, the first included.",
            min=1,
            rich_help_panel=_COST,
        ),
    ] = 5
    max_reasks: Annotated[
        int,
        typer.Option(
            "--max-reasks",
            help="How often a row is asked again after an unusable answer.",
            min=0,
            rich_help_panel=_COST,
        ),
    ] = 2
    timeout_secs: Annotated[
        float,
        typer.Option(
            "--timeout-secs",
            help="Longest wait for the whole answer to a request.",
            min=0.1,
            max=86_400,
            rich_help_panel=_COST,
        ),
    ] = 120.0

    def endpoint(self) -> "Endpoint":
        """The endpoint, checked; sends nothing.

        Raises:
            UserError: no usable address, or options that do not go together.
        """
        from r2d_jax.llm.endpoint import Endpoint

        if self.show_prompt and not self.dry_run:
            raise UserError("--show-prompt", "goes with --dry-run only", "Add --dry-run, or leave it out.")
        endpoint = Endpoint(
            base_url=self.base_url,
            llm=self.llm,
            key_variable=self.api_key_env,
            temperature=self.temperature,
            max_answer_tokens=self.max_answer_tokens,
            json_mode=self.json_mode,
            reasoning_model=self.reasoning_model,
            timeout_secs=self.timeout_secs,
            max_attempts=self.max_attempts,
            allow_http=self.allow_http,
            environment_proxy=self.environment_proxy,
        )
        endpoint.check()
        return endpoint

    def limits(self) -> "LlmLimits":
        """How much the command may send at most."""
        from r2d_jax.llm.client import LlmLimits

        return LlmLimits(self.max_requests, self.max_tokens_total)


def console(*, quiet: bool = False) -> Console:
    """Where commands print; lines are broken only for a person's terminal."""
    return Console(soft_wrap=not sys.stdout.isatty(), quiet=quiet)
