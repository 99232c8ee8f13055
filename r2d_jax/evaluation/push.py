"""Upload of an exported folder; in: a folder, out: what would go to the Hugging Face Hub, or a commit there."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import load_calibration
from r2d_jax.evaluation.export import EXPORTED, NEEDED, README_FILE
from r2d_jax.evaluation.model_folder import read_card
from r2d_jax.runtime.run_files import CALIBRATION, MODEL_CARD, RUN_STATE

ALLOWED = EXPORTED
"""All that may ever go: names in the folder. Predictions, scores and rows are none of them."""
_LONG_LABEL = 60


@dataclasses.dataclass(frozen=True)
class Upload:
    """What a push of a folder would send.

    Attributes:
        folder: exported by `r2d export` or a run.
        files: name in the repository -> size in bytes.
        left_out: names in the folder that do not go.
        notes: what to think of before these files are passed on.
    """

    folder: pathlib.Path
    files: dict[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def upload_of(path: pathlib.Path) -> Upload:
    """What a push would send; nothing is sent.

    Args:
        path: an exported folder, or the workdir of a run, whose export/ is meant then.

    Raises:
        UserError: no whole exported folder there.
    """
    folder = path / "export" if (path / RUN_STATE).is_file() else path
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        what = (
            "no such folder"
            if not folder.is_dir()
            else f"is not an exported folder ({', '.join(lacking)} missing)"
        )
        raise UserError(str(folder), what, "Give a folder that `r2d export` wrote.")
    names = sorted(
        entry.relative_to(folder).as_posix()
        for entry in folder.rglob("*")
        # What a link points to may be anything.
        if entry.is_symlink() or not entry.is_dir()
    )
    sizes = {
        name: (folder / name).stat().st_size
        for name in names
        if name in ALLOWED and not (folder / name).is_symlink()
    }
    if lost := [name for name in NEEDED if name not in sizes]:
        raise UserError(str(folder / lost[0]), "is a link", "Put the file itself there.")
    left_out = tuple(name for name in names if name not in sizes)
    return Upload(folder, sizes, left_out, tuple(_notes(folder)))


def _notes(folder: pathlib.Path) -> Iterator[str]:
    card = read_card(folder)
    long = sum(len(label) > _LONG_LABEL for label in card.labels)
    told = (
        f", {long} of them longer than {_LONG_LABEL} characters: see that none is case text" if long else ""
    )
    yield f"{MODEL_CARD} has the {len(card.labels)} labels{told}"
    if card.label_map:
        yield f"{MODEL_CARD} has {len(card.label_map)} labels as your files write them (data.label_map)"
    # An export has none, but an exported folder may have been calibrated itself.
    calibration = load_calibration(folder) if (folder / CALIBRATION).is_file() else None
    if calibration is not None and calibration.row_digests:
        yield (
            f"{CALIBRATION} has digests of rows: who has the text of a row can find out whether it was among them "
            "(set row_digests to [] there to send none)"
        )
    yield "weights can repeat pieces of the training text, and a vocabulary trained on it holds words of it"
    try:
        stated = huggingface_hub.ModelCard.load(
            folder / README_FILE, ignore_metadata_errors=True
        ).data.license
    except Exception as error:  # The reader of YAML has errors of its own.
        raise UserError(
            str(folder / README_FILE),
            "its YAML block is not readable",
            "Correct it, or export the model again.",
        ) from error
    yield f"licence in {README_FILE}: {stated or 'none (`r2d export --license NAME` states one)'}"


def push(upload: Upload, repo: str, *, public: bool) -> str:
    """Send the files as one commit; makes the repository where there is none.

    Args:
        upload: what goes.
        repo: NAME in your own account, or OWNER/NAME.
        public: make the repository public. False: private, and one that is public already is refused.

    Returns:
        Address of the commit.

    Raises:
        UserError: no usable name or token, no network, a refusal of the Hub, or a public repository without
            `public`.
    """
    check_name(repo)
    if huggingface_hub.constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE", "is set, so that nothing is sent", "Unset it to upload.")
    token = huggingface_hub.get_token()
    if not token:
        raise UserError(
            "Hugging Face token",
            "there is none",
            "Run `hf auth login`, or set HF_TOKEN to a token that may write; nothing was sent.",
        )
    api = huggingface_hub.HfApi(token=token, library_name="r2d_jax")
    try:
        name = api.create_repo(repo, private=not public, exist_ok=True).repo_id
        # For a repository that was there, `private` changes nothing.
        if not public and not api.repo_info(name).private:
            raise UserError(
                name,
                "is a public repository, and --public was not given",
                "Add --public if all may read the model, or choose another --repo; no file was sent.",
            )
        files: list[Any] = [
            huggingface_hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=upload.folder / file)
            for file in upload.files
        ]
        commit = api.create_commit(name, files, commit_message="Upload by r2d push")
    except UserError:
        raise
    except Exception as error:  # The hub's clients raise errors of several libraries with no common base.
        raise _refused(repo, error) from error
    return str(commit.commit_url)


def check_name(repo: str) -> None:
    """Refuse what is not the name of a repository.

    Raises:
        UserError: it is none.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            "--repo",
            f"{repo!r} is not the name of a repository",
            "Use NAME or OWNER/NAME: letters, digits, - _ and .",
        ) from error


def _refused(repo: str, error: Exception) -> UserError:
    response = error.response if isinstance(error, HfHubHTTPError) else None
    status = response.status_code if response is not None else None
    if status in (401, 403):
        return UserError(
            repo,
            f"the Hub refuses the token ({status})",
            "Use a token with write access to that account (`hf auth login`, or HF_TOKEN).",
        )
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if status is not None:
        return UserError(
            repo, f"the Hub refused ({status}: {reason[:200]})", "See what it says, then push again."
        )
    return UserError(
        repo, f"the Hub could not be reached ({reason[:200]})", "Check the network and push again."
    )
