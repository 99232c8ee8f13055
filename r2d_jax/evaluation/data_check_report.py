"""What a user sees of a data check; in: a DataCheck, out: console tables, and a JSON object of a stable schema."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from r2d_jax.data.check.findings import MAX_PLACES, Finding
from r2d_jax.data.check.rules import SEVERITIES
from r2d_jax.data.check.run_check import DataCheck
from r2d_jax.data.check.verdict import counts_told

SCHEMA = "r2d_data_check/1"
_MAX_LABELS, _MAX_CHARACTERS, _MAX_SPLITS, _MAX_IN_JSON = 30, 20, 6, 1000
_INDENT = " " * 9
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def _plain(text: str, style: str = "") -> Text:
    # Never read as markup; what is not printable (a case text may hold it) is written as its code.
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
    return Text(shown, style=style, overflow="fold")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _label_table(check: DataCheck, splits: Sequence[str]) -> Table:
    table = _table("Labels", "", *splits, f"share of {check.train}")
    total = max(check.rows[check.train], 1)
    for row in check.labels[:_MAX_LABELS]:
        share = f"{100 * row.rows.get(check.train, 0) / total:.1f} %"
        table.add_row(_plain(row.name), *(str(row.rows.get(split, 0)) for split in splits), share)
    if (more := len(check.labels) - _MAX_LABELS) > 0:
        table.add_row(f"and {more} more labels")
    table.add_row("rows", *(str(check.rows[split]) for split in splits), style="bold")
    return table


def _length_table(check: DataCheck) -> Table:
    table = _table("Lengths in tokens", "", "split", "min", "median", "95 %", "max", "limit", "cut")
    for row in check.lengths:
        cut = f"{row.cut} ({100 * row.cut / row.rows:.1f} %)" if row.cut else "0"
        figures = map(str, (row.shortest, row.median, row.p95, row.longest, row.limit))
        table.add_row(row.field, _plain(row.split), *figures, cut)
    return table


def _character_table(check: DataCheck) -> Table:
    table = Table(
        title="Characters that the vocabulary loses or changes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for name in ("", "code", "field", "what", "times", "rows", "first"):
        table.add_column(name, justify="right" if name in ("times", "rows") else "left", overflow="fold")
    for row in check.characters[:_MAX_CHARACTERS]:
        # A mark that joins the letter before it needs one, and what is not printable has its code alone.
        shown = row.character if row.character.isprintable() else ""
        first = row.places[0].row if row.places else ""
        table.add_row(
            shown, row.code_point, row.field, row.kind, str(row.times), str(row.rows), _plain(first)
        )
    if (more := len(check.characters) - _MAX_CHARACTERS) > 0:
        table.add_row("", f"{more} more")
    return table


def _groups(check: DataCheck) -> Iterator[list[Finding]]:
    """Findings of one rule, over fields and splits, in the order of the worst of them."""
    groups: dict[str, list[Finding]] = {}
    for found in check.findings:
        groups.setdefault(found.code, []).append(found)
    yield from groups.values()


def _detail_lines(group: Sequence[Finding]) -> Iterator[str]:
    details = group[0].details
    if spellings := details.get("spellings"):
        yield "; ".join(" = ".join(names) for names in spellings)
    elif "names" in details:
        names = list(dict.fromkeys(name for found in group for name in found.details["names"]))
        more = max(found.details["labels"] for found in group) - len(names)
        yield ", ".join(names) + (f" and {more} more" if more > 0 else "")
    if "share_of_characters" in details:
        shares = ", ".join(f"{100 * found.details['share_of_characters']:.2f} %" for found in group)
        yield f"{shares} of the characters"
    if "right_share" in details:
        for found in group:
            right, chance = found.details["right_share"], found.details["chance_share"]
            yield (
                f"{found.split}: the only label named is right in {100 * right:.1f} %, by chance "
                f"{100 * chance:.1f} %; the right label is named in {found.details['gold_named_rows']} rows"
            )


def _print_findings(check: DataCheck, group: Sequence[Finding], console: Console) -> None:
    worst = group[0]
    head = Text(f"{worst.severity:<{len(_INDENT)}}", style=_STYLE[worst.severity])
    console.print(head.append(worst.code, style="bold"))
    body = [_plain(f"{worst.message[0].upper()}{worst.message[1:]}.")]
    for field in dict.fromkeys(found.field for found in group):
        here = [found for found in group if found.field == field]
        places = [place for found in here for place in found.places][:MAX_PLACES]
        first = f"; first {', '.join(place.row for place in places)}" if places else ""
        body.append(_plain(f"{field}: {counts_told(check, worst.code, field)} rows{first}"))
        body += [_plain(line) for line in _detail_lines(here)]
        body += [_plain(f"  {place.row}: {place.text}") for place in places if place.text]
    body += [_plain(worst.fix, "dim")] if worst.fix else []
    for line in body:
        # Lines are broken only for a person's terminal; in a log each stays one.
        console.print(
            Text(_INDENT).append(line) if console.soft_wrap else Padding(line, (0, 0, 0, len(_INDENT)))
        )


def _verdict(check: DataCheck) -> Text:
    counts = [f"{check.count(name)} {name}{'' if check.count(name) == 1 else 's'}" for name in SEVERITIES]
    end = "training would be damaged" if check.damaging else "nothing that would damage training"
    style = "bold red" if check.damaging else "bold green"
    return Text(f"{', '.join(counts)}: {end}", style=style)


def print_data_check(check: DataCheck, console: Console) -> None:
    """Print the label table, lengths, characters and findings; case text only where the check kept excerpts.

    Args:
        check: what to show.
        console: where to print; made for 80 columns and more.
    """
    splits = list(check.rows)[:_MAX_SPLITS]
    console.print(_label_table(check, splits), "")
    if check.lengths:
        console.print(_length_table(check), "")
    if check.characters:
        console.print(_character_table(check), "")
    for group in _groups(check):
        _print_findings(check, group, console)
    for told in check.left_out:
        console.print(_plain(f"left out: {told}", "dim"))
    console.print(_verdict(check))


def data_check_json(check: DataCheck, tokenizer: str | None) -> dict[str, Any]:
    """A DataCheck as plain values of schema `r2d_data_check/1`; docs/data_check.md describes it.

    Args:
        check: the check.
        tokenizer: fingerprint of the tokenizer, or None.
    """
    findings = [
        {
            "code": found.code,
            "severity": found.severity,
            "field": found.field,
            "split": found.split,
            "count": found.count,
            "rows": found.rows,
            "places": [_place(place) for place in found.places],
            "details": dict(found.details),
            "told": found.message,
            "fix": found.fix,
        }
        for found in check.findings
    ]
    characters = [
        {
            "character": row.character,
            "code_point": row.code_point,
            "name": row.name,
            "field": row.field,
            "kind": row.kind,
            "times": row.times,
            "rows": row.rows,
            "places": [_place(place) for place in row.places],
        }
        for row in check.characters
    ]
    return {
        "schema": SCHEMA,
        "damaging": check.damaging,
        "counts": {name: check.count(name) for name in SEVERITIES},
        "rows": dict(check.rows),
        "train": check.train,
        "fields": list(check.fields),
        "label_count": len(check.labels),
        "labels": [{"name": row.name, "rows": dict(row.rows)} for row in check.labels[:_MAX_IN_JSON]],
        "tokenizer": tokenizer,
        "lengths": [dataclasses.asdict(row) for row in check.lengths],
        "characters": characters,
        "findings": findings,
        "left_out": list(check.left_out),
    }


def _place(place: Any) -> dict[str, str]:
    return {"row": place.row} | ({"text": place.text} if place.text else {})
