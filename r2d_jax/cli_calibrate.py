"""The command `r2d calibrate`; in: arguments, out: calibration.json in a model's folder."""

import pathlib
from typing import Annotated

import typer

from r2d_jax.cli_options import InputOptions, OverwriteOption, shares_options


@shares_options
def calibrate(
    model: Annotated[
        pathlib.Path,
        typer.Option("--model", help="A run's workdir, an exported or an imported folder; it gets the file."),
    ],
    input: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--input",
            help="Labelled rows (JSONL, JSON, CSV, TSV or Parquet) that the model was not trained on. Default: "
            "validation rows of the run.",
        ),
    ] = None,
    *,
    form: InputOptions,
    target_risk: Annotated[
        float | None,
        typer.Option(
            "--target-risk",
            help="Largest share of wrong labels among those given; the others are marked as abstained. Default: that "
            "of the calibration that is replaced, if any.",
            min=1e-6,
            max=1 - 1e-6,
        ),
    ] = None,
    no_target_risk: Annotated[
        bool, typer.Option("--no-target-risk", help="Mark no label as abstained from now on.")
    ] = False,
    risk_confidence: Annotated[
        float | None,
        typer.Option(
            "--risk-confidence",
            help="Confidence that --target-risk also holds on new rows. Default: 0.95, or that of the calibration "
            "that is replaced.",
            min=0.5,
            max=0.999999,
        ),
    ] = None,
    empirical: Annotated[
        bool,
        typer.Option("--empirical", help="Let --target-risk hold on these rows, without any confidence."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Rows computed at once.", min=1, max=65_536)
    ] = 64,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit the temperature of a model's probabilities and choose when it abstains; see docs/probabilities.md."""
    from r2d_jax.evaluation.calibrate import told
    from r2d_jax.evaluation.calibrate_model import calibrate_model, earlier_told, settled_aim

    aim = settled_aim(model, target_risk, risk_confidence, empirical=empirical, without_target=no_target_risk)
    calibration, path = calibrate_model(
        model,
        input_file=input,
        columns=form.columns,
        encoding=form.encoding,
        batch_size=batch_size,
        target_risk=aim.target_risk,
        risk_confidence=aim.risk_confidence,
        overwrite=overwrite,
    )
    print(told(calibration))
    print(f"written: {path}")
    if note := earlier_told(path.parent):
        print(f"note: {note}")


def register(app: typer.Typer) -> None:
    """Add the command to the `r2d` command."""
    app.command(name="calibrate")(calibrate)
