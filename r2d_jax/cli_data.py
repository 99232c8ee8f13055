"""The commands `r2d data ...`; in: arguments, out: rows looked at, converted or written, without training."""

import typer

data_app = typer.Typer(
    name="data",
    help="Look at rows, convert data sets and write prepared files; nothing is trained.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Add the group to the `r2d` command."""
    app.add_typer(data_app)
