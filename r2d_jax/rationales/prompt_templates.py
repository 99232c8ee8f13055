"""Prompts that users may write; in: a packaged template or a file, out: a PromptTemplate that fills its places."""

import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Sequence

from r2d_jax.data.reading.templates import Template, parse_template
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError

_MAX_CHARACTERS = 50_000


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """The user message of a request, with places for the cells of a row.

    Attributes:
        text: as written.
        template: the same, parsed.
    """

    text: str
    template: Template

    @property
    def places(self) -> frozenset[str]:
        """Names of the placeholders that it has."""
        return frozenset(self.template.columns)

    def fill(self, example: Example, labels: Sequence[str], rationale: str = "") -> str:
        """The message for a row; the text of a cell is put in as it is, and braces in it mean nothing.

        Args:
            example: the row.
            labels: all labels; they become a JSON list.
            rationale: the rationale to work on, where the template has a place for it.
        """
        return self.template.fill(
            {
                "question": example.question,
                "context": example.context,
                "label": example.label,
                "labels": json.dumps(list(labels), ensure_ascii=False),
                "rationale": rationale,
            }
        )

    def hash_with(self, instructions: str) -> str:
        """Short sha256 of the system message and the template: what all prompts of a command share."""
        return hashlib.sha256(f"{instructions}\0{self.text}".encode()).hexdigest()[:16]


def read_template(
    path: pathlib.Path | None, packaged: str, *, allowed: Sequence[str], required: Sequence[str]
) -> PromptTemplate:
    """A template of the user, or one that comes with the package.

    Args:
        path: a UTF-8 text file; None: the packaged one.
        packaged: name of the packaged template, without its ending.
        allowed: placeholders that it may hold.
        required: those that it must hold.

    Raises:
        UserError: the file cannot be read, or has an unknown, missing or forbidden placeholder.
    """
    where = f"--prompt {path}" if path else f"the packaged prompt {packaged}"
    text = _file_text(path) if path else packaged_text(packaged)
    known = ", ".join(f"{{{name}}}" for name in allowed)
    fix = f"Places are {known}; write {{{{ and }}}} for braces."
    if not set(text) & set("{}"):
        raise UserError(where, "has no placeholder, so it would be the same for all rows", fix)
    try:
        template = parse_template(text, where)
    except UserError as error:
        # That message repeats the whole text, which here is a page.
        raise UserError(where, "has a brace that belongs to no placeholder, or none", fix) from error
    unknown = sorted(set(template.columns) - set(allowed))
    if unknown:
        raise UserError(where, f"placeholder {{{unknown[0][:40]}}} is not one that may stand here", fix)
    for name in required:
        if name not in template.columns:
            raise UserError(where, f"lacks the placeholder {{{name}}}", fix)
    return PromptTemplate(text, template)


def packaged_text(name: str) -> str:
    """The text of a packaged template."""
    folder = importlib.resources.files("r2d_jax.rationales").joinpath("prompts")
    return folder.joinpath(f"{name}.txt").read_text(encoding="utf-8")


def _file_text(path: pathlib.Path) -> str:
    fix = "Give a UTF-8 text file with a prompt."
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt {path}", "is not UTF-8", fix) from error
    except OSError as error:
        raise UserError(f"--prompt {path}", f"cannot be read ({error.strerror})", fix) from error
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"--prompt {path}", f"has {len(text)} characters, too many for a prompt", fix)
    return text
