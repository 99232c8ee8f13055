"""e-SNLI and ECQA: CSV as their authors publish it, several explanations a row, and rows without gold counted."""

import io

import pandas as pd
import pytest

pytest_plugins = ["named_cases"]

from named_cases import SECRET

TRAIN = ["pairID", "gold_label", "Sentence1", "Sentence2", "Explanation_1", "WorkerId", "Sentence1_marked_1",
         "Sentence2_marked_1", "Sentence1_Highlighted_1", "Sentence2_Highlighted_1"]  # fmt: skip
HELD_OUT = [*TRAIN[:5], *TRAIN[6:]] + [
    f"{name}_{number}"
    for number in (2, 3)
    for name in ("Explanation", "Sentence1_marked", "Sentence2_marked", "Sentence1_Highlighted",
                 "Sentence2_Highlighted")
]  # fmt: skip


def csv_text(rows, columns, end="\r\n"):
    return pd.DataFrame(rows, columns=columns, dtype=str).to_csv(index=False, lineterminator=end)


def pair(number, label="neutral", **changes):
    return {
        "pairID": f"{number}.jpg#0r1n",
        "gold_label": label,
        "Sentence1": f"A man rides horse {number}.",
        "Sentence2": "He is outside.",
        "Explanation_1": "One can ride inside.",
        "WorkerId": "A1",
        "Explanation_2": "Second.",
        "Explanation_3": "Third.",
    } | changes


@pytest.fixture
def esnli(put):
    def write(first=(), second=(), dev=(), test=()):
        put("dataset/esnli_train_1.csv", csv_text([pair(1, "entailment"), *first], TRAIN))
        put("dataset/esnli_train_2.csv", csv_text([pair(2, "contradiction"), *second], TRAIN))
        put("dataset/esnli_dev.csv", csv_text([pair(3), *dev], HELD_OUT))
        put("dataset/esnli_test.csv", csv_text([pair(4), *test], HELD_OUT))

    return write


def test_esnli_rows_by_hand(esnli, made):
    esnli()
    data = made("esnli")
    assert data.rows[0] == {
        "id": "1.jpg#0r1n",
        "split": "train",
        "question": "Premise: A man rides horse 1. Hypothesis: He is outside.",
        "context": "",
        "label": "entailment",
        "rationale": "One can ride inside.",
        "rationale_2": "",
        "rationale_3": "",
    }
    held_out = data.row("3.jpg#0r1n")
    assert [held_out[name] for name in ("rationale", "rationale_2", "rationale_3")] == [
        "One can ride inside.", "Second.", "Third."]  # fmt: skip
    assert [row["split"] for row in data.rows] == ["train", "train", "validation", "test"]
    assert data.card["rationales"] == {"rationale": 4, "rationale_2": 2, "rationale_3": 2}
    assert len(data.splits("esnli.yaml").train) == 2


def test_esnli_rows_that_lack_something_are_left_out_and_counted(esnli, made):
    esnli(
        first=[pair(10, ""), pair(11, "-"), pair(12, Explanation_1=""), pair(15, Sentence2="\u200b")],
        dev=[
            pair(13, Explanation_1="\u200b", Explanation_3=""),
            pair(14, Explanation_1="", Explanation_2="", Explanation_3=""),
        ],
    )
    data = made("esnli")
    assert data.card["dropped"] == {"no gold label": 2, "no question": 1, "no rationale": 2}
    moved_up = data.row("13.jpg#0r1n")
    assert [moved_up[name] for name in ("rationale", "rationale_2", "rationale_3")] == ["Second.", "", ""]


def test_b011_b016_cells_are_text_as_written(esnli, made):
    text = 'null, "NA"\r\nNone, 01'
    esnli(first=[pair(10, Sentence1=text, Explanation_1=text)])
    row = made("esnli").row("10.jpg#0r1n")
    assert (row["question"], row["rationale"]) == (f"Premise: {text} Hypothesis: He is outside.", text)


def test_esnli_label_of_another_spelling_is_refused(esnli, refused):
    esnli(second=[pair(10, "Neutral", Sentence1=SECRET)])
    refused("esnli", "esnli_train_2.csv line 3", "none of entailment, neutral, contradiction")


def test_esnli_pair_that_stands_twice_gets_a_number(esnli, made):
    esnli(second=[pair(1)])
    assert [row["id"] for row in made("esnli").rows[:3]] == ["1.jpg#0r1n", "2.jpg#0r1n", "1.jpg#0r1n#2"]


def test_esnli_missing_column_lists_those_there(esnli, put, refused):
    esnli()
    put("dataset/esnli_dev.csv", csv_text([pair(3)], [*HELD_OUT[:9]]))
    refused("esnli", "esnli_dev.csv line 2", "no field 'Explanation_2'", "'Explanation_1'")


def test_esnli_ragged_row_names_record_and_line(esnli, put, refused):
    esnli()
    put("dataset/esnli_test.csv", csv_text([pair(3)], HELD_OUT) + f"4,neutral,{SECRET}\r\n")
    refused("esnli", "esnli_test.csv line 3 (record 2)", "3 cells")


# ECQA

ECQA = ["q_no", "q_concept", "q_text", "q_op1", "q_op2", "q_op3", "q_op4", "q_op5", "q_ans", "taskA_pos",
        "taskA_neg", "taskB"]  # fmt: skip


def asked(number, answer="bank", **changes):
    options = dict(zip(ECQA[3:8], ["bank", "library", "null", "mall", "01"], strict=True))
    return {
        "q_no": f"{number:032x}",
        "q_concept": "revolving door",
        "q_text": f"Where is door {number}?",
        **options,
        "q_ans": answer,
        "taskA_pos": "Banks have doors.\nThey turn.",
        "taskA_neg": "A mall is open.",
        "taskB": 'Banks "turn" people\naway.',
    } | changes


@pytest.fixture
def ecqa(put):
    """Files as pandas writes them in the authors' script: an index in a column without a name, \\n at line ends."""

    def write(*train):
        parts = {"train": [asked(1), *train], "val": [asked(2)], "test": [asked(3)]}
        for name, rows in parts.items():
            file = io.StringIO()
            pd.DataFrame(rows, columns=ECQA).to_csv(file, encoding="utf-8")
            put(f"cqa_data_{name}.csv", file.getvalue())

    return write


def test_ecqa_rows_by_hand(ecqa, made):
    ecqa(asked(4, "null"), asked(5, "01"))
    data = made("ecqa")
    assert data.rows[0] == {
        "id": f"{1:032x}",
        "split": "train",
        "question": "Where is door 1? Choices: (A) bank (B) library (C) null (D) mall (E) 01",
        "context": "",
        "label": "bank",
        "rationale": 'Banks "turn" people\naway.',
        "positive_properties": "Banks have doors.\nThey turn.",
        "negative_properties": "A mall is open.",
    }
    assert [row["label"] for row in data.rows] == ["bank", "null", "01", "bank", "bank"]
    assert data.card["rows"] == {"train": 3, "validation": 1, "test": 1}
    assert len(data.splits("ecqa.yaml").train) == 3


def test_ecqa_rows_that_cannot_be_used_are_counted(ecqa, made):
    ecqa(asked(4, "Bank"), asked(5, "\u200b"), asked(6, taskB=" "), asked(7, q_text=""))
    assert made("ecqa").card["dropped"] == {
        "answer that is none of the options": 1,
        "no label": 1,
        "no question": 1,
        "no rationale": 1,
    }


def test_ecqa_rationales_that_are_blank_are_not_counted(ecqa, made):
    ecqa(asked(4, taskA_pos=" "), asked(5, taskA_neg="\u200b"))
    assert made("ecqa").card["rationales"] == {
        "rationale": 5,
        "positive_properties": 4,
        "negative_properties": 4,
    }


def test_ecqa_one_missing_file_is_told_with_where_to_get_it(ecqa, source, refused):
    ecqa()
    (source / "cqa_data_val.csv").unlink()
    refused("ecqa", "no file cqa_data_val.csv", "generate_data.py")
