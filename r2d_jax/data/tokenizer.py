"""The one route between text and ids; in: a tokenizer.json or training texts, out: ids without end token, and text."""

import hashlib
import json
import pathlib
import tempfile
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from r2d_jax.data.text_map import LINE_BREAK, LINE_BREAKS, MARKERS, needed_markers
from r2d_jax.errors import UserError

FILE = "tokenizer.json"
SPECIAL = ("<pad>", "</s>", "<unk>")
_WORD_START = "\u2581"


def fold_blanks(text: str) -> str:
    """Runs of blanks as one, none at the ends of lines; what every text becomes by encode and decode."""
    for line_break in LINE_BREAKS:
        text = text.replace(line_break, LINE_BREAK)
    return LINE_BREAK.join(" ".join(line.split()) for line in text.split(LINE_BREAK))


class Tokenizer:
    """A `tokenizers.Tokenizer` of T5's kind: pad 0, end 1, unknown 2, with the text map baked in.

    The map is part of tokenizer.json (as normaliser and decoder steps), so it is stored with every
    model and transformers applies it too. Text that spells a special token stays text.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wrap a backend whose map is in place.

        Raises:
            UserError: its special ids are not T5's.
        """
        found = tuple(backend.id_to_token(index) for index in range(len(SPECIAL)))
        if found != SPECIAL:
            raise UserError(
                "tokenizer", f"ids 0 to 2 are {found}, not {SPECIAL}", "Use a tokenizer of the T5 family."
            )
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self.size = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: str | pathlib.Path, *, text_map: bool = True) -> "Tokenizer":
        """Read tokenizer.json of a local folder; the map is added where it is not there yet.

        Args:
            folder: local folder; the network is never used.
            text_map: False leaves the vocabulary as it is.

        Raises:
            UserError: no tokenizer there, or one of another family.
        """
        path = pathlib.Path(folder) / FILE
        if not path.is_file():
            path = _converted(pathlib.Path(folder))
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise UserError(str(path), f"not a readable tokenizer ({error})", "Restore the file.") from error
        return cls(_with_map(backend) if text_map else backend)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, text_map: bool = True) -> "Tokenizer":
        """A small vocabulary of these texts; the same texts give the same tokenizer.

        Pieces never cross white space or punctuation, so label and instruction meet at a border of
        pieces.

        Args:
            texts: training texts, prompts and labels included.
            vocab_size: most pieces, special ones included.
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
            initial_alphabet=[chr(code) for code in range(33, 127)],
            show_progress=False,
        )
        written = [
            fold_blanks(text).replace("<", MARKERS["<"]).replace(LINE_BREAK, f" {MARKERS[LINE_BREAK]} ")
            for text in texts
        ]
        backend.train_from_iterator(written, trainer)
        end = processors.TemplateProcessing(single=f"$A {SPECIAL[1]}", special_tokens=[(SPECIAL[1], 1)])
        backend.post_processor = end
        return cls(_with_map(backend) if text_map else backend)

    def save(self, folder: str | pathlib.Path) -> None:
        """Write tokenizer.json and the two files by which transformers' AutoTokenizer loads it."""
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        tokens = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2]}
        settings = tokens | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "model_max_length": 1_000_000,
        }
        _write(path / FILE, self._backend.to_str(pretty=True))
        _write(path / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
        _write(path / "special_tokens_map.json", json.dumps(tokens, indent=2) + "\n")

    @property
    def fingerprint(self) -> str:
        """sha256 of vocabulary and settings."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without an end token."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens and ids beyond the vocabulary are skipped, blanks are not tidied."""
        return self._backend.decode(
            [index for index in ids if 0 <= index < self.size], skip_special_tokens=True
        )

    def unknown_characters(self, text: str) -> set[str]:
        """Characters of the text that do not survive encode and decode."""
        return {char for char in set(text) if not char.isspace() and not _survives(self._backend, char)}

    def marker_collisions(self, text: str) -> set[str]:
        """Markers that the text spells itself; decoding would turn them into their character."""
        return {marker for marker in MARKERS.values() if marker in text}


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _survives(backend: tokenizers.Tokenizer, char: str) -> bool:
    text = f"a{char}b"
    return backend.decode(backend.encode(text, add_special_tokens=False).ids) == text


def _has_map(backend: tokenizers.Tokenizer) -> bool:
    return MARKERS["<"] in backend.to_str()


def _with_map(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    if _has_map(backend):
        return backend
    backend.encode_special_tokens = True
    markers = needed_markers(lambda char: _survives(backend, char))
    breaks = [normalizers.Replace(line_break, "\n") for line_break in LINE_BREAKS]
    replaced = [
        normalizers.Replace(char, f" {marker} " if char == LINE_BREAK else marker)
        for char, marker in markers.items()
    ]
    backend.normalizer = normalizers.Sequence([*breaks, *replaced, backend.normalizer])
    restored = [
        decoders.Replace(tokenizers.Regex(f" ?{_escaped(marker)} ?"), char)
        if char == LINE_BREAK
        else decoders.Replace(marker, char)
        for char, marker in markers.items()
    ]
    backend.decoder = decoders.Sequence([backend.decoder, decoders.Fuse(), *restored])
    return backend


def _escaped(marker: str) -> str:
    return marker.replace("[", r"\[").replace("]", r"\]")


def _converted(folder: pathlib.Path) -> pathlib.Path:
    """tokenizer.json made from an older folder that holds only spiece.model."""
    if not (folder / "spiece.model").is_file():
        raise UserError(str(folder), f"no {FILE} here", "Give the folder of a T5 tokenizer.")
    from transformers import AutoTokenizer

    target = pathlib.Path(tempfile.mkdtemp())
    AutoTokenizer.from_pretrained(str(folder), use_fast=True).save_pretrained(str(target))
    return target / FILE
