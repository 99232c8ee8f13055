"""What a run does with a data check; in: its rows and data.check, out: lines to print, or a UserError that stops it."""

from collections.abc import Sequence

from r2d_jax.config import DataConfig
from r2d_jax.data.check.findings import Finding
from r2d_jax.data.check.run_check import DataCheck, check_rows, rows_of
from r2d_jax.data.reading.raw_rows import RowCallback
from r2d_jax.data.schema import Splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError

_MAX_LINES = 12
# Of more rows a run looks at the texts of about so many, which takes some seconds.
MAX_TEXTS = 10_000


def check_before_run(
    config: DataConfig,
    splits: Splits,
    tokenizer: Tokenizer | None,
    sources: Sequence[str],
    progress: RowCallback | None = None,
) -> tuple[DataCheck | None, list[str]]:
    """Check the rows of a run before its first step, as data.check says.

    Args:
        config: of the run's data.
        splits: its rows.
        tokenizer: the one it trains with.
        sources: rationale sources that its stages learn.
        progress: called with the number of rows checked so far.

    Returns:
        The check (None where data.check is off), and lines to print; they hold no case text.

    Raises:
        UserError: something would damage training and data.check is stop; names the findings.
    """
    if config.check == "off":
        return None, []
    check = check_rows(
        rows_of(splits), config, tokenizer, sources=sources, most_texts=MAX_TEXTS, progress=progress
    )
    if config.check == "stop":
        refuse(check)
    return check, summary_lines(check)


def _where(check: DataCheck, code: str, field: str) -> list[Finding]:
    return [found for found in check.findings if (found.code, found.field) == (code, field)]


def counts_told(check: DataCheck, code: str, field: str) -> str:
    """How many rows of each split one rule found in one field: "train 3 of 80, test 1 of 20"."""
    return ", ".join(f"{found.split} {found.count} of {found.rows}" for found in _where(check, code, field))


def refuse(check: DataCheck) -> None:
    """Stop where something would damage training.

    Raises:
        UserError: names every error with its field, rows by split and first place.
    """
    errors = dict.fromkeys((found.code, found.field) for found in check.findings if found.severity == "error")
    if not errors:
        return
    told = [
        f"{code} in {field} ({counts_told(check, code, field)} rows{_first(check, code, field)})"
        f"{_names(check, code, field)}"
        for code, field in errors
    ]
    worst = next(found for found in check.findings if found.severity == "error")
    raise UserError(
        "data",
        f"the data check found what would damage training: {'; '.join(told)}",
        f"{worst.fix} `r2d data check` shows everything; data.check=warn continues anyway.",
    )


def _first(check: DataCheck, code: str, field: str) -> str:
    places = [place.row for found in _where(check, code, field) for place in found.places]
    return f", first {places[0]}" if places else ""


def _names(check: DataCheck, code: str, field: str) -> str:
    # Names of labels, hidden already where they may be case text.
    found = _where(check, code, field)
    names = dict.fromkeys(name for one in found for name in one.details.get("names", ()))
    return f": {', '.join(names)}" if names else ""


def summary_lines(check: DataCheck) -> list[str]:
    """A few lines about errors and warnings for the start of a run; notes are only counted."""
    counts = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for name in ("error", "warning", "note")
        if (count := check.count(name)) or name == "error"
    ]
    rows = sum(check.rows.values())
    sampled = (
        f" (texts of {check.looked_at:,} of {rows:,} rows; `r2d data check` looks at all)"
        if check.looked_at < rows
        else ""
    )
    lines = [f"data check: {', '.join(counts)}{sampled}"]
    keys = dict.fromkeys(
        (found.code, found.field) for found in check.findings if found.severity in ("error", "warning")
    )
    for code, field in list(keys)[:_MAX_LINES]:
        first = _where(check, code, field)[0]
        lines.append(
            f"  {first.severity}: {field}: {first.message} ({counts_told(check, code, field)} rows"
            f"{_first(check, code, field)}) [{code}]"
        )
    if len(keys) > _MAX_LINES:
        lines.append(f"  and {len(keys) - _MAX_LINES} more; `r2d data check` shows all")
    return lines
