"""The commands `r2d export`, `push` and `import`; in: arguments, out: a model in another format, or sent to the Hub."""

import pathlib
from typing import Annotated

import typer

from r2d_jax.cli_options import OverwriteOption
from r2d_jax.errors import UserError

_CARD = "In the model card"


def export(
    model: Annotated[
        pathlib.Path,
        typer.Option(
            "--model", help="A run's workdir (its best checkpoint), an exported or an imported folder."
        ),
    ],
    output: Annotated[pathlib.Path, typer.Option("--output", help="Hugging Face folder to write.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16, or int8 (needs compressed-tensors to load).")
    ] = "float32",
    format: Annotated[
        str,
        typer.Option("--format", help="safetensors; onnx: ONNX graphs beside these, compared with torch."),
    ] = "safetensors",
    overwrite: OverwriteOption = False,
    title: Annotated[
        str, typer.Option("--title", help="Its title and the model's name.", rich_help_panel=_CARD)
    ] = "Reason2Decide model",
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Your licence for the model, as the Hub writes it: apache-2.0, cc-by-nc-4.0, other, ...",
            rich_help_panel=_CARD,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="Code of the texts' language, such as en.", rich_help_panel=_CARD),
    ] = None,
    data_name: Annotated[
        str | None,
        typer.Option(
            "--data-name",
            help="Name of the data; paths and file names are never shown.",
            rich_help_panel=_CARD,
        ),
    ] = None,
) -> None:
    """Write a model as a Hugging Face folder (safetensors) that transformers loads, with a model card."""
    from r2d_jax.evaluation.card_metadata import CardOptions
    from r2d_jax.evaluation.convert import export_folder

    options = CardOptions(title=title, license=license, language=language, data_name=data_name)
    source = export_folder(model, output, dtype=dtype, overwrite=overwrite, format=format, options=options)
    print(f"{source} written to {output}")


def push(
    model: Annotated[
        pathlib.Path, typer.Option("--model", help="An exported folder, or a run's workdir (its export/).")
    ],
    repo: Annotated[
        str, typer.Option("--repo", help="NAME in your account, or OWNER/NAME; created if it does not exist.")
    ],
    public: Annotated[bool, typer.Option("--public", help="Make it public. Default: private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload what is shown.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it; send nothing.")] = False,
) -> None:
    """Upload an exported folder to the Hugging Face Hub; see docs/huggingface.md.

    Only files on a fixed list go: weights, config, tokenizer, model card. Predictions, scores and rows never do.
    The token is that of `hf auth login` or HF_TOKEN.
    """
    from r2d_jax.evaluation import push as uploading

    upload = uploading.upload_of(model)
    uploading.check_name(repo)
    width = max(map(len, upload.files))
    print(
        f"{'public' if public else 'private'} model {repo} on the Hugging Face Hub would get from {upload.folder}:"
    )
    for name, size in upload.files.items():
        print(f"  {name.ljust(width)} {size:>15,} bytes")
    for name in upload.left_out:
        print(f"  does not go: {name}")
    for note in upload.notes:
        print(f"note: {note}")
    if dry_run:
        print("nothing was sent (--dry-run)")
        return
    if not yes:
        raise UserError(
            "--yes", "is needed to send this", "Read the list above and add --yes; nothing was sent."
        )
    print(f"sent: {uploading.push(upload, repo, public=public)}")


def import_(
    source: Annotated[str, typer.Argument(help="Hugging Face folder or hub name, or a T5X checkpoint file.")],
    output: Annotated[
        pathlib.Path, typer.Option("--output", help="Folder to write; use it as model.init or --model.")
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Folder or hub name of the tokenizer, where the source has none."),
    ] = None,
) -> None:
    """Turn a T5 of another format into weights for `model.init`."""
    from r2d_jax.evaluation.convert import import_model

    print(f"{import_model(source, output, tokenizer)} written to {output}")


def register(app: typer.Typer) -> None:
    """Add the commands to the `r2d` command."""
    app.command(name="export")(export)
    app.command(name="push")(push)
    app.command(name="import")(import_)
