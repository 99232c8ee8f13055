"""What docs/text.md says, against the tokenizers: the table of markers, and what is lost or replaced."""

import pathlib
import re

import pytest
from tokenizer_cases import without_escape

from r2d_jax.data.text_map import MARKERS
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.runtime.files import write_texts

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def real(shared_data):
    return Tokenizer.load(shared_data / "t5_tokenizer")


def inside(text):
    """The code spans of a line."""
    return re.findall(r"`([^`]+)`", text)


def test_the_table_holds_every_marker():
    table = PAGE.split("```text\n")[1].split("\n```")[0]
    cells = re.findall(r"(\S|line break) U\+([0-9A-F]{4}) (\[[A-Za-z0-9 ]+\])", table)
    assert {chr(int(code, 16)): marker for _, code, marker in cells} == MARKERS
    assert all(char == chr(int(code, 16)) for char, code, _ in cells if char != "line break")
    # Nothing but these cells.
    assert len(cells) == table.count("U+") == len(MARKERS)


def test_what_t5_has_itself(real):
    (listed,) = inside(PAGE.split("is all of the table but ")[1].split(".")[0].replace("\n", " "))
    assert set(listed.split()) == set(MARKERS) - set(real.markers)


def test_what_is_lost_with_t5(real):
    (listed,) = inside(PAGE.split("emoji, control characters, and signs such as ")[1].split(".")[0])
    for char in (*listed.split(), "ж", "ش", "中", "ひ", "😀", "\x00"):
        assert real.unk_id in real.encode(char)
        assert real.unknown_characters(char) == {char}


def test_what_t5_replaces(real):
    rows = [
        line.split("|") for line in PAGE.splitlines() if re.match(r"\| (ligatures|`℃`|superscript and)", line)
    ]
    assert len(rows) == 3
    pairs = [pair for _, left, right, _ in rows for pair in zip(inside(left), inside(right), strict=True)]
    assert len(pairs) == 11
    for char, replaced in pairs:
        assert real.decode(real.encode(f"a{char}b")) == f"a{replaced}b"
        assert real.unknown_characters(char) == {char}
    for char in "\u200b\u200c\u200d\u200e\u200f\ufeff\ufffd\u2581":
        assert real.decode(real.encode(f"{char}a{char}b{char}")) == "a b"


def test_the_code_of_the_page_runs(tmp_path, real, capsys):
    pytest.importorskip("transformers")
    write_texts(tmp_path, real.files())
    code = PAGE.split("```python\n")[1].split("```")[0]
    exec(code.replace("runs/quickstart/export", str(tmp_path)), {})
    assert capsys.readouterr().out == "SpO2 < 92 %\nin [brackets]\n"


def test_an_escaped_marker_costs_what_the_page_says(real):
    spelt = "[less, than]"
    assert len(real.encode(spelt)) - len(without_escape(real).encode(spelt)) == 3


def test_the_readme_links_the_page():
    assert "(docs/text.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
