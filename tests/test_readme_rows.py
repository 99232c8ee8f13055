"""The part of README.md on your own data: its commands, as written, on rows like its example."""

import json
import re

import pytest
from cli_cases import ROOT, compile_cache, r2d  # noqa: F401
from docs_cases import blocks, commands, words

README = ROOT / "README.md"
# As small as it gets; the command itself stays as it is.
STAGE = "{max_steps: 2, batch_size: 8, eval_every_steps: 2, save_every_steps: 2, log_every_steps: 1}"
SMALL = [
    f"stage1={STAGE}",
    f"stage2={STAGE}",
    "tokenizer.train_vocab_size=120",
    "data.rationale_limit_tokens=24",
    "evaluation.rationale_checks=false",
    "evaluation.batch_size=8",
    "model.shape={d_model: 16, d_ff: 16, d_kv: 4, num_heads: 2, num_layers: 1, num_decoder_layers: 1}",
]


def example_row():
    text = re.search(r"^```json\n(\{.*\})\n```$", README.read_text(encoding="utf-8"), re.M)
    return json.loads(text[1])


def own_commands():
    """Those below the example row: training, then prediction."""
    (block,) = [block for block in blocks(README) if "new_rows.jsonl" in block.code]
    return [words(command) for command in commands(block.code)]


def rows_like(example, count, split):
    """Rows with the fields of the example; every other one has another label."""
    for number in range(count):
        label = example["label"] if number % 2 else f"not {example['label']}"
        yield example | {
            "id": f"{split}{number}",
            "split": split,
            "question": f"Is number {number} of {split} odd?",
            "context": f"It is {number}.",
            "label": label,
            "rationale": f"As {number} is seen, it is {label}.",
        }


@pytest.mark.usefixtures("compiled_quickly")
def test_the_commands_run_on_rows_like_the_example(r2d, tmp_path, monkeypatch):  # noqa: F811
    train, predict = own_commands()
    counts = {example_row()["split"]: 20, "validation": 4, "test": 4}
    rows = [row for split, count in counts.items() for row in rows_like(example_row(), count, split)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, some in {"rows.jsonl": rows, "new_rows.jsonl": rows[:3]}.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    train = [word.replace("/path/to/rows.jsonl", "rows.jsonl") for word in train]
    ended = r2d(*train[1:], *SMALL)
    assert (ended.code, ended.err) == (0, "")
    ended = r2d(*predict[1:])
    assert (ended.code, ended.err) == (0, "")
    predicted = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in predicted] == [row["id"] for row in rows[:3]]
