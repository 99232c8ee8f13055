"""The command `r2d serve`; in: arguments, out: a local web page and JSON API for a model until it is stopped."""

import pathlib
from typing import Annotated

import typer

from r2d_jax.cli_options import console
from r2d_jax.errors import UserError, how_to_install

_WHO, _LIMITS, _SPEED = "Who reaches it", "Limits", "Speed"
_MEBIBYTE = 2**20


def serve(
    model: Annotated[
        pathlib.Path,
        typer.Option(
            "--model", help="A run's workdir (its best checkpoint), an exported or an imported folder."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine.", rich_help_panel=_WHO)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535, rich_help_panel=_WHO)
    ] = 8000,
    token_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="File with a token that requests must carry. Default: $R2D_SERVE_TOKEN, or none.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which the server is reached; may be given several times. Default: those of this "
            "machine where it listens on loopback, otherwise any.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Maximum number of notes computed at once.", min=1, max=512, rich_help_panel=_SPEED
        ),
    ] = 8,
    widths: Annotated[
        int,
        typer.Option(
            help="Lengths of notes to compile for, each half of the next.",
            min=1,
            max=6,
            rich_help_panel=_SPEED,
        ),
    ] = 3,
    wait_ms: Annotated[
        float,
        typer.Option(
            help="How long a note waits for others to share its batch.",
            min=0,
            max=1000,
            rich_help_panel=_SPEED,
        ),
    ] = 10.0,
    max_note_characters: Annotated[
        int, typer.Option(help="Maximum length of one note.", min=1, max=1_000_000, rich_help_panel=_LIMITS)
    ] = 20_000,
    max_upload_mib: Annotated[
        int, typer.Option(help="Maximum size of one uploaded file.", min=1, max=1024, rich_help_panel=_LIMITS)
    ] = 8,
    max_upload_rows: Annotated[
        int, typer.Option(help="Maximum number of rows of one file.", min=1, rich_help_panel=_LIMITS)
    ] = 5_000,
    max_queue: Annotated[
        int,
        typer.Option(
            help="Maximum number of notes that wait for the model.",
            min=1,
            max=100_000,
            rich_help_panel=_LIMITS,
        ),
    ] = 256,
    max_uploads: Annotated[
        int,
        typer.Option(
            help="Maximum number of uploads held at once, with their results.", min=1, rich_help_panel=_LIMITS
        ),
    ] = 8,
    keep_minutes: Annotated[
        float,
        typer.Option(
            help="How long results of an upload are held.", min=0.1, max=10_080, rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    answer_secs: Annotated[
        float,
        typer.Option(
            help="Longest wait for the answer to one note.", min=1, max=86_400, rich_help_panel=_LIMITS
        ),
    ] = 120.0,
    grace_secs: Annotated[
        float,
        typer.Option(
            help="How long a stop waits for requests in progress.", min=1, max=86_400, rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    access_log: Annotated[
        bool,
        typer.Option(
            help="A line per request on stderr: method, route, status, time; of health and metrics where they fail."
        ),
    ] = True,
) -> None:
    """Serve a model on this machine: a web page and a JSON API, for research.

    **Not a medical device.** Listens on 127.0.0.1 by default; texts and results stay in memory, and no
    text is logged. Ctrl-C or SIGTERM finishes the requests in progress. See docs/serving.md.
    """
    try:
        from r2d_jax.serve.limits import Limits
        from r2d_jax.serve.server import Listening
        from r2d_jax.serve.server import serve as run_server
    except ImportError as error:
        raise UserError(
            "r2d serve", f"cannot import {error.name}", f"Install its packages: {how_to_install('serve')}."
        ) from error
    limits = Limits(
        note_characters=max_note_characters,
        upload_bytes=max_upload_mib * _MEBIBYTE,
        upload_rows=max_upload_rows,
        queue_rows=max_queue,
        uploads=max_uploads,
        keep_secs=60 * keep_minutes,
        answer_secs=answer_secs,
    )
    run_server(
        model,
        Listening(host, port, allowed_host or (), token_file),
        limits,
        console(),
        batch_size=batch_size,
        widths=widths,
        wait_secs=wait_ms / 1000,
        grace_secs=grace_secs,
        access_log=access_log,
    )


def register(app: typer.Typer) -> None:
    """Add the command to `r2d`."""
    app.command(name="serve")(serve)
