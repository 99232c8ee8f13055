"""What one row is; in: validated text fields, out: Example, the row type that every later room takes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from r2d_jax.data.mentions import is_blank


@dataclasses.dataclass(frozen=True)
class Example:
    """One row, all text exactly as written.

    Attributes:
        row_id: the id column, or "line N" of the file.
        question: what the model is asked; never shortened while context is left to shorten.
        label: gold label as text; "" where the rows are only to be predicted.
        rationales: rationale text by source name, for example {"llm": ..., "nurse": ...}.
        context: text after the question that may be shortened to fit; "" where there is none.
        evidence: phrases of which a good rationale names one (the generator knows them); may be empty.
        subgroups: subgroup name to the group of this row, for example {"sex": "F"}. Figures alone are made of them:
            they are no text of the row, and no part of the model's input or of the content hash.
        group: whose rows stand in one split and are no independent cases, such as a patient; "": none. Of no hash
            either.
    """

    row_id: str
    question: str
    label: str
    rationales: Mapping[str, str]
    context: str = ""
    evidence: tuple[str, ...] = ()
    subgroups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    group: str = ""

    @property
    def lacks_rationale(self) -> bool:
        """Whether one of its rationales is blank."""
        return any(map(is_blank, self.rationales.values()))


def any_rationale(rows: Iterable[Example], source: str) -> bool:
    """Whether one of the rows has a rationale of this source."""
    return any(not is_blank(row.rationales[source]) for row in rows)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three disjoint splits of one data set; tuples, or sequences that read rows from disk.

    Attributes:
        train: rows to learn.
        validation: rows to select by.
        test: rows to score.
        notes: plain lines about rows left out and labels changed while reading; no part of the data.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
