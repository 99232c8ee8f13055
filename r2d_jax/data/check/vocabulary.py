"""Rules about what a vocabulary carries; in: texts and a tokenizer, out: lengths, cuts, characters lost or changed."""

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from r2d_jax.config import DataConfig
from r2d_jax.data.check.findings import MAX_PLACES, Place, SeenRow, Tally
from r2d_jax.data.check.labels import LabelTable
from r2d_jax.data.check.rules import Severity
from r2d_jax.data.check.text import LINE_BREAK, OWN_RULES, SPECIAL_TOKEN
from r2d_jax.data.features import question_limit_tokens
from r2d_jax.data.prompts import PromptBuilder, PromptTokens
from r2d_jax.data.tokenizer import Tokenizer

INPUT = "input"
# From this share of the characters of a field on, the vocabulary does not fit the language of the rows.
LOST_SHARE = 0.05
_MAX_CHARACTERS = 2_000


@dataclasses.dataclass(frozen=True)
class LengthRow:
    """Lengths of one field in one split, in tokens, a target's end token included.

    Attributes:
        field: input (question and context as one text), label or "rationale NAME".
        limit: most tokens that training takes.
        cut: rows over it.
    """

    field: str
    split: str
    rows: int
    shortest: int
    median: int
    p95: int
    longest: int
    limit: int
    cut: int


@dataclasses.dataclass(frozen=True)
class CharacterRow:
    """A character that the vocabulary loses ("lost") or writes as another ("changed") in one field."""

    character: str
    field: str
    kind: str
    times: int
    rows: int
    places: tuple[Place, ...]

    @property
    def code_point(self) -> str:
        """As U+00B5."""
        return f"U+{ord(self.character):04X}"

    @property
    def name(self) -> str:
        """Its Unicode name; "" where it has none."""
        return unicodedata.name(self.character, "")


def _unreadable(text: str) -> bool:
    """Whether a text holds half of a character pair, which no tokenizer takes."""
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


class _Lengths(Counter[int]):
    """How many texts have each length."""

    def at(self, share: float) -> int:
        """The length that this share of the texts does not exceed."""
        wanted, seen = share * self.total(), 0
        for length in sorted(self):
            seen += self[length]
            if seen >= wanted:
                return length
        return 0

    def over(self, limit: int) -> int:
        return sum(count for length, count in self.items() if length > limit)


class Vocabulary:
    """What one tokenizer does with all texts."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, labels: LabelTable, tally: Tally):
        """Check the labels, which follow from the table alone, and derive the limits.

        Raises:
            UserError: data.input_limit_tokens leaves no room for a question.
        """
        self._config, self._tokenizer, self._tally = config, tokenizer, tally
        # Length with the end token, and whether the label comes back as written.
        self._labels: dict[str, tuple[int, bool]] = {}
        for label in labels.labels:
            if not _unreadable(label):
                ids = tokenizer.encode(label)
                self._labels[label] = len(ids) + 1, tokenizer.decode(ids) == label
        longest = max((length for length, _ in self._labels.values()), default=1)
        self._label_limit = config.label_limit_tokens or longest
        # A label column of free text would leave no room and hide what else there is to say.
        fitting = min(self._label_limit, config.input_limit_tokens // 2)
        prompts = PromptBuilder(PromptTokens.from_tokenizer(tokenizer), fitting)
        self._question_limit = question_limit_tokens(config, prompts)
        self._lengths: dict[tuple[str, str], _Lengths] = defaultdict(_Lengths)
        self._kinds: dict[str, str] = {}
        self._seen: dict[tuple[str, str], list[int]] = {}
        self._places: dict[tuple[str, str], list[Place]] = defaultdict(list)
        self._lost: Counter[tuple[str, str]] = Counter()
        self._characters: Counter[tuple[str, str]] = Counter()
        self._keeps_breaks = not tokenizer.unknown_characters("\n")
        self._keeps_specials = tokenizer.decode(tokenizer.encode("</s>")) == "</s>"

    def see(self, row: SeenRow) -> None:
        """Count one row."""
        for field, text in row.texts.items():
            if _unreadable(text):
                # A rule of its own says so.
                return
            self._see_characters(field, text, row)
            if field.startswith("rationale"):
                self._see_length(field, len(self._tokenizer.encode(text)) + 1, row, self._config_limit(field))
        self._see_input(row)

    def _config_limit(self, field: str) -> int:
        if field == INPUT:
            return self._question_limit
        return self._label_limit if field == "label" else self._config.rationale_limit_tokens

    def _see_length(self, field: str, length: int, row: SeenRow, limit: int) -> bool:
        self._lengths[field, row.split][length] += 1
        if length > limit and field.startswith("rationale"):
            self._tally.add("rationale-cut", field, row)
        return length > limit

    def _see_input(self, row: SeenRow) -> None:
        question, context = row.texts.get("question", ""), row.texts.get("context", "")
        if not question:
            return
        self._tally.rows[INPUT, row.split] += 1
        whole = self._tokenizer.encode(f"{question} {context}" if context else question)
        if not self._see_length(INPUT, len(whole), row, self._question_limit):
            return
        alone = whole if not context else self._tokenizer.encode(question)
        if len(alone) > self._question_limit:
            self._tally.add("question-cut", "question", row)
        else:
            self._tally.add("context-cut", "context", row)

    def _kind(self, char: str) -> str:
        if (kind := self._kinds.get(char)) is None:
            carried = not self._tokenizer.unknown_characters(char)
            unknown = self._tokenizer.unk_id in self._tokenizer.encode(char)
            kind = "" if carried else "lost" if unknown else "changed"
            self._kinds[char] = kind
        return kind

    def _see_characters(self, field: str, text: str, row: SeenRow) -> None:
        if match := LINE_BREAK.search(text):
            code = "line-breaks" if self._keeps_breaks else "line-breaks-lost"
            self._tally.add(code, field, row, text, *match.span())
        if "<" in text and (match := SPECIAL_TOKEN.search(text)):
            code = "special-tokens" if self._keeps_specials else "special-tokens-lost"
            self._tally.add(code, field, row, text, *match.span())
        if "[" in text and self._tokenizer.marker_collisions(text):
            self._tally.add("markers-spelt", field, row, text)
        composed = unicodedata.normalize("NFC", text)
        self._characters[field, row.split] += len(composed)
        seen: dict[str, str] = {}
        for char in sorted(set(composed)):
            kind = self._kind(char)
            if kind and not LINE_BREAK.match(char):
                self._see_character(field, char, composed, row)
                if not OWN_RULES.match(char):
                    seen.setdefault(kind, char)
                    self._lost[field, row.split] += composed.count(char) if kind == "lost" else 0
        for kind, char in seen.items():
            start = composed.index(char)
            self._tally.add(f"characters-{kind}", field, row, composed, start, start + 1)

    def _see_character(self, field: str, char: str, text: str, row: SeenRow) -> None:
        key = field, char
        if key not in self._seen and len(self._seen) == _MAX_CHARACTERS:
            return
        times, rows = self._seen.get(key, (0, 0))
        self._seen[key] = [times + text.count(char), rows + 1]
        if rows < MAX_PLACES:
            start = text.index(char)
            self._places[key].append(self._tally.place(row, text, start, start + 1))

    def find(self, labels: LabelTable) -> None:
        """Turn what was counted into findings that need figures of all rows, and tell of labels by their table."""
        long = [label for label, (length, _) in self._labels.items() if length > self._label_limit]
        lost = [label for label, (_, kept) in self._labels.items() if not kept]
        for split in labels.splits:
            for code, told in (("label-too-long", long), ("label-lost", lost)):
                labels.tell(self._tally, code, split, told)
            for label, (length, _) in self._labels.items():
                if rows := labels.rows(label, split):
                    self._lengths["label", split][length] += rows
        for (field, split), times in self._lost.items():
            count = self._tally.count("characters-lost", field, split)
            share = times / max(self._characters[field, split], 1)
            severe: Severity | None = "error" if share >= LOST_SHARE and count >= MAX_PLACES else None
            self._tally.detail(
                "characters-lost",
                field,
                split,
                severity=severe,
                times=times,
                share_of_characters=round(share, 4),
            )

    def characters(self) -> tuple[CharacterRow, ...]:
        """Characters that are lost or changed, the most frequent first."""
        rows = [
            CharacterRow(char, field, self._kinds[char], times, count, tuple(self._places[field, char]))
            for (field, char), (times, count) in self._seen.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.times, row.character, row.field)))

    def lengths(self, splits: Sequence[str]) -> tuple[LengthRow, ...]:
        """The table of lengths, by field and split."""
        rows = []
        for (field, split), lengths in self._lengths.items():
            limit = self._config_limit(field)
            figures = min(lengths), lengths.at(0.5), lengths.at(0.95), max(lengths)
            rows.append(LengthRow(field, split, lengths.total(), *figures, limit, lengths.over(limit)))
        return tuple(sorted(rows, key=lambda row: (row.field, splits.index(row.split))))
