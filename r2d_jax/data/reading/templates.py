"""Text put together from columns; in: a column's name or "{question} {context}", out: a Template that fills it."""

import dataclasses
import re
from collections.abc import Mapping

from r2d_jax.data.mentions import is_blank
from r2d_jax.errors import UserError

_TOKEN = re.compile(r"(\{\{|\}\})|\{([^{}]+)\}|([{}])")


@dataclasses.dataclass(frozen=True)
class Template:
    """Text with places for columns.

    Attributes:
        texts: what stands before each column, and after the last; one more than columns.
        columns: in the order of their places.
    """

    texts: tuple[str, ...]
    columns: tuple[str, ...]

    def fill(self, cells: Mapping[str, str]) -> str:
        """The text, with the cells of its columns exactly as they are; braces in a cell mean nothing."""
        if self.texts == ("", ""):
            return cells[self.columns[0]]
        filled = zip(self.texts, (cells[name] for name in self.columns), strict=False)
        return "".join(text + cell for text, cell in filled) + self.texts[-1]

    def fill_unless_blank(self, cells: Mapping[str, str]) -> str:
        """As `fill`, but "" where all cells are blank: what stands around them is no question."""
        return "" if all(is_blank(cells[name]) for name in self.columns) else self.fill(cells)


def parse_template(text: str, setting: str) -> Template:
    """A template of a setting; without braces it is the name of one column.

    What stands in braces is a column's name, whatever its characters: nothing is ever evaluated. "{{" and
    "}}" are literal braces.

    Raises:
        UserError: a lone brace, or no column; names the setting.
    """
    if not set(text) & set("{}"):
        return Template(("", ""), (text,))
    texts, columns, end = [""], [], 0
    for token in _TOKEN.finditer(text):
        doubled, column, lone = token.groups()
        texts[-1] += text[end : token.start()]
        end = token.end()
        if lone:
            raise UserError(
                setting,
                f"{text!r} has a brace at character {token.start() + 1} that names no column",
                "Write {name} for a column, {{ and }} for braces.",
            )
        if doubled:
            texts[-1] += doubled[0]
        else:
            columns.append(column)
            texts.append("")
    texts[-1] += text[end:]
    if not columns:
        raise UserError(setting, f"{text!r} names no column", "Write {name} for a column.")
    return Template(tuple(texts), tuple(columns))
