"""Token ids kept on disk: equal to those made again, never stale, never damaged, and padded only when asked for."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data.features import FeatureEncoder, encoded_rows
from r2d_jax.data.pace import paced
from r2d_jax.data.plain_texts import PLAIN
from r2d_jax.data.ragged import Padded, Ragged, RaggedWriter, id_type
from r2d_jax.data.schema import Example
from r2d_jax.data.splits import NAMES, content_hash, load_splits
from r2d_jax.data.token_cache import cache_key, read_cache, write_cache
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.training.tokens import tokenise

SOURCES = ["llm", "nurse/../x"]
LABELS = ("urgent", "not urgent")


def rows(count, first=0):
    return [
        Example(
            str(index),
            f"Patient {index} fell </s> on day {index}.",
            LABELS[index % 2],
            {"llm": "" if index == 3 else f"Since {index}.", "nurse/../x": "So it is. " * (index % 5)},
            f"Room {index}" if index % 2 else "",
        )
        for index in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"{row.question} {row.label}" for row in rows(30)], 300)


@pytest.fixture
def encoder(tokenizer):
    return FeatureEncoder(DataConfig(), tokenizer, LABELS)


SPLITS = {"train": rows(1100), "validation": rows(7, 2000), "test": []}


def made(folder, encoder, splits=SPLITS, data_hash="h", said=None):
    lines = [] if said is None else said
    tokens, line = tokenise(folder, encoder, splits, SOURCES, data_hash=data_hash, report=lines.append)
    return tokens, line


def plain(tokens):
    return {
        split: {
            field: [ragged.row(number) for number in range(len(ragged))] for field, ragged in fields.items()
        }
        for split, fields in tokens.items()
    }


def by_hand(encoder, splits=SPLITS):
    encode = encoder.tokenizer.encode

    def target(text):
        return [*encode(text), 1] if text else []

    return {
        split: {
            "question": [
                encode(f"{one.question} {one.context}" if one.context else one.question) for one in some
            ],
            "label": [target(one.label) for one in some],
            **{f"rationale {name}": [target(one.rationales[name]) for one in some] for name in SOURCES},
        }
        for split, some in splits.items()
    }


# --- ragged rows --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(1, 60000), max_size=7), max_size=9), st.integers(0, 9), st.data())
def test_padding_against_a_loop(lists, width, data):
    writer = RaggedWriter(id_type(65536))
    for one in lists:
        writer.append(np.array(one, np.int64), np.array([len(one)]))
    ragged = writer.ragged()
    assert ragged.ids.dtype == np.uint16
    assert [ragged.row(number) for number in range(len(ragged))] == lists
    wanted = np.array([(one + [0] * width)[:width] for one in lists], np.int32).reshape(len(lists), width)
    padded = Padded(ragged, width)
    assert (padded.shape, padded.dtype, len(padded)) == (wanted.shape, wanted.dtype, len(lists))
    np.testing.assert_array_equal(np.asarray(padded), wanted)
    if lists:
        picked = data.draw(st.lists(st.integers(-len(lists), len(lists) - 1), max_size=5))
        cut = data.draw(st.integers(0, 9))
        for key in (
            np.array(picked, np.int64),
            picked[0] if picked else 0,
            slice(1, 4),
            np.arange(len(lists)) % 2 > 0,
        ):
            for columns in (slice(None, cut), slice(1, cut), slice(None)):
                found = padded[key, columns]
                assert found.dtype == np.int32
                np.testing.assert_array_equal(found, wanted[key, columns])
            np.testing.assert_array_equal(padded[key], wanted[key])


def test_ids_take_two_bytes_where_they_fit():
    assert [id_type(size).itemsize for size in (100, 2**16, 2**16 + 1, 250_000)] == [2, 2, 4, 4]


@pytest.fixture(scope="module", params=["T5 with map", "T5 without", "trained with map", "trained without"])
def any_tokenizer(request, shared_data, tokenizer):
    text_map = request.param.endswith("with map")
    if request.param.startswith("T5"):
        return Tokenizer.load(shared_data / "t5_tokenizer", text_map=text_map)
    return Tokenizer.train([f"{row.question} {row.label}" for row in rows(30)], 300, text_map=text_map)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x7F), max_size=40) | st.text(max_size=20))
def test_the_quick_way_gives_the_same_ids(any_tokenizer, text):
    """Plain texts go around the text map."""
    whole = any_tokenizer._backend.encode(text, add_special_tokens=False).ids
    wanted = [2 if index in any_tokenizer._control else index for index in whole]
    assert any_tokenizer.encode(text) == wanted
    assert any_tokenizer.encode_batch([text])[0].tolist() == wanted


def test_the_quick_way_is_taken(shared_data):
    t5 = Tokenizer.load(shared_data / "t5_tokenizer")
    assert len(t5._plain.to_str()) < len(t5._backend.to_str()) - 5000
    assert all(PLAIN.fullmatch(text) for text in ("", 'BP 85/50 mmHg (38.5 C), 12% - "no"?', " a  b "))
    assert not any(
        PLAIN.fullmatch(text) for text in ("a < b", "[to]", "x\n", "\t", "é", "a_b", "5 ≥ 3", "\x1c", "~")
    )


@pytest.mark.parametrize("text_map", [True, False])
def test_many_texts_at_once_give_what_one_by_one_gives(shared_data, text_map):
    t5 = Tokenizer.load(shared_data / "t5_tokenizer", text_map=text_map)
    lines = (shared_data / "pubmedqa" / "pqal.jsonl").read_text(encoding="utf-8").split("\n")[:150]
    texts = [json.loads(line)["context"] for line in lines]
    texts += [
        "",
        " ",
        "</s>",
        "a <pad> b <extra_id_0>",
        "≥ µ \n x",
        "e\u0301",
        "日本",
        "\U0001f600 ok",
        "<unk>",
    ]
    ids, lengths = t5.encode_batch(texts)
    assert np.split(ids, np.cumsum(lengths)[:-1])[0].tolist() == t5.encode(texts[0])
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == [
        t5.encode(text) for text in texts
    ]
    assert [len(part) for part in t5.encode_batch([])] == [0, 0]


# --- the cache ----------------------------------------------------------------------------------------


def test_a_cache_gives_what_tokenising_gives(tmp_path, encoder, monkeypatch):
    first, told = made(tmp_path / "tokens", encoder)
    assert plain(first) == by_hand(encoder)
    assert "cache miss" in told
    assert "1,107 rows" in told
    monkeypatch.setattr(FeatureEncoder, "encode_into", None)
    second, told = made(tmp_path / "tokens", encoder)
    assert plain(second) == by_hand(encoder)
    assert "cache hit" in told
    in_memory = encoded_rows(second["train"], "llm")
    monkeypatch.undo()
    assert [*encoder.encode(SPLITS["train"], "llm")] == [*in_memory]


def test_b022_whatever_changes_a_row_or_a_token_changes_the_key(tokenizer):
    other = Tokenizer.train(["other words"], 300)
    without_map = Tokenizer.train([f"{row.question} {row.label}" for row in rows(30)], 300, text_map=False)
    keys = [
        cache_key("h", tokenizer.fingerprint, SOURCES),
        cache_key("i", tokenizer.fingerprint, SOURCES),
        cache_key("h", other.fingerprint, SOURCES),
        cache_key("h", without_map.fingerprint, SOURCES),
        cache_key("h", tokenizer.fingerprint, SOURCES[:1]),
        cache_key("h", tokenizer.fingerprint, SOURCES[::-1]),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("field", ["question", "context", "label", "rationale"])
def test_b022_an_edited_file_is_never_served_stale(tmp_path, tokenizer, field):
    """One letter in one cell, the same size and the same time of change."""
    path = tmp_path / "rows.csv"
    lines = ["id,part,question,context,label,rationale"]
    lines += [f"{i},{NAMES[i % 3]},pain {i},room,{'ab'[i % 2]},since" for i in range(12)]
    path.write_text("\n".join(lines))
    config = DataConfig(path=str(path), columns=ColumnsConfig(id="id", split="part", context="context"))
    encoder = FeatureEncoder(config, tokenizer, ["a", "b"])

    def tokens():
        splits = load_splits(config, 0, ["default"])
        by_name = {name: getattr(splits, name) for name in NAMES}
        found, told = tokenise(
            tmp_path / "tokens", encoder, by_name, ["default"], data_hash=content_hash(splits), report=print
        )
        wanted = {name: encoder.encode(rows, "default") for name, rows in by_name.items()}
        for name in NAMES:
            assert [*encoded_rows(found[name], "default")] == [*wanted[name]]
        return told

    assert ["miss" in tokens(), "miss" in tokens()] == [True, False]
    stamp = path.stat()
    old, new = {
        "question": ("pain 6", "pawn 6"),
        "context": ("room,a,since", "rook,a,since"),
        "label": (",a,", ",b,"),
        "rationale": ("since", "hence"),
    }[field]
    path.write_text(path.read_text().replace(old, new, 1))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert ["miss" in tokens(), "miss" in tokens()] == [True, False]
    # What other rows left is gone.
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def damages(home):
    for path in sorted(home.iterdir()):
        data = path.read_bytes()
        yield path, None
        if data:
            yield path, data[:-1]
        yield path, data + b"\0\0"
        if data and path.suffix != ".json":
            yield path, bytes([data[0] ^ 1]) + data[1:]
    yield home / "index.json", b"{}"
    yield home / "index.json", b"[1, 2]"
    yield home / "index.json", b'{"type": "uint16", "files": {}}'
    yield home / "index.json", b"\xff"


def test_a_damaged_cache_is_made_anew(tmp_path, encoder):
    splits = {"train": rows(5), "validation": rows(2), "test": rows(1)}
    _, told = made(tmp_path, encoder, splits)
    (home,) = tmp_path.iterdir()
    wanted, tried = by_hand(encoder, splits), 0
    for path, data in list(damages(home)):
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        tokens, told = made(tmp_path, encoder, splits)
        assert "cache miss" in told, (path.name, data)
        assert plain(tokens) == wanted
        tried += 1
    assert tried > 50
    assert "cache hit" in made(tmp_path, encoder, splits)[1]


def test_what_a_kill_leaves_half_written_is_no_cache(tmp_path, encoder, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("r2d_jax.data.token_cache.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, encoder)
    assert [entry.name for entry in tmp_path.iterdir()] == [".partial"]
    monkeypatch.undo()
    tokens, told = made(tmp_path, encoder)
    assert "cache miss" in told
    assert plain(tokens) == by_hand(encoder)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_rows_take_the_place_of_the_first(tmp_path, encoder):
    made(tmp_path, encoder)
    first = {entry.name for entry in tmp_path.iterdir()}
    made(tmp_path, encoder, data_hash="other")
    second = {entry.name for entry in tmp_path.iterdir()}
    assert len(first) == len(second) == 1
    assert first != second


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, encoder):
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(UserError, match="cannot be written") as caught:
        made(tmp_path / "tokens", encoder)
    assert "\n" not in str(caught.value)


def test_the_ids_of_a_cache_are_mapped_and_not_read(tmp_path, encoder):
    write_cache(tmp_path, "k", encoder, SPLITS, SOURCES)
    counts = {name: len(some) for name, some in SPLITS.items()}
    tokens = read_cache(tmp_path, "k", counts, SOURCES)
    assert isinstance(tokens["train"]["question"].ids, np.memmap)
    assert tokens["train"]["question"].ids.dtype == np.uint16
    assert read_cache(tmp_path, "k", counts | {"train": 3}, SOURCES) is None
    assert read_cache(tmp_path, "other", counts, SOURCES) is None


def test_features_from_files_are_those_from_memory(tmp_path, encoder):
    tokens, _ = made(tmp_path, encoder)
    mapped = encoded_rows(tokens["train"], "llm")
    memory = encoder.encode(SPLITS["train"], "llm")
    shapes = encoder.shapes(memory)
    assert encoder.shapes(mapped) == shapes
    one, other = encoder.features(mapped, shapes), encoder.features(memory, shapes)
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(other.arrays()[name]))
    assert (one.cut_questions, one.cut_rationales) == (other.cut_questions, other.cut_rationales)


def test_no_rationale_is_no_target(encoder):
    found = encoder.encode(rows(5), None)
    assert [one.rationale for one in found] == [[]] * 5
    assert isinstance(found.rationale, Ragged)


def test_progress_is_told_now_and_then(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("r2d_jax.data.pace.time.monotonic", lambda: now[0])
    progress = paced(said.append, "reading", 10)
    for second in range(0, 35, 4):
        now[0] = float(second)
        progress(second * 1000)
    assert said == ["reading: 12,000 rows so far", "reading: 24,000 rows so far"]
