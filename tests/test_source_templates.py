"""Questions put together from columns: exactly the text that is asked for, and nothing is evaluated."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.reading.templates import parse_template
from r2d_jax.data.sources import read_examples
from r2d_jax.errors import UserError
from r2d_jax.serve.limits import Limits
from r2d_jax.serve.upload_rows import read_upload


def filled(text, **cells):
    return parse_template(text, "data.columns.question").fill(cells)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", "A"),
        ("{a}", "A"),
        ("{a} {b}", "A {b} {0}"),
        ("{b}{a}{b}", "{b} {0}A{b} {0}"),
        ("{{{a}}}", "{A}"),
        ("{{a}} is {a}.\n", "{a} is A.\n"),
        ("}}{a}{{", "}A{"),
    ],
)
def test_columns_are_filled_in_and_cells_stay_as_they_are(text, wanted):
    assert filled(text, a="A", b="{b} {0}") == wanted


PIECES = st.text(st.sampled_from("ab {}\n%$\\0.!:"), max_size=5)


@given(
    st.lists(st.tuples(PIECES, st.sampled_from(["x", "y"])), min_size=1, max_size=4),
    PIECES,
    st.text(),
    st.text(),
)
def test_simple_templates_agree_with_str_format(pairs, last, x, y):
    doubled = [(text.replace("{", "{{").replace("}", "}}"), name) for text, name in [*pairs, (last, "")]]
    text = "".join(before + (f"{{{name}}}" if name else "") for before, name in doubled)
    assert (
        filled(text, x=x, y=y)
        == text.format(x=x, y=y)
        == string.Formatter().vformat(text, (), {"x": x, "y": y})
    )


@pytest.mark.parametrize(
    "name", ["a.b", "a[0]", "a!r", "a:>9", "0", " a ", "__class__", "a.__class__", "é ü", "a b"]
)
def test_whatever_stands_in_braces_is_the_name_of_a_column(name):
    template = parse_template(f"<{{{name}}}>", "x")
    assert template.columns == (name,)
    assert template.fill({name: "cell"}) == "<cell>"


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{a}}", "{{a}", "{}", "{a}{", "{{}}", "{a{b}}"])
def test_lone_braces_and_texts_without_a_column_are_refused(text):
    with pytest.raises(UserError, match=r"data\.columns\.question: .*Write \{name\} for a column"):
        filled(text)


@pytest.fixture
def read(tmp_path):
    def read_rows(*rows, columns, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"label": "yes", "rationale": "r"} | row) + "\n" for row in rows))
        return read_examples(path, columns, rationale_sources=["default"], **options)

    return read_rows


TWO = ColumnsConfig(question="{age} y. {note}", context="Drugs: {drugs}")


def test_question_and_context_of_rows_are_filled(read):
    rows = [{"age": "44", "note": " a {b}\n", "drugs": "x"}, {"age": "7", "note": "c", "drugs": ""}]
    found = read(*rows, columns=TWO)
    assert [(one.question, one.context) for one in found] == [
        ("44 y.  a {b}\n", "Drugs: x"),
        ("7 y. c", "Drugs: "),
    ]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"age": "", "note": "n"}, "line 2, field 'age': is empty"),
        ({"note": "n"}, "line 2, field 'age': is missing"),
        ({"age": 44, "note": "n"}, "line 2, field 'age': is int, not text"),
        ({"age": "4", "note": None}, "line 2, field 'note': is null"),
        ({"age": "4", "note": "n", "drugs": 1}, "line 2, field 'drugs': is int"),
    ],
)
def test_faults_name_the_column_within_a_template(read, row, part):
    with pytest.raises(UserError) as caught:
        read({"age": "1", "note": "n", "drugs": ""}, row, columns=TWO)
    assert part in str(caught.value)


def test_unknown_column_of_a_template_is_told_like_any_other(read):
    with pytest.raises(UserError) as caught:
        read({"Age": "1", "note": "n"}, columns=ColumnsConfig(question="{age}. {note}"))
    assert "no column 'age'; columns found: 'label', 'rationale', 'Age', 'note'. Did you mean 'Age'?" in str(
        caught.value
    )


def test_rows_to_predict_may_lack_what_a_template_names(read):
    (example,) = read(
        {"age": "1"}, {"note": "n"}, columns=ColumnsConfig(question="{age}{note}"), need_targets=False
    )[:1]
    assert example.question == "1"


def test_a_row_to_predict_that_fills_no_column_of_a_template_asks_nothing(read):
    """What stands around the columns was predicted; a row that lacks only some of them still is."""
    columns = ColumnsConfig(question="{age} years. {note}", context="Drugs: {drugs}")
    rows = [
        {"age": "", "note": " ", "drugs": "x"},
        {"age": "\u200b", "note": "\ufeff ", "drugs": "x"},
        {"drugs": "x"},
        {"age": "7", "note": "", "drugs": ""},
    ]
    found = read(*rows, columns=columns, need_targets=False)
    assert [(one.question, one.context) for one in found] == [
        ("", "Drugs: x"),
        ("", "Drugs: x"),
        ("", "Drugs: x"),
        ("7 years. ", "Drugs: "),
    ]


def test_an_uploaded_row_that_fills_no_column_of_a_template_asks_nothing():
    """What stands around the columns was answered as if it were a note."""
    data = b"age,note\n,\n7,\n , \n"
    columns = ColumnsConfig(question="{age} years. {note}")
    rows = read_upload(data, "csv", columns, Limits())
    assert [(row.text, row.fault) for row in rows] == [
        ("", "empty question"),
        ("7 years. ", ""),
        ("", "empty question"),
    ]
