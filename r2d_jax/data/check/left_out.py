"""Rows that a run leaves out for want of a rationale; in: the rows of a check, out: a finding that counts them."""

from collections import Counter, defaultdict

from r2d_jax.config import DataConfig
from r2d_jax.data.check.findings import MAX_PLACES, Place, Tally
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.schema import Example


class LeftOut:
    """Counts rows without a rationale where data.missing_rationales is skip; their number stays with the others."""

    def __init__(self, config: DataConfig):
        """Prepare to look at rows of this config."""
        self._skips = config.missing_rationales == "skip"
        self._counts: Counter[tuple[str, str]] = Counter()
        self._places: dict[tuple[str, str], list[Place]] = defaultdict(list)
        self.rows: Counter[str] = Counter()

    def lacks(self, example: Example) -> bool:
        """Whether a run leaves this row out."""
        return self._skips and example.lacks_rationale

    def sees(self, split: str, place: str, example: Example) -> bool:
        """Count a row, once; whether a run leaves it out."""
        self.rows[split] += 1
        if not self.lacks(example):
            return False
        for name, text in example.rationales.items():
            if is_blank(text):
                key = f"rationale {name}", split
                self._counts[key] += 1
                if self._counts[key] <= MAX_PLACES:
                    self._places[key].append(Place(place, ""))
        return True

    def find(self, tally: Tally) -> None:
        """Add the findings, of all rows of each split."""
        for (field, split), count in self._counts.items():
            places = self._places[field, split]
            tally.make("rationale-missing", field, split, count, self.rows[split], places)
