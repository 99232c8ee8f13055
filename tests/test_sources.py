"""Reading of files: text exactly as written, and every fault told by file, line and field without the text."""

import csv
import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.sources import read_examples, read_source
from r2d_jax.errors import UserError

COLUMNS = ColumnsConfig()
SECRET = "Zebedee Quux, 44 y, stabbing pain"
HEADER = "question,label,rationale"


def read(path, columns=COLUMNS, sources=("default",), **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_examples(path, columns, rationale_sources=sources, **options)


def refusal(path, *parts, columns=COLUMNS, sources=("default",), **options):
    """The error of reading this file; it must hold all parts, be one line and hold no case text."""
    with pytest.raises(UserError) as caught:
        read(path, columns, sources, **options)
    text = str(caught.value)
    for part in (str(path), *parts):
        assert part in text, (part, text)
    assert "\n" not in text
    assert "Zebedee" not in text
    assert "stabbing" not in text
    return text


@pytest.fixture
def write(tmp_path):
    def write_file(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write_file


@pytest.fixture
def write_csv(write):
    return lambda *lines: write("rows.csv", "\n".join([HEADER, *lines]) + "\n")


@pytest.fixture
def write_jsonl(write):
    def write_rows(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        return write("rows.jsonl", "\n".join(lines))

    return write_rows


def row(question=SECRET, label="yes", rationale="r", **more):
    return {"question": question, "label": label, "rationale": rationale, **more}


GUESSED = ["None", "NA", "null", "N/A", "nan", "NaN", "-", "True", "01", "1", "1.0", "1e5", "2024-01-02",
           "2024-01-02T03:04:05Z", "12:30", "=1+1", "#N/A", "  x "]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_b011_b012_b014_text_is_never_guessed_at(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    rows = [row(text, text, text) for text in GUESSED]
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([list(rows[0]), *(one.values() for one in rows)])
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    examples = read(path)
    assert [one.question for one in examples] == GUESSED
    assert [one.label for one in examples] == GUESSED
    assert [one.rationales for one in examples] == [{"default": text} for text in GUESSED]


@pytest.mark.parametrize("field", ["question", "label", "rationale"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, "is int"),
        (1.5, "is float"),
        ("1" + "0" * 5000, "is int"),
        (True, "is bool"),
        (None, "is null"),
        ([SECRET], "is list"),
        ({"a": SECRET}, "is object"),
    ],
    ids=["integer", "fraction", "5001 digits", "true", "null", "list", "object"],
)
def test_b012_json_field_that_is_not_text_names_line_and_field(write, field, value, kind):
    # Python's int takes no more than 4300 digits, so the long number is given as its digits.
    text = value if isinstance(value, str) else json.dumps(value)
    bad = json.dumps(row() | {field: "@"}).replace('"@"', text)
    path = write("rows.jsonl", f"{json.dumps(row())}\n\n{bad}\n")
    refusal(path, "line 3", repr(field), kind, "quotes")


def test_b012_numbers_are_ids_and_split_values_in_their_written_form(write):
    columns = ColumnsConfig(id="id", split="part")
    long = "9" * 5000
    body = json.dumps(row())[:-1]
    path = write("rows.jsonl", f'{body}, "id": 1.50, "part": 0}}\n{body}, "id": {long}, "part": 1}}')
    read_rows = list(read_source(path, columns, rationale_sources=["default"]))
    assert [(one.example.row_id, one.split) for one in read_rows] == [("1.50", "0"), (long, "1")]
    assert {type(one.example.row_id) for one in read_rows} == {str}


def test_b013_row_order_never_decides_whether_a_file_loads(write_jsonl):
    """Thousands of empty values in columns of no interest come first, or last."""
    first = [row(note=None, other="") for _ in range(3000)]
    last = [row(note="text", other={"a": 1}), row()]
    forward = read(write_jsonl(*first, *last))
    backward = read(write_jsonl(*last, *first))
    assert [one.label for one in forward] == [one.label for one in backward] == ["yes"] * 3002


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    ("encoding", "wanted"),
    [
        # Python 3.13 says at which byte, earlier ones why.
        ("utf-16", "is not utf-16"),
        ("undefined", "is not undefined"),
        ("a\0b", "encoding 'a\\x00b': is not known"),
        ("\ud800", "encoding '\\ud800': is not known"),
        ("rot13", "encoding 'rot13': is not known"),
    ],
)
def test_an_encoding_that_does_not_fit_is_one_line(write, name, encoding, wanted):
    path = write(name, f"{HEADER}\nq,yes,é\n" if name == "rows.csv" else json.dumps([row("q")]))
    with pytest.raises(UserError) as caught:
        read(path, encoding=encoding)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_b015_byte_order_mark_is_dropped(write, encoding):
    setting = {"encoding": "utf-16"} if encoding == "utf-16" else {}
    table = write("rows.csv", f"{HEADER}\r\nq,yes,é\r\n", encoding)
    lines = write("rows.jsonl", json.dumps(row("q", rationale="é"), ensure_ascii=False), encoding)
    array = write("rows.json", json.dumps([row("q", rationale="é")], ensure_ascii=False), encoding)
    for path in (table, lines, array):
        (example,) = read(path, **setting)
        assert (example.question, example.rationales["default"]) == ("q", "é")


def test_b015_missing_column_lists_the_columns_and_the_nearest(write):
    path = write("rows.csv", f'Question,labels,rationale\n"{SECRET}",yes,r\n')
    # All of them at once.
    text = refusal(
        path,
        "no column 'question', nor 'label'; columns found: 'Question', 'labels', 'rationale'",
        "Did you mean 'Question', 'labels'?",
    )
    assert text.index("Did you mean") > text.index("columns found")
    path = write("rows.csv", f'question,labell,rationale\n"{SECRET}",yes,r\n')
    refusal(path, "no column 'label'", "Did you mean 'labell'?")


def test_a_file_without_header_does_not_print_its_first_row(write):
    path = write("rows.csv", f'"{SECRET * 3}",yes,"{SECRET * 2}"\n"{SECRET}",no,r\n')
    text = refusal(
        path,
        "no column 'question', nor 'label', 'rationale'; columns found: 3",
        "which look like data",
        "in the first line",
    )
    assert "yes" not in text


@pytest.mark.parametrize(
    "lines",
    [
        ["Ann Smith,chest pain,urgent", "Bo Miller,ear ache,urgent"],
        ["Ann Smith,chest pain,67", "Bo Miller,ear ache,71"],
        ["Ann Smith,chest pain,2026-01-04", "Bo Miller,ear ache,2026-01-05"],
        ["Ann Smith,She fell at home after dinner yesterday,urgent", "Bo Miller,Ear ache,routine"],
        ["Ann Smith,Chest pain.,urgent", "Bo Miller,Ear ache.,routine"],
        ["Ann Smith,yes,yes", "Bo Miller,yes,no"],
    ],
    ids=["a value again", "number", "date", "words", "sentence", "twice"],
)
@pytest.mark.parametrize("to_predict", [False, True])
def test_cells_of_a_first_row_are_not_told_as_names(write, lines, to_predict):
    path = write("rows.csv", "".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError) as caught:
        read(path, need_targets=not to_predict)
    for cell in lines[0].split(","):
        assert cell not in str(caught.value).replace(str(path), "")


@pytest.mark.parametrize(
    ("name", "header", "told"),
    [
        ("rows.csv", "question;label;rationale", "';'"),
        ("rows.csv", "question;label;the, rationale;more", "';'"),
        ("rows.csv", "question\tlabel\trationale", "tabs"),
        ("rows.csv", "question|label|rationale", "'|'"),
        ("rows.tsv", "question,label,rationale", "','"),
    ],
)
@pytest.mark.parametrize("row", ["q;yes;r", "q, and more;yes;r, and more"])
def test_another_delimiter_is_named(write, name, header, told, row):
    """Semicolons are what spreadsheets write in half of Europe; the advice was about quotes, or a nearest name."""
    refusal(write(name, f"{header}\n{row}\n"), "separated by " + told, "with commas")
    # A column may be called so all the same.
    assert (
        len(read(write("odd.csv", "question;1,label,rationale\nq,yes,r\n"), ColumnsConfig("question;1"))) == 1
    )


def test_b016_quoted_line_breaks_and_windows_line_ends(write):
    content = f'{HEADER}\r\nq1,yes,"a ""b""\r\nc"\r\n\r\nq2,no,d\r\n'
    examples = read(write("rows.csv", content))
    assert [one.rationales["default"] for one in examples] == ['a "b"\r\nc', "d"]
    assert [one.row_id for one in examples] == ["line 2", "line 5"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("cells", [2, 4])
def test_b016_ragged_row_names_record_and_physical_line(write, end, cells):
    lines = [HEADER, f'q,yes,"two{end}lines"', "", ",".join([SECRET.replace(",", "")] * cells)]
    refusal(write("rows.csv", end.join(lines)), "line 5 (record 2)", f"{cells} cells, the header 3")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("again", [HEADER, f"\ufeff{HEADER}", '\ufeff"question",label,rationale'])
def test_a_header_in_the_middle_is_neither_row_nor_class(write, end, again):
    """`cat jan.csv feb.csv` gave a row whose label was "label"."""
    lines = [HEADER, f'{SECRET.split(",")[0]},yes,"a{end}b"', again, "q,no,r", ""]
    refusal(write("rows.csv", end.join(lines)), "rows.csv line 4: repeats the header", "Remove this line")
    # A row may hold the name of a column.
    assert len(read(write("rows.csv", f"{HEADER}\nquestion,label,why\nlabel,label,rationale\n"))) == 2


@pytest.mark.parametrize("bad", ['"never closed, yes, r\nq,yes,r\nq,yes,r', f'"{SECRET}"x,yes,r'])
def test_b016_broken_quoting_names_the_line_where_the_row_begins(write_csv, bad):
    refusal(write_csv('q,yes,"a\nb"', bad), "line 4 (record 2)", "broken quoting")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("between", [[], ["cough", "", "rash"]])
def test_a_stray_quote_that_merges_rows_is_told(write, end, kind, delimiter, column, between):
    """One record with as many cells as the header: rows were lost, and the gold label of one was in another's input."""
    questions = ["never so", '"worst headache', *between, 'fell from 5"', "well"]
    lines = [
        HEADER,
        *(",".join(["yes"] * column + [one] + ["r"] * (2 - column)) if one else "" for one in questions),
    ]
    path = write(f"rows.{kind}", end.join(lines).replace(",", delimiter) + end)
    rows = len([one for one in between if one]) + 2
    refusal(path, "line 3 (record 2)", f"looks like {rows} rows in one quoted cell", "Double the quotes")


@pytest.mark.parametrize(
    "record",
    [
        # The commas of prose: one line and two commas, and where they would be the ends of rows.
        'q,yes,"a fever, a cough\nand pain, too"',
        '"Pain, fever, 2 days\nno cough",yes,r',
        # A writer that quotes every cell cannot leave a stray quote behind.
        '"a,b,c\nd","yes","r"',
        # As many delimiters, at other places than those of rows.
        '"a,b\nc,d",yes,r',
        'q,"a,b,c\nd",r',
        'q,yes,"a\n\nb"',
    ],
)
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_quoted_cells_of_several_lines_stay_cells(write, record, kind):
    text = f"{HEADER}\n{record}\n"
    text = text.replace(",", "\t").replace("\t ", ", ") if kind == "tsv" else text
    (example,) = read(write(f"rows.{kind}", text))
    assert "\n" in "".join([example.question, example.label, example.rationales["default"]])


def test_b016_cell_longer_than_the_csv_default(write_csv):
    (example,) = read(write_csv(f"{'x' * 200_000},yes,r"))
    assert len(example.question) == 200_000


@pytest.mark.parametrize("encoding", ["latin-1", "ISO-8859-15"])
def test_b019_a_windows_file_is_not_latin_1(write, encoding):
    """Dashes and quotes became control characters without a word in `r2d predict` and `r2d eval`."""
    content = f"{HEADER}\nq,yes,r\n{'x' * 9000} 120\u2013130,no,r\n"
    path = write("rows.csv", content, "cp1252")
    refusal(path, "line 3", f"byte {content.index(chr(0x2013))} ", "Name cp1252", encoding=encoding)
    assert read(path, encoding="cp1252")[1].question.endswith("120\u2013130")


def test_b019_wrong_encoding_names_line_and_byte(write):
    content = f"{HEADER}\nq,yes,r\n{SECRET.replace(',', '')} caf\xe9,no,r\n"
    path = write("rows.csv", content, "latin-1")
    refusal(path, "line 3", f"byte {content.index(chr(0xE9))} ", "data.encoding", "cp1252")
    assert read(path, encoding="latin-1")[1].question.endswith("café")
    refusal(write("wide.csv", content, "utf-16"), "byte 0 ", "utf-16")
    path = write("page.csv", content.replace("caf", "\x81"), "latin-1")
    assert "for example" not in refusal(path, "is not cp1252", encoding="cp1252")
    with pytest.raises(UserError, match=r"encoding 'utf-9': is not known"):
        read(path, encoding="utf-9")


@pytest.mark.parametrize("field", ["question", "label", "rationale", "context"])
def test_b019_replacement_characters_are_counted_by_field(write_jsonl, field):
    columns = ColumnsConfig(context="context")
    bad = row(context="c") | {field: "a\ufffdb\ufffd"}
    path = write_jsonl(row(context="c", other="\ufffd"), bad)
    with pytest.warns(UserWarning, match="U\\+FFFD") as caught:
        read_examples(path, columns, rationale_sources=["default"])
    (message,) = [str(one.message) for one in caught]
    assert "2 replacement characters" in message
    assert "first at line 2" in message
    assert field in message


def test_lone_surrogate_is_refused_where_it_stands(write):
    """A tokenizer or an output file would otherwise stop late, with no place named."""
    path = write(
        "rows.jsonl", json.dumps(row()) + '\n{"question": "a\\ud83d", "label": "x", "rationale": "r"}'
    )
    refusal(path, "line 2", "'question'", "surrogate")
    whole = write("ok.jsonl", '{"question": "\\ud83d\\ude00", "label": "x", "rationale": "r"}')
    assert read(whole)[0].question == "\U0001f600"


def test_b020_broken_row_names_the_physical_line_of_the_file(write):
    good = json.dumps(row())
    for bad, reason in [
        (f'{{"question": "{SECRET}"', "Expecting ',' delimiter"),
        (f'{{"question": "{SECRET}', "Unterminated string"),
        (f"['{SECRET}']", "Expecting value"),
        (f'["{SECRET}"]', "a JSON list, not an object"),
        (f'"{SECRET}"', "a JSON text, not an object"),
        ("3", "a JSON int, not an object"),
        ("null", "a JSON null, not an object"),
        (f'{{"label": "a", "question": "{SECRET}", "label": "b"}}', "key 'label' appears twice"),
        ("[" * 100_000, "nested too deeply"),
    ]:
        refusal(write("rows.jsonl", f"\n{good}\n  \n{bad}\n{good}\n"), "line 4", reason)


def test_b020_line_separators_inside_json_strings_do_not_end_a_row(write):
    lines = [json.dumps(row("a\u2028b\x85c"), ensure_ascii=False), '{"question": 1}']
    path = write("rows.jsonl", "\n".join(lines))
    refusal(path, "line 2")
    assert read(write("ok.jsonl", lines[0]))[0].question == "a\u2028b\x85c"


def test_b020_json_array_is_read_and_its_faults_name_the_element(write):
    assert [one.row_id for one in read(write("a.json", json.dumps([row(), row()], indent=1)))] == [
        "element 1",
        "element 2",
    ]
    refusal(write("b.json", json.dumps([row(), row(label="")], indent=1)), "element 2", "'label'", "empty")
    refusal(write("c.json", json.dumps([row(), [SECRET]])), "element 2", "a JSON list")
    refusal(write("d.json", json.dumps({"7": row()})), "is not a JSON array")
    refusal(write("e.json", "[]"), "no rows")
    refusal(write("f.json", '[\n{"question" "a"}\n]'), "line 2", "':' delimiter")
    refusal(write("g.jsonl", json.dumps([row()], indent=1)), "line 1", ".json file")


@pytest.mark.parametrize("empty", ["", "  ", "\t\n", "\u00a0", "\u200b", "\ufeff \u200f"])
@pytest.mark.parametrize("field", ["question", "label", "rationale"])
def test_b021_empty_field_names_line_and_field(write_jsonl, field, empty):
    refusal(write_jsonl(row(), row() | {field: empty}), "line 2", repr(field), "empty")


@pytest.mark.parametrize("field", ["question", "label", "rationale"])
def test_b021_field_that_a_row_lacks(write_jsonl, field):
    bad = row()
    del bad[field]
    refusal(write_jsonl(row(), bad), "line 2", repr(field), "missing")


def test_b021_rows_to_predict_stay_in_place_with_an_empty_question(write, write_jsonl):
    path = write_jsonl({"question": "a"}, {"question": ""}, {"question": None, "label": 3}, {"other": 1})
    examples = read(path, sources=(), need_targets=False)
    assert [one.question for one in examples] == ["a", "", "", ""]
    assert {one.label for one in examples} == {""}
    table = write("rows.csv", "question,label\na,None\n,\nb,\n")
    assert [one.question for one in read(table, sources=(), need_targets=False)] == ["a", "", "b"]
    refusal(
        write_jsonl({"question": "a"}, {"question": 5}), "line 2", "is int", sources=(), need_targets=False
    )
    refusal(write_jsonl({"text": "a"}), "no column 'question'", sources=(), need_targets=False)


def test_b022_an_edited_file_is_read_anew(write_csv):
    assert read(write_csv("q,yes,r"))[0].label == "yes"
    assert read(write_csv("q,no!,r"))[0].label == "no!"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("rows.csv", "", "empty"),
        ("rows.csv", " \n\n", "empty"),
        ("rows.jsonl", "\ufeff\n", "empty"),
        ("rows.csv", HEADER + "\n", "no rows"),
        ("rows.xlsx", "PK", ".xlsx"),
        ("rows", "PK", "no ending"),
    ],
)
def test_b107_file_without_rows_is_refused(write, name, content, part):
    refusal(write(name, content), part)


def test_b107_missing_file_and_folder_are_refused(tmp_path):
    refusal(tmp_path / "none.jsonl", "no such file")
    refusal(tmp_path, "folder")


def test_duplicate_header_and_unnamed_columns(write):
    refusal(
        write("rows.csv", "question,label,label,rationale\nq,a,b,r\n"),
        "line 1",
        "column 2 is that of column 3",
    )
    # Spreadsheets leave empty columns at the right edge, and blank lines on top.
    (example,) = read(write("ok.csv", "\nquestion,label,rationale,,\nq,yes,r,,\n"))
    assert (example.row_id, example.label) == ("line 3", "yes")


def test_duplicate_id_names_both_lines_and_not_the_id(write):
    columns = ColumnsConfig(id="id")
    path = write("rows.csv", "id,question,label,rationale\nMRN-77,q,yes,r\n1,q,yes,r\nMRN-77,q,yes,r\n")
    assert "MRN" not in refusal(path, "line 4", "line 2", columns=columns)


def test_only_named_columns_are_looked_at(write_jsonl):
    columns = ColumnsConfig(
        question="q", context="c", label="y", rationales={"llm": "r1", "nurse": "r2"}, id="k"
    )
    path = write_jsonl(
        {
            "q": "a",
            "c": "b",
            "y": "l",
            "r1": "one",
            "r2": 5,
            "k": "K",
            "question": None,
            "extra": [1, {"a": None}],
        }
    )
    (example,) = read(path, columns, ["llm"])
    assert (example.row_id, example.question, example.context, example.label) == ("K", "a", "b", "l")
    assert example.rationales == {"llm": "one"}
    refusal(path, "'r2'", "is int", columns=columns, sources=["llm", "nurse"])


def test_unknown_rationale_source_is_told(write_jsonl):
    with pytest.raises(UserError, match=r"'nurse' is not one of data.columns.rationales \('default'\)"):
        read(write_jsonl(row()), sources=["nurse"])


def test_context_may_be_empty_but_not_absent(write_jsonl):
    columns = ColumnsConfig(context="context")
    assert [one.context for one in read(write_jsonl(row(context="c"), row(context=""), row()), columns)] == [
        "c",
        "",
        "",
    ]
    refusal(write_jsonl(row()), "no column 'context'", columns=columns)


def test_split_column_is_not_needed_where_no_split_is_asked_for(write_jsonl):
    """A file to evaluate has no split column although the training file had one."""
    assert len(read(write_jsonl(row()), ColumnsConfig(split="split"))) == 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: not is_blank(text))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4),
    st.sampled_from(["csv", "tsv", "jsonl", "json"]),
)
def test_any_text_comes_back_exactly(tmp_path_factory, cells, kind):
    path = tmp_path_factory.mktemp("any") / f"rows.{kind}"
    rows = [dict(zip(("question", "label", "rationale"), one, strict=True)) for one in cells]
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind in ("csv", "tsv"):
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
            writer.writerows([list(rows[0]), *(one.values() for one in rows)])
        elif kind == "json":
            json.dump(rows, file, ensure_ascii=False)
        else:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examples = read_examples(path, COLUMNS, rationale_sources=["default"])
    assert [(one.question, one.label, one.rationales["default"]) for one in examples] == cells
