"""The route between text and ids: no silent loss, text never becomes a control token, one answer everywhere."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_cases import without_escape

from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT
from r2d_jax.data.text_map import LINE_BREAKS, MARKERS
from r2d_jax.data.tokenizer import Tokenizer, fold_blanks
from r2d_jax.errors import UserError
from r2d_jax.runtime.files import write_texts

TEXTS = [
    PREDICT,
    EXPLAIN,
    GIVEN_LABEL,
    "immediate",
    "very urgent",
    "non-urgent",
    "SpO2 below 92 % on air, heart rate 128/min (2 days).\nNo fever; pain 8/10, temp. 38.5 °C.",
    "A 64-year-old with crushing chest pain; ST elevation in II, III and aVF → needs the lab at once.",
    "Patient's BP 120 / 80 , stable. HR ± 3 and troponin ≥ 52 ng/L",
]


@pytest.fixture(scope="module")
def real(shared_data):
    return Tokenizer.load(shared_data / "t5_tokenizer")


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(TEXTS, 400)


@pytest.fixture(scope="module", params=["real", "trained"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def through(tokenizer, text):
    return tokenizer.decode(tokenizer.encode(text))


CARRIED = [
    "SpO2 < 92% on air",
    "SpO2<92",
    "a<b<<c< d",
    "{onset: 2 days}",
    '{"a": [1, {"b": "c"}]}',
    "dose ≥ 5 µg or ≤ 6 μg",
    "HR ± 3",
    "β-blocker, TNF-α, IFNγ and Δ of Σ",
    "K↑ Na↓",
    "pain → arm ← hand",
    "a~b a^2 c\\d `e` f|g h_i",
    "10² m, 3 × 10⁻³ g, H₂O, CO₂, ½ tablet, ¼, 37 °C, 5 ‰",
    "≠ ≈ ∞ √ − ÷ ≪ ≫ ♀ ♂",
    "[less] than] [at [least",
    "a [b] [c]",
    "SpO2 ≦ 90 %, not ≧ 90 %, ≮ 3 ≯, CRP ⊕, PCR ⊖, ✔ ✗ ✘ ☐ ☑ ☒, K⇑ Na⇓, ▲ ▼, ↗ ↘, 2⅛ mg, ⅜ ⅝⅞ ⅕",
]


@pytest.mark.parametrize("text", CARRIED)
def test_b001_b004_signs_come_back(tokenizer, text):
    assert tokenizer.unknown_characters(text) == set()
    assert through(tokenizer, text) == text
    assert tokenizer.unk_id not in tokenizer.encode(text)


@pytest.mark.parametrize(("char", "marker"), MARKERS.items())
def test_b004_every_marker_stands_for_one_character(tokenizer, char, marker):
    for text in (char, f"a{char}b", f"a {char} b", f"{char}{char}", f"({char})"):
        assert through(tokenizer, text) == fold_blanks(text)
        assert tokenizer.unk_id not in tokenizer.encode(text)


@pytest.mark.parametrize("pair", ["≦≧", "≮≯", "⊕⊖", "✔✗", "☑☐", "⇑⇓", "▲▼", "↗↘", "⅛⅜"])
def test_b001_signs_of_opposite_meaning_are_different_inputs(real, pair):
    """Each was the unknown id, so that "SpO2 ≦ 90 %" and "SpO2 ≧ 90 %" got one label."""
    one, other = (real.encode(f"SpO2 {sign} 90 %") for sign in pair)
    assert one != other
    assert real.lost_characters([f"SpO2 {pair} 90 %"]) == [0]


def test_markers_are_distinct_plain_words_in_brackets():
    assert len(set(MARKERS.values())) == len(MARKERS)
    for char, marker in MARKERS.items():
        assert len(char) == 1
        assert marker.isascii()
        assert marker[1:-1].replace(" ", "").isalnum()
        assert (marker[0], marker[-1]) == ("[", "]")


def test_b001_unknown_characters_are_told_and_ascii_is_never_among_them(tokenizer):
    ascii_text = "".join(map(chr, range(32, 127)))
    assert tokenizer.unknown_characters(ascii_text) == set()
    assert tokenizer.unknown_characters("a日b 😀 \x00") == {"日", "😀", "\x00"}


def test_b001_real_pubmed_abstracts_come_back_whole(real, shared_data):
    """All 1000 rows, every field; the plain vocabulary changes 400 contexts."""
    plain = Tokenizer.load(shared_data / "t5_tokenizer", text_map=False)
    lines = (shared_data / "pubmedqa" / "pqal.jsonl").read_text(encoding="utf-8").strip().split("\n")
    texts = [json.loads(line)[name] for line in lines for name in ("question", "context", "rationale")]
    assert len(texts) == 3000
    assert [index for index, text in enumerate(texts) if through(real, text) != fold_blanks(text)] == []
    changed = sum(through(plain, text) != fold_blanks(text) for text in texts[1::3])
    assert changed == 400


def test_b003_line_breaks_are_kept_and_blanks_folded(tokenizer):
    for line_break in ("\n", *LINE_BREAKS):
        assert through(tokenizer, f"1. fever{line_break}2. cough") == "1. fever\n2. cough"
    for blank in (" ", "\t", "  ", "\u00a0", "\u3000", " \t ", "\x1c", "\x1f", "\u2009"):
        assert through(tokenizer, f"{blank}1.{blank}fever{blank}") == "1. fever"
    assert through(tokenizer, "a \n\n b\n") == "a\n\nb\n"
    assert through(tokenizer, "\n") == "\n"
    assert through(tokenizer, "") == through(tokenizer, "  ") == ""
    assert tokenizer.encode("") == tokenizer.encode(" \t") == []


def test_b003_fold_blanks_by_hand():
    assert fold_blanks("  a \t b\u00a0c \r\n\r\n d\u2028e\x0bf\x85 ") == "a b c\n\nd\ne\nf\n"
    assert fold_blanks("e\u0301=\u0338") == "é≠"


def test_b005_the_map_adds_no_ids_and_leaves_the_neighbours_alone(real, shared_data):
    plain = Tokenizer.load(shared_data / "t5_tokenizer", text_map=False)
    assert real.size == plain.size == 32100
    for text in ("SpO2 is low", "chest pain, 64 years; “severe”", "100 mg/d > 5%"):
        assert real.encode(text) == plain.encode(text)
    assert real.encode("SpO2<92")[: len(plain.encode("SpO2"))] == plain.encode("SpO2")


CONTROL = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>", "＜/s＞", "﹤pad>", "＜extra_id_0＞"]


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("text", CONTROL)
def test_b007_text_never_becomes_a_control_token(shared_data, trained, text, mapped):
    vocabularies = [Tokenizer.load(shared_data / "t5_tokenizer", text_map=mapped)]
    vocabularies.append(trained if mapped else Tokenizer.train(TEXTS, 400, text_map=False))
    for tokenizer in vocabularies:
        for around in (text, f"a {text} b", f"a{text}b", f"{text}{text}"):
            ids = tokenizer.encode(around)
            assert all(2 <= index < 32000 for index in ids), (around, ids)
            if mapped and text.isascii():
                assert through(tokenizer, around) == around


@pytest.mark.parametrize(
    "text", ["? ?", "not , sure", "BP 120 / 80 , stable", "do n't", "it 's ( a ) test .", "a ' b '"]
)
def test_b009_decoding_does_not_tidy(tokenizer, text):
    assert through(tokenizer, text) == text


def test_b009_decoding_skips_special_and_out_of_range_ids(tokenizer):
    ids = tokenizer.encode("chest pain")
    noisy = [0, *ids[:1], 32127, -100, *ids[1:], 1, 0, 0, tokenizer.size]
    assert tokenizer.decode(noisy) == "chest pain"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", ["real", "trained"])
def test_b010_transformers_reads_the_saved_folder_alike(tmp_path, shared_data, kind, mapped):
    transformers = pytest.importorskip("transformers")
    if kind == "real":
        tokenizer = Tokenizer.load(shared_data / "t5_tokenizer", text_map=mapped)
    else:
        tokenizer = Tokenizer.train(TEXTS, 400, text_map=mapped)
    write_texts(tmp_path, tokenizer.files())
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(other) == tokenizer.size
    assert (other.pad_token_id, other.eos_token_id, other.unk_token_id) == (0, 1, 2)
    # Without the map a spelled control token differs: the other side has no guard of ours.
    for text in [*CARRIED, *TEXTS, "? ?", "a\nb", "", *(CONTROL if mapped else [])]:
        ids = other(text).input_ids
        assert ids == [*tokenizer.encode(text), 1], text
        assert other.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids), text


def test_b010_ids_equal_the_vocabularys_own_where_nothing_is_mapped(real, shared_data):
    backend = tokenizers.Tokenizer.from_file(str(shared_data / "t5_tokenizer" / "tokenizer.json"))
    for text in ("Studies show that", "Do mitochondria play a role in remodelling?", "naïve café, 37.5%"):
        assert real.encode(text.replace("ï", "i")) == backend.encode(text.replace("ï", "i")).ids[:-1]
    # The ids of the published T5, by hand.
    assert real.encode("The <extra_id_0> walks")[0] == 37
    assert real.encode("translate English to German:") == [13959, 1566, 12, 2968, 10]


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", ["real", "trained"])
def test_b010_saved_and_loaded_is_the_same_tokenizer(tmp_path, shared_data, kind, mapped):
    """Also where the map is off: a model keeps the text that it was trained on."""
    if kind == "real":
        tokenizer = Tokenizer.load(shared_data / "t5_tokenizer", text_map=mapped)
    else:
        tokenizer = Tokenizer.train(TEXTS, 400, text_map=mapped)
    write_texts(tmp_path / "one", tokenizer.files())
    loaded = Tokenizer.load(tmp_path / "one")
    write_texts(tmp_path / "two", loaded.files())
    assert loaded.fingerprint == tokenizer.fingerprint
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (through(loaded, "a\nb") == "a\nb") == mapped
    assert Tokenizer.load(tmp_path / "one", text_map=mapped).fingerprint == tokenizer.fingerprint


def test_a_map_that_is_there_cannot_be_switched_off(tmp_path, trained):
    """It stayed without a word: the run had text_map=false in its settings, and the map in its texts."""
    write_texts(tmp_path, trained.files())
    with pytest.raises(UserError, match=r"holds the text map.*Set tokenizer\.text_map=true"):
        Tokenizer.load(tmp_path, text_map=False)
    assert Tokenizer.load(tmp_path, text_map=True).fingerprint == trained.fingerprint


def test_a_map_that_is_added_is_saved_and_makes_another_tokenizer(tmp_path):
    plain = Tokenizer.train(TEXTS, 400, text_map=False)
    write_texts(tmp_path / "plain", plain.files())
    mapped = Tokenizer.load(tmp_path / "plain", text_map=True)
    assert mapped.fingerprint != plain.fingerprint
    write_texts(tmp_path / "mapped", mapped.files())
    assert MARKERS["<"] in mapped.files()["tokenizer.json"]
    assert Tokenizer.load(tmp_path / "mapped").fingerprint == mapped.fingerprint


def test_a_tokenizer_of_before_a_marker_was_added_stays_as_it_is(tmp_path, tokenizer):
    """A model has not learned the new marker."""
    stored = json.loads(tokenizer._backend.to_str())
    steps = stored["normalizer"]["normalizers"]
    stored["normalizer"]["normalizers"] = [step for step in steps if step.get("content") != MARKERS["≦"]]
    write_texts(tmp_path, tokenizer.files() | {"tokenizer.json": json.dumps(stored)})
    before = Tokenizer.load(tmp_path, text_map=True)
    assert before.markers == {char: marker for char, marker in tokenizer.markers.items() if char != "≦"}
    assert before.encode("a ≦ b") == before.encode("a 日 b")
    assert before.lost_characters(["a ≦≦ b", "a ≧ b", ""]) == [2, 0, 0]


def test_b010_the_fingerprint_tells_vocabularies_and_settings_apart(real, trained, shared_data):
    others = [
        real,
        trained,
        Tokenizer.load(shared_data / "t5_tokenizer", text_map=False),
        Tokenizer.train(TEXTS, 400, text_map=False),
        Tokenizer.train(TEXTS, 200),
        Tokenizer.train([*TEXTS, "zzz zzz zzz"], 400),
    ]
    assert len({each.fingerprint for each in others}) == len(others)


def test_b010_a_folder_of_another_version_of_the_library_is_the_one_it_was(tmp_path, real, trained):
    """That version lacks a field, which this one would write; the folder was refused as another tokenizer."""
    stored = json.loads(trained.files()["tokenizer.json"])
    del stored["model"]["ignore_merges"]

    def loaded(**changes):
        text = json.dumps(stored | changes, indent=2, ensure_ascii=False)
        write_texts(tmp_path, trained.files() | {"tokenizer.json": text})
        return text, Tokenizer.load(tmp_path)

    text, found = loaded()
    assert "ignore_merges" in json.loads(found._backend.to_str())["model"]
    saved = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    assert found.fingerprint == saved != trained.fingerprint
    assert found.files()["tokenizer.json"] == text
    assert [found.has_fingerprint(one) for one in (saved, trained.fingerprint, real.fingerprint)] == [
        True,
        True,
        False,
    ]
    # A cut that another program has put there is taken out, in the file too.
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    _, found = loaded(truncation=cut)
    assert len(found.encode("chest pain since two days")) > 3
    assert json.loads(found.files()["tokenizer.json"])["truncation"] is None
    assert found.fingerprint == trained.fingerprint


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_training_gives_the_same_file_in_another_process(tmp_path, trained, parallel):
    write_texts(tmp_path / "here", trained.files())
    code = (
        "import sys, json, pathlib\nfrom r2d_jax.data.tokenizer import Tokenizer\n"
        "from r2d_jax.runtime.files import write_texts\n"
        "write_texts(pathlib.Path(sys.argv[2]), Tokenizer.train(json.loads(sys.argv[1]), 400).files())"
    )
    root = str(pathlib.Path(__file__).parents[1])
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": parallel,
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": root,
    }
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(TEXTS), str(tmp_path / "there")], env=environment, check=True
    )
    here, there = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("here", "there"))
    assert here == there


def test_a_trained_vocabulary_gives_its_texts_back(trained):
    for text in TEXTS:
        assert through(trained, text) == fold_blanks(text)
        assert trained.unk_id not in trained.encode(text)
    assert trained.size <= 400
    with_rare = Tokenizer.train(["".join(map(chr, range(0x4E00, 0x4E00 + 500)))], 300)
    assert with_rare.unknown_characters("一丁丂") == set()


@pytest.mark.parametrize("texts", [[], [""], ["\n"], ["a"]])
def test_a_vocabulary_of_almost_no_text_can_still_write(texts):
    tokenizer = Tokenizer.train(texts, 50)
    assert through(tokenizer, "predict: Two words, 3 < 4\nend") == "predict: Two words, 3 < 4\nend"


def test_pieces_of_a_trained_vocabulary_cross_neither_blanks_nor_punctuation():
    tokenizer = Tokenizer.train(["given label: yes, explain: yes, explain: yes, explain: no"] * 50, 600)
    pieces = json.loads(tokenizer._backend.to_str())["model"]["vocab"]
    assert "\u2581explain" in pieces
    for piece in pieces:
        if piece not in ("<pad>", "</s>", "<unk>"):
            assert "\u2581" not in piece[1:]
            assert len(piece) == 1 or not set(piece) & set(".,:;<>[]()")


SPELT = [
    *(f"x {marker} y" for marker in MARKERS.values()),
    "[open bracket]",
    "[open bracket]less than]",
    "[[less than]]<[",
    "[less than][less than] [newline]",
    "[newline]\n[newline]",
    "[less\nthan]",
    "[less, than]",
    "[ less than ]",
]


@pytest.mark.parametrize("text", SPELT)
def test_a_text_that_spells_a_marker_comes_back_as_written(tokenizer, text):
    assert through(tokenizer, text) == text
    assert tokenizer.marker_collisions(text) == set()


def test_a_marker_spelt_around_blanks_and_lost_characters_is_no_marker(tokenizer):
    for between in (" \t ", "\u00a0", "\u3000", " 日 ", " \u200b "):
        assert through(tokenizer, f"SpO2 [less{between}than] 92") == "SpO2 [less than] 92"
    # Brackets of other words cost nothing.
    assert tokenizer.encode("[name] [12]") == without_escape(tokenizer).encode("[name] [12]")


def test_a_tokenizer_that_was_saved_before_tells_which_markers_collide(tokenizer):
    before = without_escape(tokenizer)
    assert before.marker_collisions("x [less than] y [newline]") == {"[less than]", "[newline]"}
    assert before.marker_collisions("x [less \t than] y") == {"[less than]"}
    assert before.marker_collisions("[less] than [Less than] < \n") == set()
    assert through(before, "[less than]") == "<"


def test_the_markers_in_use(tokenizer, shared_data):
    markers, plain = tokenizer.markers, without_escape(tokenizer)
    for char, marker in markers.items():
        assert MARKERS[char] == marker
        assert tokenizer.encode(char) == plain.encode(marker)
    for char in MARKERS.keys() - markers.keys():
        assert through(tokenizer, f"a{char}b") == f"a{char}b"
    assert Tokenizer.train(TEXTS, 400, text_map=False).markers == {}
    assert Tokenizer.load(shared_data / "t5_tokenizer", text_map=False).markers == {}


@pytest.mark.parametrize("text", ["a 日 b", "日 a", "a 日", "a 日\n日 b", "日", "日\n", "(日) 日 ."])
def test_the_blanks_around_a_lost_character_are_folded(tokenizer, text):
    """Otherwise a text that went through once would change again when it goes through twice."""
    kept = "".join(char for char in text if char != "日")
    assert through(tokenizer, text) == fold_blanks(kept)


def _clean(tokenizer, text):
    """The text without what the tokenizer says it loses."""
    while lost := tokenizer.unknown_characters(text):
        text = "".join(char for char in unicodedata.normalize("NFC", text) if char not in lost)
    return text


_TELLING = st.sampled_from(
    [*MARKERS, *MARKERS.values(), *CONTROL, *LINE_BREAKS, " ", "\u0301", "\u0338", "[", "]"]
)
_ANY = st.lists(
    st.one_of(_TELLING, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=8
)


@settings(max_examples=400, deadline=None)
@given(_ANY.map("".join))
@example("<\u0338")
@example("=\u0338")
@example("a\u0301\u0327")
@example("\u0301")
@example("\u1100\u1161\u11a8")
@example("[\n<\n] [ newline]")
def test_any_unicode_differs_only_where_it_is_told(tokenizer, text):
    told = tokenizer.unknown_characters(text)
    if not told:
        assert through(tokenizer, text) == fold_blanks(text)
    clean = _clean(tokenizer, text)
    assert through(tokenizer, clean) == fold_blanks(clean)
    # What is told is true, and ids are always real pieces or the unknown one.
    for char in told:
        assert through(tokenizer, f".{char}b") != f".{char}b"
    assert all(2 <= index < tokenizer.size for index in tokenizer.encode(text))


def test_load_refuses_what_is_no_t5_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json here"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"no tokenizer\.json here"):
        Tokenizer.load(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)
    other = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}, "<unk>")
    )
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="ids 0 to 2 are"):
        Tokenizer.load(tmp_path)


def test_a_folder_with_the_older_vocabulary_file(tmp_path, real, shared_data):
    """Converted by transformers, which can do it where the settings stand beside the vocabulary."""
    pytest.importorskip("transformers")
    shutil.copy(shared_data / "t5_tokenizer" / "spiece.model", tmp_path)
    shutil.copy(shared_data / "t5_tokenizer" / "tokenizer_config.json", tmp_path)
    converted = Tokenizer.load(tmp_path)
    assert converted.size == real.size
    for text in (*TEXTS, *CARRIED):
        assert converted.encode(text) == real.encode(text)


def test_a_damaged_older_vocabulary_file_says_what_to_add(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "spiece.model").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"could not be converted\. Add the model's tokenizer\.json"):
        Tokenizer.load(tmp_path)
