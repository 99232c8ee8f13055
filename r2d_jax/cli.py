"""The `r2d` command; in: arguments, out: the work done and an exit code (0 done, 2 user's mistake, 75 stopped)."""

import pathlib
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from r2d_jax import __version__, cli_calibrate, cli_data, cli_hub, cli_llm, cli_rationales, cli_serve
from r2d_jax.cli_options import EncodingOption, InputOptions, OverwriteOption, console, shares_options
from r2d_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, Preempted, UserError
from r2d_jax.runtime.damaged_programs import explained
from r2d_jax.runtime.library_noise import quiet_libraries

app = typer.Typer(
    name="r2d",
    help="Reason2Decide in JAX: fine-tune one T5 that predicts a label and explains it.\n\n"
    "Start with `r2d run --config configs/quickstart.yaml --workdir runs/quickstart`.\n\n"
    "To go on after a stop, repeat the same command unchanged, without --overwrite. Existing results are "
    "replaced only with --overwrite.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ConfigOption = Annotated[
    pathlib.Path, typer.Option("--config", help="YAML file of the run; see configs/.", show_default=False)
]
WorkdirOption = Annotated[
    pathlib.Path,
    typer.Option("--workdir", help="Folder of the run; holds everything that it writes.", show_default=False),
]
ModelOption = Annotated[
    pathlib.Path,
    typer.Option("--model", help="A run's workdir (its best checkpoint), an exported or an imported folder."),
]
LabelDecodeOption = Annotated[
    str | None,
    typer.Option(
        "--label-decode",
        help="free: whatever text comes out. constrained: labels of the model's set only. Default: as in training.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, for example stage2.max_steps=500."),
]


Distributed = Annotated[
    str,
    typer.Option(
        envvar="R2D_DISTRIBUTED",
        help="off: this process alone. auto: all processes of a TPU pod, GKE, Slurm or MPI job. "
        "HOST:PORT,PROCESSES,INDEX: address of process 0, how many there are, which this is.",
    ),
]
StartTimeout = Annotated[
    int, typer.Option(help="Seconds to wait for the other processes.", min=1, max=86_400)
]


def _joined(distributed: str, timeout_secs: int, *, deterministic: bool = False) -> Console:
    """Join the other processes; the console of all but the first is quiet."""
    from r2d_jax.runtime.devices import request_deterministic_gpu_ops
    from r2d_jax.runtime.distributed import is_writer, start

    if deterministic:
        # Joining may already start the devices.
        request_deterministic_gpu_ops()
    start(distributed, timeout_secs=timeout_secs)
    return console(quiet=not is_writer())


def _print_version(requested: bool) -> None:
    if requested:
        print(f"r2d_jax {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption,
    workdir: WorkdirOption,
    distributed: Distributed = "off",
    start_timeout: StartTimeout = 300,
    overrides: Overrides = None,
) -> None:
    """Do the main job: stage 1, stage 2, test-set evaluation, predictions, Hugging Face folder.

    The same command goes on where a stopped run stopped, and does nothing on a finished one.
    """
    from r2d_jax.config_file import load_config
    from r2d_jax.training import run as job

    settings = load_config(config, overrides or ())
    job.run(settings, workdir, _joined(distributed, start_timeout, deterministic=settings.deterministic))


@app.command()
def train(
    config: ConfigOption,
    workdir: WorkdirOption,
    stage: Annotated[int, typer.Option(help="1: rationales; 2: label and rationale.", min=1, max=2)],
    distributed: Distributed = "off",
    start_timeout: StartTimeout = 300,
    overrides: Overrides = None,
) -> None:
    """Train one stage; stage 2 starts from the best checkpoint of stage 1 in the same workdir."""
    from r2d_jax.config_file import load_config
    from r2d_jax.training import run as job

    settings = load_config(config, overrides or ())
    joined = _joined(distributed, start_timeout, deterministic=settings.deterministic)
    job.train_stage(settings, workdir, stage, joined)


@app.command()
def compare(
    config: Annotated[
        pathlib.Path, typer.Option("--config", help="Comparison file; see configs/compare_triage.yaml.")
    ],
    workdir: Annotated[
        pathlib.Path, typer.Option("--workdir", help="Folder of the comparison; holds a folder for each run.")
    ],
    only: Annotated[
        list[str] | None, typer.Option(help="Train and compare this method only; may be given several times.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train methods x rationale sources x seeds and write one table; skips runs that are finished.

    The table, comparison.md, is rewritten each time; with --only it is comparison-only.md, and the full table stays.
    """
    from r2d_jax.training.compare import run_comparison

    run_comparison(config, workdir, console(), only=only or (), overrides=overrides or ())


@app.command(name="eval")
@shares_options
def evaluate(
    model: ModelOption,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for predictions.jsonl and metrics.json.")],
    input: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Labelled rows (JSONL, JSON, CSV, TSV or Parquet). Default: the test split of the run in --model."
        ),
    ] = None,
    *,
    form: InputOptions,
    rationale_column: Annotated[str | None, typer.Option(help="Column of --input.")] = None,
    split: Annotated[str, typer.Option(help="test or validation, where --input is not given.")] = "test",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows decoded at once. Default: evaluation.batch_size of the run.", min=1, max=65_536
        ),
    ] = None,
    checks: Annotated[
        bool | None,
        typer.Option(
            "--checks/--no-checks",
            help="Feed rationales back and write them under other labels. Default: evaluation.rationale_checks "
            "of the run.",
        ),
    ] = None,
    bertscore: Annotated[
        str | None, typer.Option(help="Hub name or folder of a model to compute BERTScore with.")
    ] = None,
    bertscore_layers: Annotated[
        int | None, typer.Option(help="Its layer to use, where bert-score does not know it.", min=1)
    ] = None,
    label_decode: LabelDecodeOption = None,
    overwrite: OverwriteOption = False,
    distributed: Distributed = "off",
    start_timeout: StartTimeout = 300,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of evaluation and subgroups, such as evaluation.resamples=0; with --input "
            "data.missing_rationales=keep, too.",
        ),
    ] = None,
) -> None:
    """Predict labelled rows and score them; prints the table of results.

    After a stop, the same command starts the evaluation again; a finished one is replaced only with --overwrite.
    """
    from r2d_jax.config import BertScoreConfig
    from r2d_jax.evaluation.apply import evaluate_model
    from r2d_jax.evaluation.report import print_results
    from r2d_jax.runtime.reporting import say

    given = {"batch_size": batch_size, "rationale_checks": checks}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if bertscore is not None:
        settings["bertscore"] = BertScoreConfig(bertscore, bertscore_layers)
    console = _joined(distributed, start_timeout)
    metrics = evaluate_model(
        model,
        output,
        input_file=input,
        columns=form.columns | {"rationale": rationale_column},
        encoding=form.encoding,
        split=split,
        settings=settings,
        label_decode=label_decode,
        overwrite=overwrite,
        overrides=overrides or (),
    )
    print_results(metrics, console)
    say(console, f"written: {output / 'predictions.jsonl'}, {output / 'metrics.json'}")


@app.command()
def predict(
    model: ModelOption,
    input: Annotated[
        pathlib.Path,
        typer.Option(help="Rows to predict (JSONL, JSON, CSV, TSV or Parquet); labels are not needed."),
    ],
    output: Annotated[pathlib.Path, typer.Option(help="JSONL file to write: label, confidence, rationale.")],
    question_column: Annotated[str | None, typer.Option(help="Default: as in training.")] = None,
    context_column: Annotated[str | None, typer.Option(help="Default: as in training.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Default: as in training, else line numbers.")] = None,
    encoding: EncodingOption = "utf-8",
    batch_size: Annotated[int, typer.Option(help="Rows decoded at once.", min=1, max=65_536)] = 64,
    label_decode: LabelDecodeOption = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of every label, too.")
    ] = False,
    overwrite: OverwriteOption = False,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="What mistakes cost, evaluation.triage={...}: writes the label of least expected cost, too. "
            "Default: as in training.",
        ),
    ] = None,
) -> None:
    """Predict a label and a rationale for each row of a file."""
    from r2d_jax.evaluation.apply import predict_file

    columns = {"question": question_column, "context": context_column, "id": id_column}
    predicted, without = predict_file(
        model,
        input,
        output,
        columns={k: v for k, v in columns.items() if v is not None},
        encoding=encoding,
        batch_size=batch_size,
        label_decode=label_decode,
        probabilities=probabilities,
        overwrite=overwrite,
        overrides=overrides or (),
    )
    rest = (
        "row without a question is marked and has"
        if without == 1
        else "rows without a question are marked and have"
    )
    marked = f"; {without} {rest} none" if without else ""
    print(f"{predicted} prediction{'' if predicted == 1 else 's'} written to {output}{marked}")


cli_hub.register(app)


@app.command(name="compile")
def compile_for(
    config: ConfigOption,
    topology: Annotated[str, typer.Option(help="TPU slice, such as v5e:2x4, v5e:16x16 or v5p:4x4x4.")],
    utilisation: Annotated[
        float, typer.Option(help="Share of the chip's peak for the estimate of step times.")
    ] = 0.4,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Print every weight with its layout and bytes per chip.")
    ] = False,
    output: Annotated[pathlib.Path | None, typer.Option(help="JSON file for the figures.")] = None,
    overwrite: OverwriteOption = False,
    overrides: Overrides = None,
) -> None:
    """Compile a run's steps for a TPU slice without having one: memory, work and traffic per chip.

    Needs libtpu (the extra [tpu] of setup.cfg) and no TPU. Arrays are as wide as the config's limits allow.
    """
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"
    from r2d_jax.config_file import load_config
    from r2d_jax.training.topology_report import compile_report

    compile_report(
        load_config(config, overrides or ()),
        topology,
        console(),
        utilisation=utilisation,
        parameters=parameters,
        output=output,
        overwrite=overwrite,
    )


cli_calibrate.register(app)
cli_data.register(app)
cli_llm.register(app)
cli_rationales.register(app)
cli_serve.register(app)


@app.command()
def doctor(
    platform: Annotated[str, typer.Option(help="Platform that must be found: any, cpu, gpu or tpu.")] = "any",
) -> None:
    """Show versions, extras, devices and settings of this machine; put it into a bug report."""
    from r2d_jax.runtime.devices import check_platform
    from r2d_jax.runtime.doctor import examine

    for line in examine():
        print(line)
    check_platform(platform)


@app.command()
def report(
    runs: Annotated[
        list[pathlib.Path], typer.Argument(metavar="RUN...", help="Workdirs of runs, or of a comparison.")
    ],
    output: Annotated[pathlib.Path, typer.Option(help="HTML file to write.")],
    include_text: Annotated[
        bool, typer.Option("--include-text", help="Include inputs and rationales of the test rows.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write one HTML page about runs: curves, figures, calibration, confusion, and the test cases."""
    from r2d_jax.evaluation.html_report import write_report

    write_report(runs, output, include_text=include_text, overwrite=overwrite)
    print(f"written: {output}")


# By version, typer uses click or its own copy of it; the base of the error that it exports is in either.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def _fail(text: str) -> NoReturn:
    # Paths and messages of libraries may hold line breaks.
    print("error: " + " ".join(text.splitlines()), file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


def main() -> None:
    """Entry point; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    warnings.showwarning = _one_line_warning
    quiet_libraries()
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="r2d", standalone_mode=False))
    except UserError as error:
        _fail(str(error))
    except _UsageError as error:
        _fail(_usage(error))
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except OSError as error:
        if error.errno is None:
            raise
        _fail(f"{error.filename or 'file system'}: {error.strerror}. Make room or correct the path.")


def _usage(error: Any) -> str:
    command = error.ctx.command_path if getattr(error, "ctx", None) else "r2d"
    return f"{command}: {error.format_message().rstrip('.')}. See `{command} --help`."


def _one_line_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if category is UserWarning:
        print(f"warning: {explained(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    main()
