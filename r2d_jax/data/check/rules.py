"""Every rule of the data check; in: the code of a finding, out: its severity, what it says, and when it stops a run."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        severity: what a finding is, where it does not stop a run.
        message: what was found; holds no case text.
        fix: what to do; "" where there is nothing to do.
        error_share: from this share of the rows that could show it, a finding is an error.
        error_rows: ... if it counts at least as many rows, for in a handful a share says nothing.
    """

    severity: Severity
    message: str
    fix: str
    error_share: float | None = None
    error_rows: int = 5

    def severity_of(self, count: int, rows: int) -> Severity:
        """Severity of a finding in count of rows rows."""
        if self.error_share is None or count < self.error_rows:
            return self.severity
        return "error" if count >= self.error_share * rows else self.severity


_RENAME = "Write each class the same way in every row, or join the spellings with data.label_map."
_COLUMN = "Check data.columns: this looks like a wrong column."
_SOURCE = "Correct it where the rows come from; the check changes nothing."
_REMOVE = "Mask it before training. This is not de-identification: names, for one, are not found."

# In the order in which findings of one severity are told.
RULES: Mapping[str, Rule] = {
    # Labels.
    "label-one": Rule("error", "all training rows have one label, so there is nothing to learn", _COLUMN),
    "label-spellings": Rule(
        "error",
        "labels that differ only in case, spaces or invisible characters count as different classes",
        _RENAME,
    ),
    "label-lost": Rule(
        "error",
        "the vocabulary does not give this label back as written",
        "Rename the label, or use a tokenizer that holds its characters.",
    ),
    "label-too-long": Rule(
        "error", "the label is longer than data.label_limit_tokens", "Raise the limit, or leave it null."
    ),
    "label-signs": Rule(
        "warning",
        "labels that differ only in signs or accents",
        "If they are one class, write it in one way; if not, leave them.",
    ),
    "label-free-text": Rule(
        "warning", "the label column looks like free text or ids, not like classes", _COLUMN
    ),
    "label-numbers": Rule(
        "warning",
        "the labels are many different numbers; each is learned as a class of its own",
        "Check data.columns.label, or make classes of ranges.",
    ),
    "label-unseen": Rule(
        "warning",
        "labels that no training row has, so they are never predicted",
        "Add training rows of these labels, or take these rows out.",
    ),
    "label-untested": Rule(
        "warning",
        "labels of training that the test split lacks: no figure covers them",
        "Give the test split a larger share of data.split_shares, or join the label with another.",
    ),
    "label-rare": Rule(
        "warning",
        "labels of one or two training rows can hardly be learned",
        "Add rows, or join the label with another.",
    ),
    "label-dominant": Rule(
        "warning",
        "one label covers nearly all training rows; always saying it would look accurate",
        "Judge by macro-F1, and add rows of the other labels.",
    ),
    # Rows that are alike.
    "labels-contradict": Rule(
        "warning",
        "rows with the same question and context, apart from case and spaces, have different labels",
        "Decide which label is right; if there are many, a column such as the context may be missing.",
        error_share=0.5,
        error_rows=10,
    ),
    "split-overlap": Rule(
        "warning",
        "rows whose question and context are also in the training rows, apart from case and spaces",
        "Remove them from one split (data.duplicates=drop handles exact copies); otherwise test scores measure "
        "memorisation.",
        error_share=0.5,
        error_rows=10,
    ),
    "validation-overlap": Rule(
        "warning",
        "rows to be scored whose question and context are also in the validation rows, apart from case and spaces",
        "Remove them from one split (data.duplicates=drop handles exact copies); otherwise they have chosen the "
        "checkpoint that they score.",
    ),
    "duplicates": Rule(
        "note",
        "further rows with exactly the question and context of an earlier one",
        "Keep them if they are meant.",
    ),
    "duplicates-folded": Rule(
        "note",
        "further rows that equal an earlier one apart from case and spaces",
        "Keep them if they are meant.",
    ),
    # Rationales.
    "rationale-concludes-other": Rule(
        "warning",
        'rationales that conclude with another label ("the answer is ...")',
        "Correct the label or the rationale; if most disagree, the columns are out of step.",
        error_share=0.5,
        error_rows=20,
    ),
    "rationale-names-other": Rule(
        "warning",
        "rationales that name another label and never their own",
        "Look at these rows; words are found, not understood.",
    ),
    "rationale-is-label": Rule(
        "warning",
        "rationales that consist of the label alone",
        "Give reasons, or train labels alone (method=sft).",
        error_share=0.9,
    ),
    "rationale-is-question": Rule(
        "warning", "rationales that only repeat the question or context", _COLUMN, error_share=0.9
    ),
    "rationale-repeated": Rule(
        "warning",
        "the same rationale is in many rows",
        "Check data.columns.rationales; such a text explains no row.",
        error_share=0.9,
        error_rows=50,
    ),
    "rationale-missing": Rule(
        "warning",
        "rows without a rationale teach none",
        "Fill them in; data.missing_rationales=skip leaves these rows out of every split, with keep they teach their "
        "label alone.",
        error_share=1.0,
    ),
    "rationale-short": Rule("note", "rationales of one or two words", "Look whether they explain anything."),
    "rationale-in-input": Rule(
        "note",
        "rationales that appear word for word in the question or context",
        "Be aware that they are copied.",
    ),
    "label-in-input": Rule(
        "warning",
        "where the input names one label alone, that label is right far above chance: it may give the answer away",
        "Look at these rows; take the answer out of the question if it is not there in real use.",
    ),
    # Characters.
    "characters-lost": Rule(
        "warning",
        "characters that the vocabulary cannot carry; the model neither sees nor writes them",
        "Replace them in the rows, or use a tokenizer that holds them (tokenizer.text_map=true helps).",
    ),
    "characters-changed": Rule(
        "warning",
        "characters that the vocabulary turns into others",
        "Replace them in the rows where it matters.",
    ),
    "markers-spelt": Rule(
        "warning",
        "the text spells a marker of the text map, which this older tokenizer turns into its character",
        "Write it in another way.",
    ),
    "special-tokens-lost": Rule(
        "warning",
        "the text spells a control token such as </s>, which this tokenizer does not carry as text",
        "Set tokenizer.text_map=true, or take it out.",
    ),
    "line-breaks-lost": Rule(
        "warning", "line breaks become spaces with this tokenizer", "Set tokenizer.text_map=true."
    ),
    "lone-surrogates": Rule(
        "error", "half of a character pair, which no tokenizer takes", "Write the whole pair."
    ),
    "replacement-characters": Rule(
        "warning", "U+FFFD: the text was damaged before it came here", _SOURCE, error_share=0.05
    ),
    "mojibake": Rule(
        "warning",
        "text that was decoded with a wrong encoding, such as two characters in place of an accented one",
        "Read the source with its true encoding (data.encoding).",
        error_share=0.05,
    ),
    "wrong-code-page": Rule(
        "warning",
        "U+0080 to U+009F: what becomes of dashes and quotes where a Windows file (cp1252) is read as latin-1",
        "Read the source with data.encoding=cp1252. If it is UTF-8, it was read wrongly before: correct it there.",
        error_share=0.05,
    ),
    "control-characters": Rule("warning", "control characters", _SOURCE),
    "direction-controls": Rule(
        "warning", "characters that turn the direction of writing: a person reads another text", _SOURCE
    ),
    "invisible-characters": Rule(
        "warning",
        "zero-width characters or soft hyphens; they split words that look whole",
        "Remove them where they are not meant.",
    ),
    "markup": Rule("warning", "remains of HTML, such as &lt; or <br>", "Turn it into plain text."),
    "special-tokens": Rule("note", "the text spells a control token such as </s>; it stays text", ""),
    "composed": Rule("note", "accents separate from their letter are joined to it (Unicode NFC)", ""),
    "blanks": Rule(
        "note", "tabs, repeated spaces and spaces at the ends are folded to one space or none", ""
    ),
    "line-breaks": Rule("note", "line breaks; the text map carries them", ""),
    # Lengths.
    "question-cut": Rule(
        "warning",
        "the question alone is longer than the input limit, so that its end is cut",
        "Raise data.input_limit_tokens, or move text to the context column.",
    ),
    "context-cut": Rule(
        "warning",
        "question and context are longer than the input limit, so that the end of the context is cut",
        "Raise data.input_limit_tokens, or shorten the context.",
    ),
    "rationale-cut": Rule(
        "warning",
        "the rationale is longer than its limit, so that its end is not learned",
        "Raise data.rationale_limit_tokens.",
    ),
    # Identifying data.
    "looks-like-email": Rule("note", "looks like identifying data: an e-mail address", _REMOVE),
    "looks-like-phone": Rule("note", "looks like identifying data: a phone number", _REMOVE),
    "looks-like-ssn": Rule("note", "looks like identifying data: a social security number", _REMOVE),
    "looks-like-birth-date": Rule("note", "looks like identifying data: a date of birth", _REMOVE),
    "looks-like-record-number": Rule("note", "looks like identifying data: a record number", _REMOVE),
}
CODES = tuple(RULES)
