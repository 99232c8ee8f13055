"""The data check: every rule by its smallest trigger and on clean rows, figures by other means, no case text told."""

import dataclasses
import io
import json
import pathlib
import re
import string

import numpy as np
import pandas
import pytest
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizer_cases import without_escape

from r2d_jax.config import ColumnsConfig, Config, DataConfig
from r2d_jax.data.check.duplicates import digest
from r2d_jax.data.check.labels import LabelTable
from r2d_jax.data.check.rules import RULES
from r2d_jax.data.check.run_check import check_rows, rows_of
from r2d_jax.data.check.source import file_and_settings
from r2d_jax.data.check.verdict import check_before_run, refuse, summary_lines
from r2d_jax.data.packed_columns import PackedTexts
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.data_check_report import SCHEMA, data_check_json, print_data_check
from r2d_jax.runtime.files import write_texts

pytest_plugins = ["cli_cases"]

from cli_cases import SECRET_WORDS, as_lines, make_rows
from cli_cases import settings as run_settings

ROOT = pathlib.Path(__file__).parents[1]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WITH_IDS = ColumnsConfig(id="id")


def word(index):
    return " ".join(NUMBERS[int(digit)] for digit in f"{index:02d}")


def row(index, label=None, **fields):
    label = ("urgent", "routine")[index % 2] if label is None else label
    given = {
        "row_id": f"line {index + 1}",
        "question": f"Patient {word(index)} fell at home and hurts.",
        "context": f"Seen in room {word(index)} by a nurse.",
        "label": label,
        "rationales": {"default": f"A fall of patient {word(index)} is {label} since it hurts."},
    }
    return Example(**given | fields)


def split_of(index):
    return "train" if index < 40 else "validation" if index < 50 else "test"


def rows(count=60, /, each=lambda index: {}, **changed):
    """Clean rows, 40 of train and 10 of each other split; each(i), and r3=..., change row i and row 3."""
    return [
        (split_of(index), row(index, **each(index) | changed.get(f"r{index}", {}))) for index in range(count)
    ]


def said(text):
    return {"rationales": {"default": text}}


@pytest.fixture(scope="module")
def vocabulary():
    texts = [
        text for _, one in rows() for text in (one.question, one.context, one.label, *one.rationales.values())
    ]
    return Tokenizer.train(texts, 400)


def check(listed, tokenizer=None, config=None, **options):
    return check_rows(lambda: iter(listed), config or DataConfig(), tokenizer, **options)


def codes(found):
    return {finding.code for finding in found.findings}


def only(found, code):
    return [finding for finding in found.findings if finding.code == code]


def test_clean_rows_have_no_findings(vocabulary):
    found = check(rows(), vocabulary)
    assert found.findings == ()
    assert found.left_out == ()
    assert not found.damaging
    assert found.rows == {"train": 40, "validation": 10, "test": 10}


@dataclasses.dataclass(frozen=True)
class Trigger:
    """Rows that break one rule; `beside` are rules that the same rows must break too."""

    code: str
    field: str
    rows: list
    train: int | None = None
    test: int | None = None
    severity: str | None = None
    beside: frozenset = frozenset()
    config: DataConfig = dataclasses.field(default_factory=DataConfig)

    def __str__(self):
        return f"{self.code}-{self.severity or RULES[self.code].severity}"


def also(*names):
    return frozenset(names)


def labelled(label):
    return lambda index: {"label": label(index)}


DEFAULT = "rationale default"
TRIGGERS = [
    # Labels. B026: "Benign", "Benign*", "benign ", "BENIGN" are four classes.
    Trigger(
        "label-spellings",
        "label",
        rows(r0={"label": "Urgent"}),
        train=1,
        beside=also("label-untested", "label-rare"),
    ),
    Trigger(
        "label-spellings",
        "label",
        rows(r0={"label": "urgent "}),
        train=1,
        beside=also("label-untested", "label-rare", "label-lost", "blanks"),
    ),
    Trigger(
        "label-signs",
        "label",
        rows(r0={"label": "urgent*"}),
        train=1,
        beside=also("label-untested", "label-rare"),
    ),
    Trigger(
        "label-signs",
        "label",
        rows(r0={"label": "úrgent"}),
        train=1,
        beside=also("label-untested", "label-rare"),
    ),
    Trigger("label-one", "label", rows(40, each=labelled(lambda index: "urgent")), train=40),
    Trigger(
        "label-lost",
        "label",
        rows(r0={"label": "\u4e2d"}),
        train=1,
        beside=also("label-untested", "label-rare", "characters-lost"),
    ),
    Trigger(
        "label-too-long",
        "label",
        rows(r0={"label": "as urgent as can be"}),
        train=1,
        beside=also("label-untested", "label-rare"),
        config=DataConfig(label_limit_tokens=4),
    ),
    Trigger(
        "label-free-text",
        "label",
        rows(each=lambda index: {"label": f"note on {word(index)}"}),
        train=40,
        beside=also("label-unseen"),
    ),
    Trigger(
        "label-numbers",
        "label",
        rows(each=labelled(lambda index: str(50 + index % 12))),
        train=40,
        beside=also("label-untested"),
    ),
    Trigger(
        "label-untested",
        "label",
        rows(**{f"r{index}": {"label": "fatal"} for index in (0, 1, 2, 44)}),
        train=3,
    ),
    Trigger("label-unseen", "label", rows(r55={"label": "fatal"}), test=1),
    Trigger(
        "label-rare",
        "label",
        rows(r0={"label": "fatal"}, r1={"label": "fatal"}),
        train=2,
        beside=also("label-untested"),
    ),
    Trigger(
        "label-dominant",
        "label",
        rows(each=labelled(lambda index: "routine" if index == 7 else "urgent")),
        train=39,
        beside=also("label-untested", "label-rare"),
    ),
    # Rows that are alike.
    Trigger(
        "labels-contradict",
        "input",
        rows(
            r1={"question": "PATIENT one  one fell at home and hurts.", "context": row(0).context},
            r0={"question": "Patient one one fell at home and hurts."},
        ),
        train=2,
        beside=also("duplicates-folded", "blanks"),
    ),
    Trigger(
        "labels-contradict",
        "input",
        rows(each=lambda index: {"question": "Which level?", "context": ""}),
        train=40,
        test=10,
        severity="error",
        beside=also("duplicates", "split-overlap", "validation-overlap"),
    ),
    Trigger(
        "split-overlap",
        "input",
        rows(r50={"question": row(0).question.upper(), "context": row(0).context}),
        test=1,
    ),
    Trigger(
        "split-overlap",
        "input",
        rows(
            each=lambda i: (
                {"question": row(i % 50).question, "context": row(i % 50).context} if i >= 50 else {}
            )
        ),
        test=10,
        severity="error",
    ),
    Trigger(
        "validation-overlap",
        "input",
        rows(r50={"question": row(40).question.upper(), "context": row(40).context}),
        test=1,
    ),
    Trigger(
        "duplicates", "input", rows(r2={"question": row(0).question, "context": row(0).context}), train=1
    ),
    Trigger(
        "duplicates-folded",
        "input",
        rows(r2={"question": row(0).question.lower(), "context": row(0).context}),
        train=1,
    ),
    # Rationales. B024: a row labelled "no" whose rationale ends "so the answer is yes".
    Trigger(
        "rationale-concludes-other",
        DEFAULT,
        rows(
            each=lambda i: {"label": ("no", "yes")[i % 2], **said(f"Case {word(i)} hurts.")},
            r0={"label": "no", **said("It hurts a bit, so the answer is yes.")},
        ),
        train=1,
    ),
    Trigger(
        "rationale-concludes-other",
        DEFAULT,
        rows(
            each=lambda i: {
                "label": ("no", "yes")[i % 2],
                **said(f"Case {word(i)}: the answer is {('yes', 'no')[i % 2]}."),
            }
        ),
        train=40,
        severity="error",
    ),
    Trigger(
        "rationale-names-other", DEFAULT, rows(r0=said("Such a fall is routine since it hurts.")), train=1
    ),
    Trigger("rationale-is-label", DEFAULT, rows(r0=said("Urgent.")), train=1),
    Trigger(
        "rationale-is-label",
        DEFAULT,
        rows(each=lambda i: said(row(i).label)),
        train=40,
        severity="error",
        beside=also("rationale-repeated"),
    ),
    Trigger("rationale-is-question", DEFAULT, rows(r0=said(row(0).question)), train=1),
    Trigger(
        "rationale-is-question",
        DEFAULT,
        rows(each=lambda i: said(row(i).context)),
        train=40,
        severity="error",
    ),
    Trigger("rationale-repeated", DEFAULT, rows(each=lambda i: said("It hurts so it is so")), train=40),
    Trigger("rationale-missing", DEFAULT, rows(r0=said(""), r1=said(" ")), train=2, beside=also("blanks")),
    Trigger(
        "rationale-missing",
        DEFAULT,
        rows(r0=said("\u200b")),
        train=1,
        beside=also("invisible-characters"),
    ),
    Trigger("rationale-missing", DEFAULT, rows(each=lambda i: said("")), train=40, severity="error"),
    Trigger("rationale-short", DEFAULT, rows(r0=said("Clearly so")), train=1),
    Trigger("rationale-in-input", DEFAULT, rows(r0=said("fell at home and hurts")), train=1),
    Trigger(
        "label-in-input",
        "input",
        rows(each=lambda i: {"context": f"Booked as {row(i).label} in room {word(i)}."}),
        train=40,
    ),
    # Characters. B001 and B004: < and braces have markers here; other scripts have none.
    Trigger("characters-lost", "question", rows(r0={"question": "Pain \u4e2d since then"}), train=1),
    Trigger(
        "characters-lost",
        "question",
        rows(each=lambda i: {"question": "\u4e2d\u6587" * (i + 3)}),
        train=40,
        severity="error",
    ),
    Trigger("special-tokens", "question", rows(r0={"question": "It says </s> and <extra_id_0>"}), train=1),
    Trigger("lone-surrogates", "context", rows(r0={"context": "half \ud83d a pair"}), train=1),
    # B019: text that was damaged before.
    Trigger("replacement-characters", DEFAULT, rows(r0=said("An urgent caf\ufffd visit")), train=1),
    Trigger(
        "replacement-characters",
        DEFAULT,
        rows(each=lambda i: said(f"An {row(i).label} caf\ufffd visit {word(i)}") if i < 8 else {}),
        train=8,
        severity="error",
    ),
    Trigger(
        "mojibake", "context", rows(r0={"context": "cafÃ© donâ€™t"}), train=1, beside=also("characters-lost")
    ),
    Trigger("control-characters", "question", rows(r0={"question": "a bell \x07 rings"}), train=1),
    Trigger("wrong-code-page", "context", rows(r0={"context": "at 94 \x96 96 %"}), train=1),
    Trigger(
        "wrong-code-page",
        "context",
        rows(r0={"context": "fever\x85 no cough"}),
        train=1,
        beside=also("line-breaks"),
    ),
    Trigger(
        "wrong-code-page",
        "context",
        rows(each=lambda i: {"context": f"at 94 \x96 96, room {word(i)}"} if i < 8 else {}),
        train=8,
        severity="error",
    ),
    Trigger("direction-controls", "question", rows(r0={"question": "turned \u202ethgir"}), train=1),
    Trigger("invisible-characters", "question", rows(r0={"question": "sep\u200bsis or not"}), train=1),
    Trigger("markup", "context", rows(r0={"context": "a rate &lt; that<br>next"}), train=1),
    Trigger("composed", "context", rows(r0={"context": "cafe\u0301 at noon"}), train=1),
    # B003: blanks are folded, line breaks are kept.
    Trigger("blanks", DEFAULT, rows(r0=said("So urgent:\tfever,  cough")), train=1),
    Trigger("line-breaks", DEFAULT, rows(r0=said("So urgent:\n1. fever\n2. cough")), train=1),
    # Lengths. B008: the context is what is cut; B007: a long target.
    Trigger(
        "context-cut",
        "context",
        rows(r0={"context": "word " * 60 + "end"}),
        train=1,
        config=DataConfig(input_limit_tokens=64),
    ),
    Trigger(
        "question-cut",
        "question",
        rows(r0={"question": "word " * 60 + "end"}),
        train=1,
        config=DataConfig(input_limit_tokens=64),
    ),
    Trigger("rationale-cut", DEFAULT, rows(r0=said("urgent " * 400 + "end")), train=1),
    # Identifying data.
    Trigger("looks-like-email", "question", rows(r0={"question": "write to a.b@clinic.org please"}), train=1),
    Trigger("looks-like-phone", "question", rows(r0={"question": "call (555) 123-4567 now"}), train=1),
    Trigger("looks-like-ssn", "question", rows(r0={"question": "number 123-45-6789 on file"}), train=1),
    Trigger("looks-like-birth-date", "question", rows(r0={"question": "DOB: 02/03/1961, falls"}), train=1),
    Trigger(
        "looks-like-birth-date", "question", rows(r0={"question": "born on 3 March 1961, falls"}), train=1
    ),
    Trigger("looks-like-record-number", "question", rows(r0={"question": "MRN: 00123456, falls"}), train=1),
]
# Those that need another tokenizer have tests of their own below.
ELSEWHERE = {"characters-changed", "markers-spelt", "special-tokens-lost", "line-breaks-lost"}


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
def test_the_smallest_trigger_of_a_rule_is_found_and_nothing_else(trigger, vocabulary):
    found = check(trigger.rows, vocabulary, trigger.config)
    assert codes(found) == {trigger.code} | trigger.beside
    counts = {one.split: one.count for one in only(found, trigger.code) if one.field == trigger.field}
    assert (trigger.train is None) == ("train" not in counts)
    assert counts.get("train") == trigger.train
    assert trigger.test is None or counts["test"] == trigger.test
    severities = {one.severity for one in only(found, trigger.code)}
    assert (trigger.severity or RULES[trigger.code].severity) in severities
    if trigger.severity is None and RULES[trigger.code].error_share is not None:
        assert "error" not in severities
    if trigger.train:
        first = only(found, trigger.code)[0]
        assert len(first.places) <= 5
        assert all(re.fullmatch(r"(train|test|validation) line \d+", place.row) for place in first.places)
        assert all(place.text == "" for place in first.places)


def test_every_rule_has_a_trigger_and_a_place_in_the_documentation():
    tried = {trigger.code for trigger in TRIGGERS} | ELSEWHERE
    assert tried == set(RULES)
    escalating = {trigger.code for trigger in TRIGGERS if trigger.severity == "error"}
    assert {code for code, rule in RULES.items() if rule.error_share is not None} - escalating == {
        "mojibake"
    } | ({"rationale-repeated"})
    documented = dict(
        re.findall(
            r"^\| `([a-z-]+)` \| (error|warning|note) \|", (ROOT / "docs/data_check.md").read_text(), re.M
        )
    )
    assert documented == {code: rule.severity for code, rule in RULES.items()}


@pytest.mark.parametrize(
    ("code", "count"), [("mojibake", 8), ("rationale-repeated", 60)], ids=["mojibake", "rationale-repeated"]
)
def test_many_rows_make_an_error_of_a_warning(code, count):
    listed = {
        "mojibake": rows(each=lambda i: {"context": f"cafÃ© {word(i)}"} if i < 8 else {}),
        "rationale-repeated": [
            ("train", dataclasses.replace(one, **said("So it is here"))) for _, one in rows()
        ],
    }[code]
    (finding,) = only(check(listed), code)
    assert (finding.severity, finding.count, finding.split) == ("error", count, "train")


@pytest.mark.parametrize("field", ["question", "context", "rationale default"])
def test_a_windows_file_read_as_latin_1_is_an_error_that_names_its_encoding(field):
    """It was a warning of control characters, to be corrected elsewhere."""
    damaged = "A range of 120–130… \u201cstable\u201d at 5 €".encode("cp1252").decode("latin-1")

    def changed(index):
        text = f"{damaged} {word(index)}"
        return said(f"{row(index).label}: {text}") if field.startswith("rationale") else {field: text}

    found = check(rows(each=lambda i: changed(i) if i < 8 else {}))
    (finding,) = found.findings
    assert (finding.severity, finding.count, finding.field) == ("error", 8, field)
    assert "data.encoding=cp1252" in finding.fix


def test_texts_that_only_look_alike_are_left_alone(vocabulary):
    """Blood pressures, ranges, dates of visits, trial numbers and grades are no identifying data and no damage."""
    texts = [
        "BP 120/80, HR 88, glucose 5.5-7.8, day 12-14",
        "seen on 02/03/2021, born healthy at term",
        "NCT01234567, 1234-5678-9012, 100.200.3000.5",
        "SpO2 <92% & p<0.05, 5<6 mm, a.b. @ noon",
        "ratio 1:2, see 12345 cells",
    ]
    listed = rows(**{f"r{2 * i}": {"question": text} for i, text in enumerate(texts)})
    assert codes(check(listed, vocabulary)) == set()


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("the answer is not yes but no", "no", False),
        ("So the answer would be no.", "yes", True),
        ("Label: yes, as it hurts", "no", True),
        ("At first the answer is yes; at last the answer is no.", "no", False),
        ("No fever, no cough, yet no doubt.", "yes", False),
    ],
)
def test_a_conclusion_is_told_from_a_mention(text, label, expected):
    """B024; "no" is a word of any text, so that naming it says nothing."""
    listed = rows(each=lambda i: {"label": ("no", "yes")[i % 2], **said(f"Case {word(i)} hurts.")})
    listed[0] = "train", dataclasses.replace(listed[0][1], label=label, rationales={"default": text})
    assert codes(check(listed)) == ({"rationale-concludes-other"} if expected else set())


# Tokenizers


def test_without_the_text_map_line_breaks_and_control_tokens_are_lost(shared_data):
    listed = rows(r0={"question": "one </s> two", "context": "one\ntwo"})
    found = check(listed, Tokenizer.load(shared_data / "t5_tokenizer", text_map=False))
    assert codes(found) == {"special-tokens-lost", "line-breaks-lost", "characters-lost"}
    carried = check(listed, Tokenizer.load(shared_data / "t5_tokenizer", text_map=True))
    assert codes(carried) == {"special-tokens", "line-breaks"}


def test_a_marker_is_only_told_where_the_tokenizer_cannot_tell_it_from_the_character(vocabulary):
    listed = rows(r0=said("Urgent: a rate [less than] that"))
    assert codes(check(listed, vocabulary)) == set()
    (found,) = check(listed, without_escape(vocabulary)).findings
    assert (found.code, found.field, found.count) == ("markers-spelt", DEFAULT, 1)


def test_the_real_t5_vocabulary(shared_data):
    """B001, B003, B004: signs are carried by the map; without it each is named with its code and its rows."""
    signs = "< { } ~ ^ \u2265 \u2264 \u00b1 \u00b5 \u00d7 \u03b2 \u2191 \u2192"
    listed = rows(r0={"question": signs}, r2={"question": f"{signs} <"})
    assert codes(check(listed, Tokenizer.load(shared_data / "t5_tokenizer"))) == set()
    found = check(listed, Tokenizer.load(shared_data / "t5_tokenizer", text_map=False))
    lost = {one.character: one for one in found.characters}
    assert set(lost) == set(signs) - {" "}
    less = lost["<"]
    assert (less.code_point, less.kind, less.times, less.rows, less.field) == (
        "U+003C",
        "lost",
        3,
        2,
        "question",
    )
    assert [place.row for place in less.places] == ["train line 1", "train line 3"]
    assert less.name == "LESS-THAN SIGN"
    changed = check(rows(r0={"question": "the \ufb01rst"}), Tokenizer.load(shared_data / "t5_tokenizer"))
    assert [(one.code, one.count) for one in changed.findings] == [("characters-changed", 1)]


def test_lengths_and_cuts_are_those_of_the_tokenizer(vocabulary):
    config = DataConfig(input_limit_tokens=32, rationale_limit_tokens=16)
    listed = rows(each=lambda i: {"context": "word " * i, **said(f"{row(i).label} " * (i + 1))})
    found = check(listed, vocabulary, config)
    (line,) = [one for one in found.lengths if (one.field, one.split) == (DEFAULT, "train")]
    lengths = [
        len(vocabulary.encode(one.rationales["default"])) + 1 for split, one in listed if split == "train"
    ]
    expected = np.quantile(lengths, [0, 0.5, 0.95, 1], method="inverted_cdf").tolist()
    assert [line.shortest, line.median, line.p95, line.longest] == expected
    assert (line.limit, line.cut) == (16, sum(length > 16 for length in lengths))
    assert 0 < line.cut == only(found, "rationale-cut")[0].count < line.rows == 40


def test_what_is_told_to_be_cut_is_what_training_cuts(vocabulary):
    from r2d_jax.data.features import FeatureEncoder

    config = DataConfig(input_limit_tokens=48, rationale_limit_tokens=24)
    listed = [
        (split, one)
        for split, one in rows(each=lambda i: {"context": "word " * (i // 2)})
        if split == "train"
    ]
    found = check(listed, vocabulary, config)
    encoder = FeatureEncoder(config, vocabulary, ("routine", "urgent"))
    encoded = encoder.encode([one for _, one in listed], "default")
    features = encoder.features(encoded, encoder.shapes(encoded))
    (line,) = [one for one in found.lengths if one.field == "input"]
    assert line.cut == features.cut_questions > 0
    assert [one.cut for one in found.lengths if one.field == DEFAULT] == [features.cut_rationales]


def test_a_text_that_no_tokenizer_takes_does_not_hide_the_rest(vocabulary):
    found = check(rows(r0={"question": "\ud800", "label": "\udc00"}, r1=said("Routine \u4e2d")), vocabulary)
    assert {"lone-surrogates", "characters-lost"} <= codes(found)
    assert found.damaging


def test_without_a_tokenizer_the_check_says_what_it_leaves_out():
    found = check([(split, dataclasses.replace(one, rationales={})) for split, one in rows()])
    assert found.lengths == found.characters == ()
    assert [line.split(":")[0] for line in found.left_out] == [
        "lengths, cuts and characters that a vocabulary loses",
        "rationales",
    ]


# Against other programs


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "validation", "test"]), st.sampled_from("aAbc"), st.sampled_from("xy")
        ),
        min_size=1,
    )
)
def test_rows_that_are_alike_against_pandas(drawn):
    listed = [(split, Example(f"line {i}", q, label, {})) for i, (split, q, label) in enumerate(drawn)]
    found = check(listed)
    frame = pandas.DataFrame(drawn, columns=["split", "question", "label"])
    frame["folded"] = frame.question.str.lower()
    exact = frame.duplicated(["split", "question"])
    train = found.train
    expected = {
        "duplicates": exact,
        "duplicates-folded": frame.duplicated(["split", "folded"]) & ~exact,
        "labels-contradict": frame.groupby("folded").label.transform("nunique") > 1,
        "split-overlap": (frame.split != train) & frame.folded.isin(frame.folded[frame.split == train]),
        "validation-overlap": ~frame.split.isin(["validation", train])
        & frame.folded.isin(frame.folded[frame.split == "validation"])
        & (train != "validation"),
    }
    for code, mask in expected.items():
        counts = {one.split: one.count for one in only(found, code)}
        assert counts == frame[mask].groupby("split").size().to_dict()
        for one in only(found, code):
            lines = frame.index[mask & (frame.split == one.split)][:5]
            assert [place.row for place in one.places] == [f"{one.split} line {line}" for line in lines]


def test_a_digest_knows_where_texts_end():
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("\ud800") != digest("\ud801")


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_packed_texts_come_back(texts):
    packed = PackedTexts()
    for text in texts:
        packed.append(text)
    assert [packed[index] for index in range(len(texts))] == texts


def test_the_check_reads_the_rows_twice_and_keeps_none():
    reads = []

    def stream():
        reads.append(1)
        return iter(rows())

    assert check_rows(stream, DataConfig()).rows["train"] == 40
    assert len(reads) == 2


def test_no_rows_are_a_mistake():
    with pytest.raises(UserError, match="no rows"):
        check([])


# What is told, and what never is


def printed(found, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    print_data_check(found, console)
    return console.file.getvalue()


def told(found):
    """All that a user, a log or a file gets to see."""
    texts = [
        printed(found),
        json.dumps(data_check_json(found, None), ensure_ascii=False),
        *summary_lines(found),
    ]
    try:
        refuse(found)
    except UserError as error:
        texts.append(str(error))
    return "\n".join(texts)


HOSTILE = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    [
        "[bold]",
        "</s>",
        "\x1b[2J",
        "\u202e",
        "yes",
        "answer is",
        "cafÃ©",
        "a.b@c.org",
        "\ud800",
        "&lt;",
        "[less than]",
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    # No word of the output begins like this.
    st.text(string.ascii_letters, min_size=5, max_size=9).map("Zyqx".__add__),
    st.sampled_from(["question", "context", "label", "rationale", "id"]),
    HOSTILE,
    HOSTILE,
    st.booleans(),
)
@example_of("Zyqxquokka", "question", "\x07", "\x07", True)
def test_case_text_is_in_no_output(vocabulary, canary, field, before, after, everywhere):
    text = f"{before}{canary}{after}"
    changed = {
        # A short label is told; that a long one is not is what keeps a wrong column quiet.
        "label": {"label": text + "x" * 41},
        "rationale": said(text),
        "id": {"row_id": text},
    }.get(field, {field: text})
    if everywhere and field != "id":
        listed = rows(each=lambda i: changed | ({"label": text + "x" * (41 + i)} if field == "label" else {}))
    else:
        listed = rows(r0=changed, r1=changed)
    config = DataConfig(columns=WITH_IDS)
    shown = told(check(listed, vocabulary, config))
    assert canary not in shown
    assert canary.lower() not in shown.lower()


def test_text_and_ids_are_told_where_they_are_asked_for(vocabulary):
    listed = rows(r0={"question": "a Zyzzyva \x07 Quokka", "row_id": "case-4711"})
    config = DataConfig(columns=WITH_IDS)
    assert "Zyzzyva" not in told(check(listed, vocabulary, config))
    with_text = check(listed, vocabulary, config, show_text=True)
    assert "Zyzzyva" in printed(with_text)
    assert "\x07" not in printed(with_text)
    assert "Zyzzyva \x07 Quokka" in json.dumps(data_check_json(with_text, None)).replace("\\u0007", "\x07")
    assert "case-4711" not in told(with_text)
    with_ids = told(check(listed, vocabulary, config, show_ids=True))
    assert "case-4711" in with_ids
    assert "Zyzzyva" not in with_ids


def test_a_short_label_is_told_and_a_column_of_text_is_not():
    listed = rows(r0={"label": "Benign*"})
    assert "'Benign*'" in printed(check(listed))
    names = rows(each=lambda i: {"label": f"Mr {word(i)}"})
    assert "Mr" not in told(check(names))


def test_a_column_of_which_every_text_stands_twice_is_no_column_of_labels():
    names = rows(each=lambda index: {"label": f"Mr {word(index // 2)}"})
    found = check(names)
    assert "label-free-text" in codes(found)
    assert "Mr" not in told(found)


def test_the_table_of_labels_keeps_spellings_apart():
    """B026."""
    table = LabelTable()
    for label in ["Benign"] * 4 + ["Benign*", "benign ", "BENIGN", "malignant"]:
        table.add("train", label, "line 1")
    assert [(row.name, row.rows["train"]) for row in table.table()] == [
        ("'Benign'", 4),
        ("'BENIGN'", 1),
        ("'Benign*'", 1),
        ("'benign '", 1),
        ("'malignant'", 1),
    ]
    found = check(
        [
            ("train", row(i, label))
            for i, label in enumerate(["Benign", "BENIGN", "Benign*", "benign ", "bad"] * 3)
        ]
    )
    spelt = {one.code: one.details["spellings"] for one in found.findings if "spellings" in one.details}
    assert spelt["label-spellings"] == [["'BENIGN'", "'Benign'", "'benign '"]]
    assert spelt["label-signs"] == [["'BENIGN'", "'Benign'", "'Benign*'", "'benign '"]]
    assert [one.severity for one in only(found, "label-spellings")] == ["error"]


def test_the_output_fits_80_columns(vocabulary):
    for trigger in TRIGGERS:
        lines = printed(check(trigger.rows, vocabulary, trigger.config)).splitlines()
        assert max(map(len, lines)) <= 80


def test_the_json_has_a_schema(vocabulary):
    value = data_check_json(check(rows(r0={"label": "Urgent"}), vocabulary), vocabulary.fingerprint)
    assert json.loads(json.dumps(value)) == value
    assert value["schema"] == SCHEMA == "r2d_data_check/1"
    assert value["damaging"] is True
    assert value["counts"] == {"error": 1, "warning": 2, "note": 0}
    assert value["tokenizer"] == vocabulary.fingerprint
    assert {"code", "severity", "field", "split", "count", "rows", "places", "details", "told", "fix"} == set(
        value["findings"][0]
    )
    assert value["findings"][0]["places"] == [{"row": "train line 1"}]
    assert value["labels"][0] == {"name": "'routine'", "rows": {"train": 20, "validation": 5, "test": 5}}


# Before a run


def as_splits(listed):
    return Splits(
        *(tuple(one for split, one in listed if split == name) for name in ("train", "validation", "test"))
    )


def test_a_run_is_stopped_warned_or_left_alone(vocabulary):
    bad = as_splits(rows(r0={"label": "Urgent"}))
    with pytest.raises(UserError) as stop:
        check_before_run(DataConfig(), bad, vocabulary, ["default"])
    message = str(stop.value)
    assert "label-spellings in label (train 1 of 40 rows, first train line 1)" in message
    assert "data.check=warn" in message
    assert "\n" not in message
    found, lines = check_before_run(DataConfig(check="warn"), bad, vocabulary, ["default"])
    assert found.damaging
    assert lines[0] == "data check: 1 error, 2 warnings"
    assert lines[1].startswith("  error: label: labels that differ only in case")
    assert check_before_run(DataConfig(check="off"), bad, vocabulary, ["default"]) == (None, [])
    found, lines = check_before_run(DataConfig(), as_splits(rows()), vocabulary, ["default"])
    assert (found.findings, lines) == ((), ["data check: 0 errors"])


def test_of_many_rows_a_run_looks_at_some_texts_and_at_all_labels_and_copies(vocabulary, monkeypatch):
    """Every third of 60 rows: numbers 0, 3, 6, ...; what rows 1 and 3 show, and what only all rows show."""
    monkeypatch.setattr("r2d_jax.data.check.verdict.MAX_TEXTS", 20)
    mail = {"question": "write to a.b@clinic.org please"}
    copy = {"question": row(0).question, "context": row(0).context, "label": "Urgent"}
    listed = rows(r1=mail, r3=mail, r41=copy)
    found, lines = check_before_run(DataConfig(check="warn"), as_splits(listed), vocabulary, ["default"])
    assert found.looked_at == 20
    assert lines[0].endswith("(texts of 20 of 60 rows; `r2d data check` looks at all)")
    (mailed,) = only(found, "looks-like-email")
    assert (mailed.count, mailed.rows, [place.row for place in mailed.places]) == (1, 14, ["train line 4"])
    assert {"label-spellings", "split-overlap", "labels-contradict"} <= codes(found)
    assert found.rows == {"train": 40, "validation": 10, "test": 10}
    whole = check(listed, vocabulary)
    assert only(whole, "looks-like-email")[0].count == 2
    assert [one for one in whole.findings if one.field == "label"] == [
        one for one in found.findings if one.field == "label"
    ]
    assert whole.labels == found.labels


def test_only_the_rationales_of_a_run_are_looked_at(vocabulary):
    listed = rows(each=lambda i: {"rationales": {"nurse": "", "llm": row(i).rationales["default"]}})
    assert check_rows(rows_of(as_splits(listed)), DataConfig(), sources=["llm"]).findings == ()
    assert "rationale-missing" in codes(check(listed))


def test_legitimate_data_are_never_stopped(shared_data):
    """Generated notes, PubMedQA and the vignettes; counted once by hand with other programs."""
    from r2d_jax.config import TriageConfig
    from r2d_jax.data.triage import generate

    t5 = Tokenizer.load(shared_data / "t5_tokenizer")
    triage = generate(
        TriageConfig(train_rows=600, validation_rows=60, test_rows=60, label_noise_fraction=0.1), 0
    )
    assert not check_rows(rows_of(triage), DataConfig(source="triage"), t5).damaging
    lines = (shared_data / "pubmedqa/pqal.jsonl").read_text(encoding="utf-8").split("\n")
    read = [json.loads(line) for line in lines if line]
    pubmedqa = [
        (
            one["split"],
            Example(
                one["id"], one["question"], one["label"], said(one["rationale"])["rationales"], one["context"]
            ),
        )
        for one in read
    ]
    found = check(
        pubmedqa, t5, DataConfig(columns=WITH_IDS, input_limit_tokens=512, rationale_limit_tokens=128)
    )
    assert not found.damaging
    assert {one.name: one.rows["trainval"] for one in found.labels} == {
        "'yes'": 276,
        "'no'": 169,
        "'maybe'": 55,
    }
    assert {one.split: one.count for one in only(found, "blanks") if one.field == "question"} == {
        split: sum(
            one["split"] == split
            and " ".join(one["question"].split(" ")) != re.sub(r"\s+", " ", one["question"]).strip()
            for one in read
        )
        for split in ("trainval", "test")
    }
    vignettes = [
        ("train", Example(f"line {number}", one["question"], one["label"], {}))
        for number, line in enumerate(
            (shared_data / "vignettes/triage_vignettes_2020.jsonl").read_text().splitlines(), 1
        )
        for one in [json.loads(line)]
    ]
    assert check(vignettes, t5).findings == ()


# The command


@pytest.fixture
def data_check(r2d, tmp_path):
    def run(listed, *arguments):
        path = tmp_path / "rows.jsonl"
        path.write_text(as_lines(listed), encoding="utf-8")
        return r2d("data", "check", path, *arguments)

    return run


COLUMNS = ("--context-column", "context", "--id-column", "id", "--split-column", "split")


def test_the_command_on_rows_without_damage(data_check, tmp_path):
    ended = data_check(make_rows(), *COLUMNS, "--json", tmp_path / "check.json")
    assert (ended.code, ended.err) == (0, "")
    assert "nothing that would damage training" in ended.out
    value = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert value["rows"] == {"train": 18, "validation": 6, "test": 6}
    text = ended.out + json.dumps(value)
    assert not [word for word in (*SECRET_WORDS, "case-") if word in text]


def test_the_command_on_rows_with_damage(data_check):
    ended = data_check(make_rows(label="Urgent"), *COLUMNS)
    assert (ended.code, ended.err) == (1, "")
    assert "training would be damaged" in ended.out
    assert "train row 3" in ended.out
    assert "case-2" not in ended.out
    assert "train case-2" in data_check(make_rows(label="Urgent"), *COLUMNS, "--show-ids").out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--label-column", "urgency"), r"no column 'urgency'"),
        (("--split-column", "question"), r"values that name no split"),
        (("--no-rationales", "--rationale-column", "rationale"), "cannot be combined"),
        (("--tokenizer", "./nowhere"), "no such folder"),
        (("data.chek=off",), "chek"),
    ],
)
def test_a_mistake_is_told_in_one_line(data_check, arguments, wanted):
    data_check(make_rows(), *arguments).refused(wanted)


def test_a_few_texts_in_a_wrong_split_column_are_not_names_of_splits(data_check):
    """Each stood in the table of labels as the name of a split."""
    rows = [{**one, "split": f"{SECRET_WORDS[0]} has pain"} for one in make_rows()]
    data_check(rows, *COLUMNS, "--split-column", "split").refused("holds a value that names no split")
    rows = [one | {"split": "fold 1"} for one in make_rows()]
    assert "fold 1" in data_check(rows, *COLUMNS, "--split-column", "split").out


def test_rows_and_output_must_be_named_well(r2d, tmp_path, data_check):
    r2d("data", "check").refused("no rows are named")
    r2d("data", "check", tmp_path / "none.jsonl").refused("no such file")
    data_check(make_rows(), "--json", tmp_path / "rows.jsonl").refused("would be written over")


def test_a_config_gives_rows_columns_limits_and_settings(r2d, tmp_path):
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(json.dumps(run_settings(tmp_path / "rows.jsonl")), encoding="utf-8")
    ended = r2d("data", "check", "--config", tmp_path / "config.yaml", "--json", tmp_path / "check.json")
    assert (ended.code, ended.err) == (0, "")
    value = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert value["fields"] == ["question", "context", "label", "rationale default"]
    other = tmp_path / "other.jsonl"
    other.write_text(as_lines(make_rows(label="Urgent")), encoding="utf-8")
    assert r2d("data", "check", other, "--config", tmp_path / "config.yaml").code == 1
    joined = "data.label_map={Urgent: urgent}"
    assert r2d("data", "check", other, "--config", tmp_path / "config.yaml", joined).code == 0
    mapped = r2d("data", "check", other, "--config", tmp_path / "config.yaml", "data.columns.label=question")
    assert "label-free-text" in mapped.out
    assert not [word for word in SECRET_WORDS if word in mapped.out]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Config)])
def test_a_setting_is_never_taken_for_a_file(name):
    """label_decode=constrained was."""
    assert file_and_settings([f"{name}=x", "data.check=off"]) == (None, [f"{name}=x", "data.check=off"])
    assert file_and_settings([f"{name}.csv", f"{name}=x"]) == (f"{name}.csv", [f"{name}=x"])


def test_a_label_map_must_fit_the_rows_of_a_file(data_check):
    """A key that was spelt wrongly passed, and the labels stayed two classes."""
    listed = make_rows(label="Urgent")
    told = data_check(listed, *COLUMNS, "data.label_map={urgnt: urgent, Urgent: urgent}")
    told.refused(r"data\.label_map: no row has the label 'urgnt'")
    assert data_check(listed, *COLUMNS, "data.label_map={Urgent: urgent}").code == 0


def test_a_tokenizer_alone_is_looked_at_as_its_model_has_it(data_check, tmp_path):
    """It was given a text map, so that the check told nothing of what the model loses."""
    plain = Tokenizer.train([json.dumps(make_rows())], 400, text_map=False)
    write_texts(tmp_path / "plain", plain.files())
    (tmp_path / "mapped.yaml").write_text("{}")
    listed = make_rows(context="SpO2\n92 %")
    given = (*COLUMNS, "--tokenizer", tmp_path / "plain", "--json", tmp_path / "check.json", "--overwrite")
    told = {}
    for more in ((), ("tokenizer.text_map=true",), ("--config", tmp_path / "mapped.yaml")):
        assert data_check(listed, *given, *more).code == 0
        found = json.loads((tmp_path / "check.json").read_text())
        told[more] = found["tokenizer"] == plain.fingerprint, "line-breaks-lost" in str(found["findings"])
    assert list(told.values()) == [(True, True), (False, False), (False, False)]


def test_rows_with_labels_alone(data_check):
    bare = [{key: value for key, value in one.items() if key != "rationale"} for one in make_rows()]
    data_check(bare, *COLUMNS).refused("no column 'rationale'")
    ended = data_check(bare, *COLUMNS, "--no-rationales")
    assert ended.code == 0
    assert "rationales: no column of them is named" in ended.out


@pytest.mark.parametrize("blank", [" ", "\u200b"])
def test_rows_that_a_run_leaves_out_are_told_and_the_others_keep_their_numbers(
    data_check, r2d, tmp_path, blank
):
    listed = make_rows(rationale=blank)
    listed[4]["label"] = "Urgent"
    listed[2]["label"] = "a class of rows that are left out"
    skip = "data.missing_rationales=skip"
    data_check(listed, *COLUMNS).refused("line 3, field 'rationale': is empty")
    ended = data_check(listed, *COLUMNS, skip, "--json", tmp_path / "check.json")
    found = {one["code"]: one for one in json.loads((tmp_path / "check.json").read_text())["findings"]}
    missing, spelled = found["rationale-missing"], found["label-spellings"]
    assert (missing["count"], missing["rows"], missing["places"]) == (1, 18, [{"row": "train row 3"}])
    assert spelled["places"] == [{"row": "train row 5"}]
    # As a run has them.
    assert "a class of rows" not in ended.out
    assert re.search(r"^ *rows +17 +6 +6", ended.out, re.M)
    listed[4]["label"] = listed[2]["label"] = "urgent"
    (tmp_path / "rows.jsonl").write_text(as_lines(listed), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(json.dumps(run_settings(tmp_path / "rows.jsonl")), encoding="utf-8")
    ended = r2d("data", "check", "--config", tmp_path / "config.yaml", skip)
    ended.done(r"note: left out 1 rows without a rationale \('train' 1\)")


def test_rows_that_teach_their_label_alone_are_told_and_looked_at(data_check, tmp_path):
    """Only training rows have to have a rationale: with 18 of 18 lacking, nothing is learned of any."""
    listed = make_rows(rationale="", label="Urgent")
    for row in listed[24:]:
        row["rationale"] = " "
    keep = "data.missing_rationales=keep"
    ended = data_check(listed, *COLUMNS, keep, "--json", tmp_path / "check.json")
    found = json.loads((tmp_path / "check.json").read_text())["findings"]
    missing = {
        one["split"]: (one["severity"], one["count"], one["rows"])
        for one in found
        if one["code"] == "rationale-missing"
    }
    assert missing == {"train": ("warning", 1, 18), "test": ("warning", 6, 6)}
    assert "label-spellings" in {one["code"] for one in found}
    assert re.search(r"^ *rows +18 +6 +6", ended.out, re.M)
    for row in listed[:18]:
        row["rationale"] = ""
    assert data_check(listed, *COLUMNS, keep).code == 1
