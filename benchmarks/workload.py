"""What both sides are given; in: a folder written by `prepare`, out: Settings, and rows and prompts as token ids."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable
from typing import Any

PAD_ID, END_ID = 0, 1
ROWS_FILE, FACTS_FILE, TEXTS_FILE = "rows.json", "facts.json", "texts.json"
MODEL_FOLDER = "model"
TOKENIZER_FOLDER = "tokenizer"


@dataclasses.dataclass(frozen=True)
class Row:
    """Token ids of a row, cut to the limits; label and rationale with the end token.

    Attributes:
        question: question and context.
        label: the gold label.
        rationale: the gold rationale.
    """

    question: list[int]
    label: list[int]
    rationale: list[int]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one run measures; alike on both sides.

    Attributes:
        batch_size: rows of a training step.
        generation_batch_size: rows of a generation.
        repeats: timed repeats of every training step.
        generation_repeats: timed repeats of every generation.
        rationale_tokens: tokens that each row is made to write.
        long_label_tokens: a label limit far above the longest label, as the published code has it.
        seed: of the order of rows and of coins.
        dtype: "float32", or "bfloat16" for computing with float32 weights.
        device: "cpu" or "gpu".
        remat: as model.remat.
        scan_layers: as model.scan_layers.
        length_buckets: as data.length_buckets, of ours; 10 in the configs for PubMedQA. Each is compiled separately.
        xla_flags: XLA_FLAGS of ours; empty: the compiler's defaults.
        peer_threads: of torch on CPU; None: all cores. (XLA takes all cores.)
        alternating: the sides take turns, both in memory; else one after the other, as a GPU's memory asks for.
    """

    batch_size: int = 16
    generation_batch_size: int = 32
    repeats: int = 8
    generation_repeats: int = 3
    rationale_tokens: int = 255
    long_label_tokens: int = 50
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    remat: str = "none"
    scan_layers: bool = False
    length_buckets: int = 10
    xla_flags: str = ""
    peer_threads: int | None = None
    alternating: bool = True


@dataclasses.dataclass(frozen=True)
class Workload:
    """Rows, prompts and weights of one case.

    Attributes:
        folder: holds the weights in Hugging Face form, the tokenizer and the texts.
        rows: all rows.
        prompts: fixed parts of the prompts: predict, explain, given, then_explain.
        label_tokens: the longest label with its end token; the limit of every label decode.
        facts: where the rows come from, and their sizes.
    """

    folder: pathlib.Path
    rows: list[Row]
    prompts: dict[str, list[int]]
    label_tokens: int
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Workload":
        """Read what `prepare` wrote."""
        stored = json.loads((folder / ROWS_FILE).read_text(encoding="utf-8"))
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        return cls(
            folder, [Row(*row) for row in stored["rows"]], stored["prompts"], stored["label_tokens"], facts
        )

    @property
    def model(self) -> pathlib.Path:
        """Folder of the weights."""
        return self.folder / MODEL_FOLDER

    @property
    def tokenizer(self) -> pathlib.Path:
        """Folder of the tokenizer."""
        return self.folder / TOKENIZER_FOLDER

    def texts(self) -> list[list[str]]:
        """Question with context, label and rationale of each row."""
        return json.loads((self.folder / TEXTS_FILE).read_text(encoding="utf-8"))

    def generation_batches(self, settings: Settings, order: Iterable[Row]) -> list[list[Row]]:
        """The batches that stand for a prediction of all rows in this order, smallest first.

        As many as there are timed generations, the middles of equal shares by size (see `at_quantiles`).
        """
        rows, size = list(order), settings.generation_batch_size
        # The last batch is filled up from the start of the file.
        rows += [self.rows[i % len(self.rows)] for i in range(-len(rows) % size)]
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        longest = [max(len(row.question) for row in batch) for batch in batches]
        return [batches[index] for index in at_quantiles(longest, settings.generation_repeats)]


class Clock:
    """Seconds since it was made, of the wall and of this process on all cores together."""

    def __init__(self) -> None:
        """Start it."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, as a side's answer has them."""
        return {"secs": time.perf_counter() - self._wall, "cpu_secs": time.process_time() - self._cpu}


def at_quantiles(sizes: Iterable[int], count: int) -> list[int]:
    """Indexes of `count` batches that stand for all of them: the middles of `count` equal shares by size.

    A few steps then have the same mean size as the whole stream, on a side whose batches are all alike and on
    one whose batches are sorted by length. Smallest first.
    """
    order = sorted(enumerate(sizes), key=lambda pair: (pair[1], pair[0]))
    return [order[int((i + 0.5) / count * len(order))][0] for i in range(count)]
