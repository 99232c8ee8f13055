"""Walking over one large JSON file: the same values as json, in bounded memory, faults told by line."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.data.named import json_entries as module
from r2d_jax.data.named.json_entries import json_entries
from r2d_jax.errors import UserError

SECRET = "Zebedee Quux"


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "data.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def written(value):
    """The value with its numbers as json writes them, which is how they are handed over."""
    if isinstance(value, dict):
        return {key: written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [written(inner) for inner in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.booleans(), st.booleans(), st.integers(1, 40))
def test_members_are_what_json_reads_however_the_file_is_cut(
    tmp_path_factory, value, ascii_only, indent, chunk
):
    path = tmp_path_factory.mktemp("made") / "data.json"
    path.write_text(
        json.dumps(value, ensure_ascii=ascii_only, indent=1 if indent else None), encoding="utf-8"
    )
    before, module._CHUNK_BYTES = module._CHUNK_BYTES, chunk
    try:
        entries = list(json_entries(path))
    finally:
        module._CHUNK_BYTES = before
    assert {entry.key: entry.value for entry in entries} == written(value)
    assert [entry.key for entry in entries] == list(value)


def test_elements_of_one_array_and_the_rest_passed_over(write):
    path = write('{"a": [1, {"questions": 3}],\n "questions": [\n{"x": 1.50},\n\n"two"\n], "z": {}}\n')
    entries = list(json_entries(path, "questions"))
    assert [(entry.place, entry.value) for entry in entries] == [("line 3", {"x": "1.50"}), ("line 5", "two")]
    assert list(json_entries(write('{"questions": []}'), "questions")) == []


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["line 1", "is not a JSON object"]),
        ("[1]", ["line 1", "is not a JSON object"]),
        ('{"a": 1} x', ["line 1", "goes on after its end"]),
        (f'{{"a": 1,\n\n"b": "{SECRET}}}', ["line 3", "Unterminated string"]),
        (f'{{"a": 1,\n"b": ["{SECRET}" 3]}}', ["line 2", "Expecting ',' delimiter"]),
        (f'{{"a": 1,\n"b": ["{SECRET}",\n 3\n', ["line 4", "is not JSON"]),
        (f'{{"a": "{SECRET}",\n\n"a": 2}}', ["line 3", "appears twice"]),
        (f'{{"a": {{"x": "{SECRET}", "x": 1}}}}', ["line 1", "'x' appears twice"]),
        ('{"a": 1,\n"b" 2}', ["line 2", "expected ':'"]),
        ('{"a": 1\n"b": 2}', ["line 2", "expected ','"]),
        (f'{{"a": 1,\n"b": "{SECRET} \\x"}}', ["line 2", "is not JSON"]),
    ],
)
def test_b020_a_fault_names_its_line_and_never_the_text(write, monkeypatch, content, parts, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    path = write(content)
    with pytest.raises(UserError) as caught:
        list(json_entries(path))
    for part in (str(path), *parts):
        assert part in str(caught.value), str(caught.value)
    assert "Zebedee" not in str(caught.value)


def test_b020_endless_nesting_is_refused(write):
    with pytest.raises(UserError, match="line 1: is nested too deeply"):
        list(json_entries(write('{"a": ' + "[" * 100_000)))


@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_b019_bytes_of_another_encoding_name_line_and_byte(write, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    content = f'{{"a": "é≥",\n"b": "{SECRET} '.encode() + b'caf\xe9 x"}'
    with pytest.raises(UserError, match=rf"line 2: byte {content.index(0xE9)} is not utf-8"):
        list(json_entries(write(content)))


def test_b015_byte_order_mark_is_dropped(write):
    assert [entry.value for entry in json_entries(write(b'\xef\xbb\xbf{"a": "b"}'))] == ["b"]


def test_numbers_keep_their_written_form(write):
    digits = "9" * 5000
    values = [
        entry.value for entry in json_entries(write(f'{{"a": 1e5, "b": 1.50, "c": -0, "d": {digits}}}'))
    ]
    assert values == ["1e5", "1.50", "-0", digits]


def test_memory_does_not_grow_with_the_file(write):
    """40 MB of entries of 10 kB each."""
    path = write("{" + ",\n".join(f'"{index}": "{"x" * 10_000}"' for index in range(4_000)) + "}")
    tracemalloc.start()
    count = sum(1 for _ in json_entries(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_000
    assert peak < 4 << 20
