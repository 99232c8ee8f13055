"""The one route between text and ids; in: a tokenizer.json or training texts, out: ids without end token, and text."""

import hashlib
import itertools
import json
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from r2d_jax.data.plain_texts import PLAIN, for_plain_texts
from r2d_jax.data.text_map import (
    BRACKET_MARKER,
    LINE_BREAK,
    LINE_BREAKS,
    MARKERS,
    SEPARATORS,
    needed_markers,
    spelt_marker,
)
from r2d_jax.errors import UserError

FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
SPECIAL = ("<pad>", "</s>", "<unk>")
_MAP_KEY = "r2d_text_map"
_WORD_START = "\u2581"
_ENDS = r"\A +| +\z"


def tokenizer_folder(folder: pathlib.Path) -> pathlib.Path:
    """Where a folder keeps its tokenizer: in `tokenizer/`, as runs and imports do, else in itself."""
    inside = folder / "tokenizer"
    return inside if inside.is_dir() else folder


def fold_blanks(text: str) -> str:
    """What every text becomes by encode and decode.

    Runs of blanks are one blank, lines neither begin nor end with one, every kind of line break is
    "\\n", and composed characters are written as one (Unicode NFC).
    """
    text = unicodedata.normalize("NFC", text)
    for line_break in LINE_BREAKS:
        text = text.replace(line_break, LINE_BREAK)
    return LINE_BREAK.join(" ".join(line.split()) for line in text.split(LINE_BREAK))


class Tokenizer:
    """A `tokenizers.Tokenizer` of T5's kind: pad 0, end 1, unknown 2, with the text map baked in.

    The map is part of tokenizer.json (as normaliser and decoder steps), so it is stored with every
    model and transformers applies it too. Text that spells a special token stays text.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, backend: tokenizers.Tokenizer, stored: str | None = None):
        """Wrap a backend whose map is in place.

        Args:
            backend: the tokenizer of the library.
            stored: tokenizer.json, where it was saved here; another version of the library may write the same tokenizer
                in another way. None: as the library writes it now.

        Raises:
            UserError: its special ids are not T5's.
        """
        _require_t5(backend)
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self._stored = stored
        self._plain = for_plain_texts(backend)
        self._control = {
            index for index, token in backend.get_added_tokens_decoder().items() if token.special
        } | set(range(len(SPECIAL)))
        self.size = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: str | pathlib.Path, *, text_map: bool | None = None) -> "Tokenizer":
        """Read tokenizer.json of a local folder.

        Args:
            folder: local folder; the network is never used.
            text_map: True adds the map where it is not there yet, False refuses a vocabulary that holds it and
                leaves others as they are, None does what the folder was saved with: a model keeps the text
                it was trained on. A folder that was not saved here gets the map.

        Raises:
            UserError: no tokenizer there, one of another family, or one with the map where there must be none.
        """
        folder = pathlib.Path(folder)
        backend = _read(folder / FILE) if (folder / FILE).is_file() else _converted(folder)
        if text_map is None:
            text_map = _saved_map(_settings(folder / SETTINGS_FILE))
        elif not text_map and _has_map(backend):
            raise UserError(
                str(folder),
                "this tokenizer holds the text map, and tokenizer.text_map=false cannot take it out",
                "Set tokenizer.text_map=true, or use a tokenizer without the map.",
            )
        return cls(_with_map(backend) if text_map else backend, _saved_text(folder, backend))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, text_map: bool = True) -> "Tokenizer":
        """A small vocabulary of these texts; the same texts give the same tokenizer.

        Pieces never cross white space or punctuation, so label and instruction meet at a border of
        pieces.

        Args:
            texts: training texts, prompts and labels included.
            vocab_size: most pieces, special ones included; characters of the texts always get theirs,
                even where that makes more.
            text_map: whether rare characters and line breaks get markers.
        """
        backend = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL[2], fuse_unk=False))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(_WORD_START, "always", True), pre_tokenizers.Punctuation("isolated")]
        )
        backend.decoder = decoders.Metaspace(_WORD_START, "always", True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            # Whatever the texts hold, any ASCII text and every marker can be written.
            initial_alphabet=[_WORD_START, *map(chr, range(33, 127))],
            show_progress=False,
        )
        folded = (fold_blanks(text) for text in texts)
        if text_map:
            line_break = f" {MARKERS[LINE_BREAK]} "
            folded = (text.replace("<", MARKERS["<"]).replace(LINE_BREAK, line_break) for text in folded)
        backend.train_from_iterator(folded, trainer)
        end = processors.TemplateProcessing(single=f"$A {SPECIAL[1]}", special_tokens=[(SPECIAL[1], 1)])
        backend.post_processor = end
        return cls(_with_map(backend) if text_map else backend)

    def files(self) -> dict[str, str]:
        """Texts by name: tokenizer.json and the two files by which transformers' AutoTokenizer loads it."""
        tokens = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2]}
        settings = tokens | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "model_max_length": 1_000_000,
            _MAP_KEY: _has_map(self._backend),
        }
        return {
            FILE: self._stored or self._backend.to_str(pretty=True),
            SETTINGS_FILE: json.dumps(settings, indent=2) + "\n",
            "special_tokens_map.json": json.dumps(tokens, indent=2) + "\n",
        }

    @property
    def markers(self) -> dict[str, str]:
        """The characters that travel as markers here, each with its marker; empty without the map."""
        normaliser = json.loads(self._backend.to_str())["normalizer"] or {}
        written = {step.get("content", "").strip() for step in normaliser.get("normalizers", [])}
        return {char: marker for char, marker in MARKERS.items() if marker in written}

    @property
    def fingerprint(self) -> str:
        """sha256 of vocabulary and settings, as they were saved."""
        return _digest(self._stored or self._backend.to_str())

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether this is the tokenizer of that fingerprint, as it was saved or as the library writes it now."""
        return fingerprint in (self.fingerprint, _digest(self._backend.to_str()))

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without an end token.

        Text that spells a control token never becomes one: without the map its id is the unknown one.
        """
        backend = self._plain if PLAIN.fullmatch(text) else self._backend
        ids = backend.encode(text, add_special_tokens=False).ids
        return [self.unk_id if index in self._control else index for index in ids]

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """What `encode` gives for each of N texts, on all cores.

        Returns:
            Ids of all texts one after the other, int64 [tokens], and how many each has, int64 [N].
        """
        plain = [PLAIN.fullmatch(text) is not None for text in texts]
        encoded: list[list[int]] = [[]] * len(texts)
        for backend, wanted in ((self._plain, True), (self._backend, False)):
            places = [place for place, is_plain in enumerate(plain) if is_plain is wanted]
            some = backend.encode_batch_fast([texts[place] for place in places], add_special_tokens=False)
            for place, one in zip(places, some, strict=True):
                encoded[place] = one.ids
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        ids = np.fromiter(itertools.chain.from_iterable(encoded), np.int64, int(lengths.sum()))
        ids[np.isin(ids, list(self._control))] = self.unk_id
        return ids, lengths

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens and ids beyond the vocabulary are skipped, blanks are not tidied."""
        return self._backend.decode(
            [index for index in ids if 0 <= index < self.size], skip_special_tokens=True
        )

    def unknown_characters(self, text: str) -> set[str]:
        """Characters of the text, composed by NFC, that do not survive encode and decode."""
        characters = set(unicodedata.normalize("NFC", text))
        return {char for char in characters if not _survives(self._backend, char)}

    def lost_characters(self, texts: Iterable[str]) -> list[int]:
        """How many characters of each text, composed by NFC, have no id of their own: the model cannot tell which."""
        lost: dict[str, bool] = {}
        counts = []
        for text in texts:
            composed = unicodedata.normalize("NFC", text)
            for char in set(composed) - lost.keys():
                lost[char] = self.unk_id in self.encode(char)
            counts.append(sum(lost[char] for char in composed))
        return counts

    def marker_collisions(self, text: str) -> set[str]:
        """Markers that the text spells itself and that decoding would turn into their character.

        There are some only for a tokenizer that was saved before such texts were told apart.
        """
        folded = fold_blanks(text)
        return {
            marker
            for char, marker in MARKERS.items()
            if marker in folded and self.decode(self.encode(marker)) == char
        }


def _read(path: pathlib.Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise UserError(str(path), f"not a readable tokenizer ({error})", "Restore the file.") from error


def _require_t5(backend: tokenizers.Tokenizer) -> None:
    found = tuple(backend.id_to_token(index) for index in range(len(SPECIAL)))
    if found != SPECIAL:
        raise UserError(
            "tokenizer", f"ids 0 to 2 are {found}, not {SPECIAL}", "Use a tokenizer of the T5 family."
        )


def _settings(path: pathlib.Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _saved_map(settings: Mapping[str, Any]) -> bool:
    return settings.get(_MAP_KEY, True) is not False


def _saved_text(folder: pathlib.Path, backend: tokenizers.Tokenizer) -> str | None:
    """The tokenizer.json of a folder that was saved here, where nothing of it is changed on loading."""
    settings, path = _settings(folder / SETTINGS_FILE), folder / FILE
    if not path.is_file() or not (_MAP_KEY in settings and _has_map(backend) == _saved_map(settings)):
        return None
    text = path.read_text(encoding="utf-8")
    stored = json.loads(text)
    # Who loads it and saves it again may have put these there.
    return text if stored.get("truncation") is None and stored.get("padding") is None else None


def _digest(stored: str) -> str:
    canonical = json.dumps(json.loads(stored), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _survives(backend: tokenizers.Tokenizer, char: str) -> bool:
    # A full stop, for after a letter an accent would become part of a character that may be carried.
    text = f".{char}b"
    return backend.decode(backend.encode(text, add_special_tokens=False).ids) == fold_blanks(text)


def _has_map(backend: tokenizers.Tokenizer) -> bool:
    return MARKERS["<"] in json.dumps(json.loads(backend.to_str())["normalizer"], ensure_ascii=False)


def _with_map(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    _require_t5(backend)
    if _has_map(backend):
        return backend
    backend.encode_special_tokens = True
    markers = needed_markers(lambda char: _survives(backend, char))
    breaks = [normalizers.Replace(line_break, LINE_BREAK) for line_break in LINE_BREAKS]
    breaks += [normalizers.Replace(separator, " ") for separator in SEPARATORS]
    spelt = tokenizers.Regex(spelt_marker([*markers.values(), BRACKET_MARKER]))
    replaced = [normalizers.Replace(spelt, BRACKET_MARKER)]
    replaced += [
        normalizers.Replace(char, f" {marker} " if char == LINE_BREAK else marker)
        for char, marker in markers.items()
    ]
    # The vocabulary's own normaliser may write other characters as "<" (the full-width one); such a
    # text must not spell an end token either.
    last = normalizers.Replace("<", markers["<"])
    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *breaks, *replaced, *own, last])
    pieces = [backend.decoder] if backend.decoder is not None else []
    restored = [
        decoders.Replace(tokenizers.Regex(f" ?{_escaped(marker)} ?"), char)
        if char == LINE_BREAK
        else decoders.Replace(marker, char)
        for char, marker in markers.items()
    ]
    # A lost character leaves the blanks around it: what comes back is in the form of `fold_blanks` too.
    folded = [decoders.Replace(tokenizers.Regex(" {2,}"), " "), decoders.Replace(tokenizers.Regex(_ENDS), "")]
    bracket = decoders.Replace(BRACKET_MARKER, "[")
    backend.decoder = decoders.Sequence([*pieces, decoders.Fuse(), *folded, *restored, bracket])
    return backend


def _escaped(marker: str) -> str:
    return marker.replace("[", r"\[").replace("]", r"\]")


def _converted(folder: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of an older folder that holds only spiece.model."""
    if not (folder / "spiece.model").is_file():
        raise UserError(str(folder), f"no {FILE} here", "Give the folder of a T5 tokenizer.")
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as target:
        try:
            AutoTokenizer.from_pretrained(str(folder), use_fast=True, local_files_only=True).save_pretrained(
                target
            )
        except Exception as error:
            raise UserError(
                str(folder),
                "spiece.model alone could not be converted",
                f"Add the model's {FILE} to the folder.",
            ) from error
        return _read(pathlib.Path(target) / FILE)
