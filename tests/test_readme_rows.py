"""The part of README.md on your own data: its commands, as written, on rows like its example."""

import json
import re
import shlex

import pytest
from cli_cases import ROOT, compile_cache, r2d, without_progress  # noqa: F401
from docs_cases import PAGES, blocks, commands, commands_of, name_of, words

from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.objective.schedules import transition_end_step

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


def commands_with_rows():
    """Page, config and settings of each command that trains on a file of rows, or checks it."""
    for page in PAGES:
        set_here = {}
        for command in commands_of(page):
            given = dict(re.findall(r"(\w+)=(\S+)", command.partition(" launch/")[0]))
            if command.startswith("export "):
                set_here |= dict(word.split("=", 1) for word in words(command)[1:] if "=" in word)
                continue
            line = [word.replace("$SPLITS", set_here.get("SPLITS", "")) for word in words(command)]
            settings = [word for word in line if re.match(r"data\.\w+=", word)]
            if not any(re.fullmatch(r"data\.path=.*/?rows\.jsonl", setting) for setting in settings):
                continue
            if "--config" in line:
                config = line[line.index("--config") + 1]
            else:
                config = given.get("CONFIG") or set_here["CONFIG"]
            yield name_of(page), config, settings


# What `r2d data prepare pubmedqa` writes has the splits that the config names.
PREPARED = "data.path=data/pubmedqa/rows.jsonl"


def test_commands_on_rows_of_ones_own_take_the_splits_of_the_example():
    """Configs with the published settings expect PubMedQA's splits, and the pages did not say so."""
    wanted = {"train", "validation", "test"}
    found = [case for case in commands_with_rows() if PREPARED not in case[2]]
    assert len(found) > 6
    for page, config, settings in found:
        data = load_config(ROOT / config, settings).data
        assert set(data.split_values.values()) == wanted, (page, config, shlex.join(settings))


def test_three_files_are_taken_by_the_config_of_ones_own_rows():
    files = [f"data.{name}_path={name}.jsonl" for name in ("train", "validation", "test")]
    with pytest.raises(UserError, match=r"data\.path=null"):
        load_config(ROOT / "configs" / "own_rows.yaml", files)
    assert load_config(ROOT / "configs" / "own_rows.yaml", ["data.path=null", *files]).data.path is None
    assert "`data.path=null`" in README.read_text(encoding="utf-8")


def test_the_pretrained_config_for_ones_own_rows_draws_splits_and_can_stop_early():
    config = load_config(ROOT / "configs" / "own_rows_t5_base.yaml")
    assert config.data.columns.split is None
    assert config.data.split_shares is not None
    # The published 30,000 steps let no small run stop before 19,500 of them.
    stage = config.stage2
    assert transition_end_step(stage) + stage.patience_evals * stage.eval_every_steps < stage.max_steps
    assert transition_end_step(stage) == 1300
    with_column = load_config(
        ROOT / "configs" / "own_rows_t5_base.yaml", ["data.split_shares=null", "data.columns.split=split"]
    )
    assert with_column.data.split_values == {name: name for name in ("train", "validation", "test")}


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
    assert (ended.code, without_progress(ended.err)) == (0, "")
    ended = r2d(*predict[1:])
    assert (ended.code, without_progress(ended.err)) == (0, "")
    predicted = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in predicted] == [row["id"] for row in rows[:3]]
