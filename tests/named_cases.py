"""Preparing made files of the true shape, and reading the rows back; in: texts by file name, out: rows and card."""

import dataclasses
import json
import pathlib

import pytest

from r2d_jax.config_file import load_config
from r2d_jax.data.named.prepare import prepare
from r2d_jax.data.splits import load_splits
from r2d_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SECRET = "Zebedee Quux"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation left."""

    folder: pathlib.Path
    rows: list[dict]
    card: dict

    def row(self, row_id):
        (row,) = [row for row in self.rows if row["id"] == row_id]
        return row

    def splits(self, config):
        """The rows as a run with this config reads them."""
        settings = load_config(ROOT / "configs" / config, [f"data.path={self.folder / 'rows.jsonl'}"])
        sources = list(settings.data.columns.rationales)
        return load_splits(settings.data, settings.seed, sources)


def read_back(folder):
    # json of the standard library over lines is the oracle; the project's own reader is tested in `splits`.
    lines = (folder / "rows.jsonl").read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == ""
    card = json.loads((folder / "data_card.json").read_text(encoding="utf-8"))
    return Prepared(folder, [json.loads(line) for line in lines], card)


@pytest.fixture
def source(tmp_path):
    """A folder to put original files in."""
    folder = tmp_path / "original"
    folder.mkdir()
    return folder


@pytest.fixture
def put(source):
    """Writes one original file; values that are no text or bytes as JSON."""

    def write(name, content, encoding="utf-8"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content, indent=4)
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    return write


@pytest.fixture
def made(source, tmp_path):
    """Prepares a data set from the files put so far."""

    def run(name, out="out", **options):
        prepare(name, str(options.pop("source", source)), tmp_path / out, **options)
        return read_back(tmp_path / out)

    return run


@pytest.fixture
def refused(source, tmp_path):
    """The one-line error of a preparation; it leaves nothing behind and tells no case text."""

    def run(name, *parts, **options):
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(UserError) as caught:
            prepare(name, str(options.pop("source", source)), tmp_path / "out", **options)
        text = str(caught.value)
        for part in parts:
            assert part in text, (part, text)
        assert "\n" not in text
        assert "Zebedee" not in text
        assert "Quux" not in text
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return text

    return run
