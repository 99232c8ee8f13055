"""DDXPlus: codes become words, lists are parsed without running them, and what the code books lack is told by row."""

import csv
import io
import zipfile

import pytest

from r2d_jax.data.named.ddxplus_codes import parse_codes
from r2d_jax.errors import UserError

pytest_plugins = ["named_cases"]

from named_cases import SECRET


def evidence(code, question, kind, default, values=None, possible=()):
    return {
        "name": code,
        "code_question": code,
        "question_fr": "Une question?",
        "question_en": question,
        "is_antecedent": False,
        "default_value": default,
        "value_meaning": {key: {"fr": "mot", "en": words} for key, words in (values or {}).items()},
        "possible-values": list(possible or values or []),
        "data_type": kind,
    }


EVIDENCES = {
    "E_91": evidence("E_91", "Do you have a fever?", "B", 0),
    "E_53": evidence("E_53", "Do you have pain somewhere?", "B", 0),
    "E_54": evidence(
        "E_54", "Characterize your pain:", "M", "V_11", {"V_11": "NA", "V_161": "sensitive", "V_183": "heavy"}
    ),
    "E_56": evidence("E_56", "How intense is the pain?", "C", 0, possible=range(11)),
    "E_204": evidence(
        "E_204", "Have you traveled lately?", "C", "V_10", {"V_10": "N", "V_0": "North Africa"}
    ),
}


def condition(name, symptoms, antecedents=()):
    return {
        "condition_name": name,
        "cond-name-fr": "Une maladie",
        "cond-name-eng": name,
        "icd10-id": "J00",
        "symptoms": {code: {} for code in symptoms},
        "antecedents": {code: {} for code in antecedents},
        "severity": 3,
    }


CONDITIONS = {
    "URTI": condition("URTI", ["E_91", "E_54", "E_56"], ["E_204"]),
    "Possible NSTEMI / STEMI": condition("Possible NSTEMI / STEMI", ["E_53"]),
}
COLUMNS = ("AGE", "DIFFERENTIAL_DIAGNOSIS", "SEX", "PATHOLOGY", "EVIDENCES", "INITIAL_EVIDENCE")
CODES = "['E_91', 'E_53', 'E_54_@_V_161', 'E_54_@_V_183', 'E_56_@_4', 'E_204_@_V_10']"


def patient(**changes):
    cells = {
        "AGE": "18",
        "DIFFERENTIAL_DIAGNOSIS": "[['URTI', 0.6], ['Bronchitis', 0.4]]",
        "SEX": "M",
        "PATHOLOGY": "URTI",
        "EVIDENCES": CODES,
        "INITIAL_EVIDENCE": "E_91",
    }
    return cells | changes


def table(*patients, columns=COLUMNS):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(patients)
    return file.getvalue()


@pytest.fixture
def patients(put):
    """Three patient files with the code books; the train rows are given."""

    def write(*train, **options):
        put("release_evidences.json", EVIDENCES)
        put("release_conditions.json", CONDITIONS)
        put("release_train_patients.csv", table(*train, **options))
        for name in ("validate", "test"):
            put(f"release_{name}_patients.csv", table(patient()))

    return write


FEVER = "Do you have a fever? yes."
PAIN = "Do you have pain somewhere? yes."
KIND = "Characterize your pain: sensitive, heavy."
HOW_MUCH = "How intense is the pain? 4 (0 to 10)."
NOT_AWAY = "Have you traveled lately? no."


def test_b025_codes_become_words_and_the_target_is_pathology(patients, made):
    patients(
        patient(),
        patient(PATHOLOGY="Possible NSTEMI / STEMI", SEX="F", AGE="109", INITIAL_EVIDENCE="E_56_@_4"),
    )
    data = made("ddxplus")
    assert data.rows[:2] == [
        {
            "id": "train-1",
            "split": "train",
            "question": f"Age: 18. Sex: male. First complaint: {FEVER} What is the diagnosis?",
            "context": " ".join([FEVER, PAIN, KIND, HOW_MUCH, NOT_AWAY]),
            "label": "URTI",
            # Not the pain, which is no symptom of it, nor the journey, which has its default value.
            "evidence": f"{FEVER} {KIND} {HOW_MUCH} These findings are listed for URTI.",
        },
        {
            "id": "train-2",
            "split": "train",
            "question": f"Age: 109. Sex: female. First complaint: {HOW_MUCH} What is the diagnosis?",
            "context": " ".join([FEVER, PAIN, KIND, HOW_MUCH, NOT_AWAY]),
            "label": "Possible NSTEMI / STEMI",
            "evidence": f"{PAIN} These findings are listed for Possible NSTEMI / STEMI.",
        },
    ]
    assert data.card["rows"] == {"train": 2, "validation": 1, "test": 1}
    assert "Bronchitis" not in (data.folder / "rows.jsonl").read_text()
    assert dict(data.splits("ddxplus.yaml").train[0].rationales) == {"evidence": data.rows[0]["evidence"]}


def test_a_patient_without_an_age_is_left_out_and_counted(patients, made):
    patients(patient(), patient(AGE=" "))
    assert made("ddxplus").card["dropped"] == {"no question": 1}


def test_columns_are_found_by_name_in_any_order(patients, made):
    patients(patient(NOTE="x"), columns=("NOTE", *reversed(COLUMNS)))
    assert made("ddxplus").rows[0]["label"] == "URTI"


def test_rows_without_listed_findings_are_counted(patients, made):
    patients(patient(EVIDENCES="['E_204_@_V_10']"), patient(EVIDENCES="[]"))
    data = made("ddxplus")
    assert [row["evidence"] for row in data.rows[:2]] == ["None of the findings is listed for URTI."] * 2
    assert data.card["noted"] == {"rows without a finding that is listed for their pathology": 2}


@pytest.mark.parametrize("as_member", ["release_train_patients", "folder/release_train_patients.csv"])
def test_zipped_patients_are_unpacked_and_the_copy_removed(patients, source, made, tmp_path, as_member):
    """The published archives hold one file without an ending."""
    patients(patient())
    path = source / "release_train_patients.csv"
    with zipfile.ZipFile(source / "release_train_patients.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(as_member, path.read_text())
        archive.writestr("__MACOSX/._release_train_patients", "x")
    path.unlink()
    data = made("ddxplus")
    assert data.card["rows"]["train"] == 1
    assert "release_train_patients.zip" in {one["file"] for one in data.card["inputs"]}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["original", "out"]


def test_patients_without_an_ending_are_read(patients, source, made):
    patients(patient())
    (source / "release_train_patients.csv").rename(source / "release_train_patients")
    assert made("ddxplus").card["rows"]["train"] == 1


def test_a_broken_archive_is_refused(patients, source, refused):
    patients(patient())
    (source / "release_train_patients.csv").unlink()
    (source / "release_train_patients.zip").write_bytes(b"PK\x03\x04 broken")
    refused("ddxplus", "release_train_patients.zip", "is not a readable zip file")


@pytest.mark.parametrize(
    ("packing", "start"), [(zipfile.ZIP_DEFLATED, 0), (zipfile.ZIP_BZIP2, 0), (zipfile.ZIP_LZMA, 9)]
)
def test_damage_within_an_archive_is_refused(patients, source, refused, packing, start):
    """Its head is sound; each way of packing tells it by an error of its own, which was a traceback."""
    patients(patient())
    name, packed = "release_train_patients", source / "release_train_patients.zip"
    with zipfile.ZipFile(packed, "w", packing) as archive:
        archive.write(source / f"{name}.csv", name)
    (source / f"{name}.csv").unlink()
    content = bytearray(packed.read_bytes())
    start += 30 + len(name)
    content[start : start + 20] = b"\xff" * 20
    packed.write_bytes(content)
    refused("ddxplus", "release_train_patients.zip", "is not a readable zip file")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"EVIDENCES": "['E_91', 'E_999']"}, ["evidence code 'E_999' is unknown"]),
        ({"EVIDENCES": "['E_54_@_V_999']"}, ["evidence 'E_54' has no value 'V_999'"]),
        ({"EVIDENCES": "['E_56_@_11']"}, ["evidence 'E_56' has no value '11'"]),
        ({"EVIDENCES": "['E_91_@_V_1']"}, ["evidence 'E_91' has no value 'V_1'"]),
        ({"EVIDENCES": "['E_54']"}, ["evidence 'E_54' has no value ''"]),
        ({"EVIDENCES": f"['{SECRET}']"}, ["evidence code (12 characters) is unknown"]),
        ({"EVIDENCES": f"['E_54_@_{SECRET}']"}, ["evidence 'E_54' has no value (12 characters)"]),
        ({"INITIAL_EVIDENCE": SECRET}, ["evidence code (12 characters) is unknown"]),
        ({"INITIAL_EVIDENCE": "E_0"}, ["evidence code 'E_0' is unknown"]),
        ({"PATHOLOGY": "Bronchitis"}, ["'PATHOLOGY'", "'Bronchitis' is unknown"]),
        ({"SEX": "X"}, ["'SEX'", "neither M nor F"]),
    ],
)
def test_b025_what_the_code_books_lack_names_the_row(patients, refused, change, parts):
    patients(patient(), patient() | change)
    refused("ddxplus", "release_train_patients.csv line 3", *parts)


@pytest.mark.parametrize(
    "cell",
    [
        f"__import__('os').system('{SECRET}')",
        f"[print('{SECRET}')]",
        "['E_91'",
        "",
        "{'E_91'}",
        "['E_91', 5]",
        "'E_91'",
        "[" * 5_000,
        "[['E_91']]",
        f"['{'x' * 20_000}']",
    ],
)
def test_b025_a_cell_that_is_no_list_of_codes_is_never_run(patients, refused, cell, capfd):
    patients(patient(EVIDENCES=cell))
    refused("ddxplus", "release_train_patients.csv line 2", "'EVIDENCES'")
    assert capfd.readouterr() == ("", "")


def test_lists_are_read_as_python_or_json():
    assert parse_codes("['E_1', \"d'E_2\"]", "x") == ["E_1", "d'E_2"]
    assert parse_codes(' ["E_1"] ', "x") == ["E_1"]
    with pytest.raises(UserError, match="20002 characters"):
        parse_codes("[" + " " * 20_000 + "]", "x")


def test_b016_windows_line_ends_quotes_and_a_mark_are_read(patients, put, made):
    patients(patient())
    text = table(patient(), patient()).replace("\r\n", "\n").replace("\n", "\r\n")
    put("release_train_patients.csv", text, encoding="utf-8-sig")
    assert made("ddxplus").card["rows"]["train"] == 2


def test_code_books_of_another_shape_are_refused(patients, put, refused):
    patients(patient())
    put("release_evidences.json", EVIDENCES | {"E_1": {"data_type": "Z"}})
    refused("ddxplus", "release_evidences.json line", "none of B, C, M")
    put(
        "release_evidences.json",
        EVIDENCES | {"E_1": {"data_type": "B", "question_en": 5, "default_value": 0}},
    )
    refused("ddxplus", "'question_en'", "is int")
    put("release_evidences.json", EVIDENCES)
    put("release_conditions.json", CONDITIONS | {"x": [SECRET]})
    refused("ddxplus", "release_conditions.json line", "is a JSON list, not an object")
