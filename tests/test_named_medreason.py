"""MedReason: the label is the option that the answer names, and an answer that names none is not guessed at."""

import gzip
import json

import pytest

pytest_plugins = ["named_cases"]

from named_cases import SECRET

OPTIONS = "Answer Choices:\nA. Deep muscle\nB. Outer membrane\nC. Colle's fascia\nD. Colle's fascia and skin"


def line(number, answer="Outer membrane. Explanation: It is outside.", options=OPTIONS, **more):
    return {
        "dataset_name": "medmcqa",
        "id_in_dataset": number,
        "question": f"Which layer is number {number}?",
        "answer": answer,
        "reasoning": "Finding reasoning paths:\n1. layer -> membrane\nConclusion: so.",
        "options": options,
    } | more


MANY = [line(number) for number in range(100, 160)]


@pytest.fixture
def lines(put):
    def write(*rows, end="\n"):
        put("ours_quality_33000.jsonl", end.join(json.dumps(row) for row in [*rows, *MANY]) + end)

    return write


def test_a_row_by_hand(lines, made):
    lines(line(7, note={"extra": [1]}), end="\r\n")
    data = made("medreason")
    row = data.row("medmcqa-7")
    assert row.pop("split") in ("train", "validation", "test")
    assert row == {
        "id": "medmcqa-7",
        "question": f"Which layer is number 7?\n{OPTIONS}",
        "context": "",
        "label": "Outer membrane",
        "rationale": "Finding reasoning paths:\n1. layer -> membrane\nConclusion: so.",
    }
    assert data.card["noted"] == {"labels found by text of the answer": 61}
    assert len(data.splits("medreason.yaml").train) == data.card["rows"]["train"]


def test_a_packed_file_gives_the_same_rows(lines, source, made):
    lines(line(7))
    plain = made("medreason").rows
    packed = source / "part.jsonl.gz"
    packed.write_bytes(gzip.compress((source / "ours_quality_33000.jsonl").read_bytes()))
    assert made("medreason", "packed", source=packed).rows == plain


YES_NO = "Answer Choices:\nA. yes\nB. no\nC. maybe"


@pytest.mark.parametrize(
    ("answer", "options", "label", "rule"),
    [
        ("Deep muscle", OPTIONS, "Deep muscle", "text"),
        (" deep  MUSCLE. ", OPTIONS, "Deep muscle", "text"),
        ("Colle's fascia. Explanation: not the skin", OPTIONS, "Colle's fascia", "text"),
        ("B", OPTIONS, "Outer membrane", "letter"),
        ("(b).", OPTIONS, "Outer membrane", "letter"),
        ("Colle's fascia and skin, since they touch", OPTIONS, "Colle's fascia and skin", "beginning"),
        ("Colle's fascia, for it touches", OPTIONS, "Colle's fascia", "beginning"),
        ("It is not so. The final decision is: no.", YES_NO, "no", "final decision"),
        ("None", "Answer Choices:\nA. NA\nB. None", "None", "text"),
        ("01", "Answer Choices:\nA. 1\nB. 01", "01", "text"),
        ("two", {"A": "one", "B": "two"}, "two", "text"),
        ("b", ["one", "two"], "two", "letter"),
    ],
)
def test_the_label_is_an_option_as_written(lines, made, answer, options, label, rule):
    lines(line(1, answer, options))
    data = made("medreason")
    assert data.row("medmcqa-1")["label"] == label
    noted = {f"labels found by {rule} of the answer": 1, "labels found by text of the answer": 60}
    if rule == "text":
        noted = {"labels found by text of the answer": 61}
    assert data.card["noted"] == noted


@pytest.mark.parametrize("answer", ["Colle", "Skin", "E", "The final decision is: yes", "Deep muscles", ""])
def test_an_answer_that_is_no_option_is_left_out_and_counted(lines, made, answer):
    lines(line(1, answer))
    assert made("medreason").card["dropped"] == {"answer that is none of the options": 1}


@pytest.mark.parametrize("options", ["", None, {}, []])
def test_open_questions_are_labelled_by_their_answer(lines, made, options):
    lines(line(1, "Aspirin, 75 mg. Explanation: why", options), line(2, "x" * 301, options))
    data = made("medreason")
    row = data.row("medmcqa-1")
    assert (row["question"], row["label"]) == ("Which layer is number 1?", "Aspirin, 75 mg.")
    assert data.card["dropped"] == {"open question whose answer has over 300 characters": 1}
    assert data.card["noted"]["open questions: label is the answer's text"] == 1


def test_rows_without_reasoning_or_question_are_left_out(lines, made):
    lines(line(1, reasoning=""), line(2, reasoning=None), line(3, question=" "))
    assert made("medreason").card["dropped"] == {"no question": 1, "no rationale": 2}


def test_b012_ids_are_numbers_or_text_as_written_and_made_unique(lines, made):
    lines(line("007"), line(7, question="Another?"), line(7, question="A third?"))
    ids = [row["id"] for row in made("medreason").rows[:3]]
    assert ids == ["medmcqa-007", "medmcqa-7", "medmcqa-7#2"]


def test_the_same_question_stays_in_one_split_with_other_options(lines, made):
    same = [line(number, "one", ["one", str(number)], question="The same?") for number in range(1, 12)]
    lines(*same)
    data = made("medreason")
    assert len({row["split"] for row in data.rows[:11]}) == 1


def test_long_labels_are_not_shown_in_the_card(lines, made):
    """Where labels are open text they are as good as case text."""
    secret = f"{SECRET}, 44 y, came with stabbing pain in the morning"
    lines(line(1, secret, ["one", secret]), line(2, SECRET, ""))
    data = made("medreason")
    assert data.row("medmcqa-1")["label"] == secret
    texts = [(data.folder / name).read_text(encoding="utf-8") for name in ("data_card.json", "data_card.md")]
    assert not any(secret in text for text in texts)
    assert data.card["labels"]["distinct"] == 3


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (f'{{"question": "{SECRET}"', ["line 2", "is not JSON"]),
        (f'["{SECRET}"]', ["line 2", "a JSON list, not an object"]),
        (json.dumps(line(1, answer=[SECRET])), ["line 2", "'answer'", "is list"]),
        (json.dumps({"question": SECRET, "answer": "B"}), ["line 2", "no field 'dataset_name'"]),
        (json.dumps(line(1, options=5)), ["line 2", "'options'", "is int"]),
    ],
)
def test_b020_a_broken_line_is_named(put, refused, bad, parts):
    put("ours_quality_33000.jsonl", f"{json.dumps(line(0))}\n{bad}\n{json.dumps(line(2))}\n")
    refused("medreason", "ours_quality_33000.jsonl", *parts)
