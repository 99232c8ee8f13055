"""`r2d rationales`: what is sent, and what is kept, against a real server on this machine."""

import datetime
import decimal
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pyarrow.parquet
import pytest

pytest_plugins = ["cli_cases", "llm_server"]
pytestmark = pytest.mark.usefixtures("clean_endpoint")

from cli_cases import LABELS, ROOT, SECRET, SECRET_WORDS, as_lines, make_rows, settings, snapshot
from llm_server import KEY, answer, hang, running, status, wait_for
from rich.console import Console
from ruamel.yaml import YAML

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.config_file import load_config
from r2d_jax.data.pipeline import evaluation_batches, train_batches
from r2d_jax.errors import Preempted
from r2d_jax.evaluation.model_folder import ModelCard
from r2d_jax.evaluation.predict import DecodePrograms, Predictor
from r2d_jax.llm.refusals import is_refusal
from r2d_jax.rationales import generate as generating
from r2d_jax.rationales import polish as polishing
from r2d_jax.rationales.prompt_templates import packaged_text
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training import stages, validation
from r2d_jax.training.prepare import prepare
from r2d_jax.training.workdir import Workdir

ROWS = make_rows()[:6]
COLUMNS = ("--id-column", "id", "--context-column", "context")
GOOD = {"rationale": f"{SECRET} fell, so it is urgent."}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(as_lines(ROWS), encoding="utf-8")
    return path


class Command:
    """A command; whatever it does, no case text and no key is printed, and no prompt is stored."""

    def __init__(self, r2d, server, output, *arguments):
        self.r2d, self.server, self.output, self.arguments = r2d, server, output, arguments

    @property
    def cache(self):
        return self.output.with_name(f"{self.output.stem}_{self.arguments[1]}_answers.jsonl")

    @property
    def endpoint(self):
        return ("--base-url", self.server.url, "--llm", "m")

    def __call__(self, *more, endpoint=None, private=True):
        sent = len(self.server.got)
        endpoint = self.endpoint if endpoint is None else endpoint
        ended = self.r2d(*self.arguments, "--output", self.output, *endpoint, *more)
        self.sent = self.server.got[sent:]
        assert KEY not in ended.out + ended.err
        if private:
            assert not [word for word in SECRET_WORDS if word in ended.out + ended.err]
        if self.cache.exists():
            assert "room" not in self.cache.read_text()
            assert KEY not in self.cache.read_text()
        return ended

    def lines(self):
        return list(map(json.loads, self.output.read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def generating_rows(r2d, server, tmp_path, rows):
    server.usual = answer(GOOD)
    (tmp_path / "new").mkdir(exist_ok=True)
    return Command(
        r2d, server, tmp_path / "new" / "out.jsonl", "rationales", "generate", "--input", rows, *COLUMNS
    )


# generate: what is sent and what comes of it


def test_every_row_gets_a_rationale_and_where_it_came_from(generating_rows):
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    generating_rows().done("6 rows; sent now: 6 requests, 660 tokens", "status of 6 rows: 6 ok")
    for got, row in zip(generating_rows.sent, ROWS, strict=True):
        system = got.body["messages"][0]["content"]
        assert system == generating.INSTRUCTIONS + '{"rationale": "..."}'
        filled = packaged_text("generate").replace("{labels}", '["not urgent", "urgent"]')
        for name in ("question", "context", "label"):
            filled = filled.replace(f"{{{name}}}", row[name])
        assert got.prompt == filled
        assert row["rationale"] not in json.dumps(got.body)
        assert row["id"] not in json.dumps(got.body)
    lines = generating_rows.lines()
    assert [{name: line[name] for name in row} for line, row in zip(lines, ROWS, strict=True)] == ROWS
    template = system + "\0" + packaged_text("generate")
    for line, got in zip(lines, generating_rows.sent, strict=True):
        assert list(line)[-2:] == ["rationale_llm", "rationale_llm_provenance"]
        assert line["rationale_llm"] == GOOD["rationale"]
        found = line["rationale_llm_provenance"]
        prompt = json.dumps(got.body["messages"], sort_keys=True).encode()
        time = datetime.datetime.fromisoformat(found.pop("time"))
        assert len(found.pop("request_hash")) == 16
        assert before <= time <= datetime.datetime.now(datetime.UTC)
        assert found == {
            "llm": "m",
            "endpoint_host": generating_rows.server.url[7:-3],
            "template_hash": hashlib.sha256(template.encode()).hexdigest()[:16],
            "prompt_hash": hashlib.sha256(prompt).hexdigest()[:16],
            "status": "ok",
            "label_given": True,
        }
    files = snapshot(generating_rows.output.parent)
    generating_rows().done("sent now: 0 requests")
    assert snapshot(generating_rows.output.parent) == files


def test_a_hidden_label_is_never_sent(generating_rows, rows, server):
    server.usual = answer({**GOOD, "label": " urgent "})
    generating_rows("--hide-label").done("3 ok, 3 the answer's label is not the gold one")
    first = [got.body["messages"] for got in generating_rows.sent]
    lines = generating_rows.lines()
    for line, row in zip(lines, ROWS, strict=True):
        agrees = row["label"] == "urgent"
        assert line["rationale_llm"] == (GOOD["rationale"] if agrees else "")
        found = line["rationale_llm_provenance"]
        assert found["status"] == ("ok" if agrees else generating.OTHER_LABEL)
        assert (found["answered_label"], found["label_given"]) == ("urgent", False)
    # Rows with the other label ask for the very same thing, so nothing of the label is in it.
    swapped = [row | {"label": LABELS[row["label"] == LABELS[0]]} for row in ROWS]
    assert all(new["label"] != old["label"] for new, old in zip(swapped, ROWS, strict=True))
    rows.write_text(as_lines(swapped), encoding="utf-8")
    generating_rows("--hide-label", "--temperature", 1, "--overwrite").done()
    assert [got.body["messages"] for got in generating_rows.sent] == first


def test_the_label_is_the_field_and_never_a_word_of_the_rationale(generating_rows, server):
    server.usual = answer({"rationale": "It is not urgent at first sight; urgent: no.", "label": "urgent"})
    generating_rows("--hide-label").done("3 ok")
    kept = [bool(line["rationale_llm"]) for line in generating_rows.lines()]
    assert kept == [row["label"] == "urgent" for row in ROWS]


def test_labels_off_the_list_are_asked_again_counted_and_not_written_to_the_output(generating_rows, server):
    # A word that the rows and rationales do not hold, as these stand in the output.
    off, good = answer({**GOOD, "label": f"Urgent Okapi {SECRET}"}), answer({**GOOD, "label": "urgent"})
    server.script = [off, off, off, off, good]
    server.usual = answer({**GOOD, "label": "not urgent"})
    generating_rows("--hide-label").done(
        "3 the answer's label is not the gold one, 2 ok, 1 label not on the list", "4 rows have no text"
    )
    notes = [got.body["messages"][0]["content"].count("An earlier answer") for got in generating_rows.sent]
    assert notes[:5] == [0, 1, 1, 0, 1]
    first = generating_rows.lines()[0]
    assert first["rationale_llm"] == ""
    found = first["rationale_llm_provenance"]
    assert (found["status"], found["answered_label"]) == ("label not on the list", None)
    assert "Okapi" not in generating_rows.output.read_text(encoding="utf-8")
    # It is paid for, and what the rows get is told from it again.
    assert generating_rows.cache.read_text(encoding="utf-8").count("Okapi") == 4
    before = generating_rows.output.read_bytes()
    generating_rows("--hide-label").done("sent now: 0 requests", "1 label not on the list")
    assert generating_rows.output.read_bytes() == before


@pytest.mark.parametrize(
    ("bad", "wanted"),
    [
        (answer("", finish="content_filter"), "refused by the model"),
        (answer(None), "refused by the model"),
        (answer("I'm sorry, but I can't help with that request."), "refused by the model"),
        (
            answer({"rationale": "As an AI language model, I cannot provide medical advice."}),
            "refused by the model",
        ),
        (answer('{"rationale": "The patient fe', finish="length"), "cut at the answer limit"),
        (answer(GOOD, finish="length"), "cut at the answer limit"),
        (answer({"rationale": " \n\u200b"}), "empty rationale"),
        (answer("\u200b"), "refused by the model"),
        (answer({"label": "urgent"}), "JSON of another form"),
        (answer(f"Because {SECRET} fell."), "no JSON object"),
    ],
)
def test_faulty_answers_stay_as_rows_without_a_rationale(generating_rows, server, bad, wanted):
    server.script = [server.usual, bad, bad, bad]
    generating_rows().done(f"status of 6 rows: 5 ok, 1 {wanted}", "1 rows have no text in rationale_llm")
    assert len(generating_rows.sent) == 1 + 3 + 4
    lines = generating_rows.lines()
    assert [line["rationale_llm_provenance"]["status"] for line in lines] == ["ok", wanted] + ["ok"] * 4
    assert lines[1]["rationale_llm"] == ""
    assert {name: lines[1][name] for name in ROWS[1]} == ROWS[1]
    generating_rows().done("sent now: 0 requests")


def test_a_refusal_in_a_field_of_its_own(generating_rows, server):
    body = {
        "choices": [{"message": {"content": json.dumps(GOOD), "refusal": "No."}, "finish_reason": "stop"}]
    }
    server.script = [lambda handler: handler.reply(200, body)] * 3
    generating_rows().done("5 ok, 1 refused by the model")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot assist with this request",
        "Sorry, but I am unable to provide a diagnosis.",
        "I cannot comply with this.",
        "I can't provide medical advice.",
        "As an AI language model, I am not able to give medical advice.",
        "Unfortunately, I cannot generate this text.",
        "I apologize, but I won't be able to do that.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot exclude a fracture, so this is urgent.",
        "The patient says: I'm sorry, I cannot help with the dressing.",
        "Sorry state of the wound; urgent.",
        "Unable to provide a urine sample; standard.",
        "As the patient cannot breathe, immediate.",
        "Unfortunately the pain is 9/10.",
        "",
    ],
)
def test_rationales_that_are_no_refusals(text):
    assert not is_refusal(text)


def test_rate_limits_and_a_bad_server(generating_rows, server):
    server.script = [status(429, Retry_After="0"), server.usual, status(500), server.usual, status(400)]
    generating_rows().done("sent now: 8 requests", "5 ok, 1 HTTP 400")
    lines = generating_rows.lines()
    failed = lines[2]["rationale_llm_provenance"]
    assert (failed["status"], failed["time"], lines[2]["rationale_llm"]) == ("HTTP 400", None, "")
    generating_rows().done("sent now: 1 requests", "6 ok")
    server.usual = status(429, Retry_After="3600")
    generating_rows("--temperature", 1, "--overwrite").refused("HTTP 429", "Try again in 3600 s")
    assert generating_rows.lines()[2]["rationale_llm"] == GOOD["rationale"]


def test_a_killed_command_pays_for_no_answer_twice(generating_rows, server):
    server.script = [server.usual] * 3 + [hang]
    arguments = [*generating_rows.arguments, "--output", generating_rows.output, *generating_rows.endpoint]
    process = subprocess.Popen(
        [sys.executable, "-m", "r2d_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    wait_for(lambda: len(server.got) == 4)
    generating_rows().refused("another command is writing to it")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not generating_rows.output.exists()
    generating_rows().done("sent now: 3 requests", "6 ok")
    assert len(generating_rows.cache.read_text().splitlines()) == 6


def test_limits_and_first_rows(generating_rows):
    generating_rows("--max-requests", 2).refused("--max-requests: all 2 are sent")
    assert not generating_rows.output.exists()
    generating_rows("--max-rows", 3).done("3 rows; sent now: 1 requests", "status of 3 rows: 3 ok")
    assert len(generating_rows.lines()) == 3
    used = ("--max-tokens-total", 400, "--max-answer-tokens", 50, "--temperature", 1, "--overwrite")
    generating_rows(*used).refused("--max-tokens-total: .* are used")
    generating_rows().done("6 rows; sent now: 3 requests")


def test_a_dry_run_sends_and_writes_nothing(generating_rows, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    generating_rows("--dry-run").done("nothing is sent", "6 rows, 0 of them", "6 requests; at most 18")
    generating_rows("--dry-run", "--show-prompt", private=False).done("fell on day 0")
    assert not list(generating_rows.output.parent.iterdir())
    assert not generating_rows.server.got


def test_nothing_is_sent_without_an_address(generating_rows, r2d, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", generating_rows.server.url)
    for name in ("generate", "polish"):
        generating_rows.arguments = ("rationales", name, *generating_rows.arguments[2:])
        generating_rows(endpoint=()).refused("--base-url: is not given, and without it nothing is sent")
        generating_rows(endpoint=("--base-url", "http://example.org/v1", "--llm", "m")).refused("unencrypted")
    assert not generating_rows.server.got


# Templates


def test_a_template_of_the_user(generating_rows, tmp_path, server):
    prompt = tmp_path / "p.txt"
    prompt.write_text('{{"case": {question}|{context}}} is {label}', encoding="utf-8")
    generating_rows("--prompt", prompt).done("6 ok")
    row = ROWS[0]
    assert (
        generating_rows.sent[0].prompt == f'{{"case": {row["question"]}|{row["context"]}}} is {row["label"]}'
    )
    first = generating_rows.lines()[0]["rationale_llm_provenance"]
    # The cache is keyed by the template: another one asks again, the old one does not.
    prompt.write_text("{question}{context} {label}!", encoding="utf-8")
    generating_rows("--prompt", prompt, "--overwrite").done("sent now: 6 requests")
    second = generating_rows.lines()[0]["rationale_llm_provenance"]
    for name in ("template_hash", "prompt_hash"):
        assert first[name] != second[name]
    prompt.write_text('{{"case": {question}|{context}}} is {label}', encoding="utf-8")
    generating_rows("--prompt", prompt, "--overwrite").done("sent now: 0 requests")
    assert generating_rows.lines()[0]["rationale_llm_provenance"] == first


def test_braces_in_a_case_mean_nothing(generating_rows, rows, server):
    rows.write_text(as_lines([ROWS[0] | {"question": "{label} {x} }}"}]), encoding="utf-8")
    server.usual = answer({"rationale": " It {fell}. \n"})
    generating_rows().done("1 ok")
    assert generating_rows.lines()[0]["rationale_llm"] == "It {fell}."
    assert "\n{label} {x} }}\n" in generating_rows.sent[0].prompt


@pytest.mark.parametrize(
    ("text", "more", "wanted"),
    [
        ("Say why.", (), "has no placeholder"),
        ("{question} {context} {label} {rationale}", (), "placeholder {rationale} is not one"),
        ("{question} {context} {label} {gold.x}", (), "placeholder {gold.x} is not one"),
        ("{question} {context} {label!r}", (), "placeholder {label!r} is not one"),
        ("{question} {context} {label} {", (), "has a brace that belongs to no placeholder"),
        ("{{question}} {{context}}", (), "has a brace that belongs to no placeholder"),
        ("{context} {label}", (), "lacks the placeholder {question}"),
        ("{question} {context}", (), "lacks the placeholder {label}"),
        ("{question} {label}", (), "lacks the placeholder {context}"),
        ("{question} {context} {labels} {label}", ("--hide-label",), "placeholder {label} is not one"),
        ("{question} {context}", ("--hide-label",), "lacks the placeholder {labels}"),
    ],
)
def test_faulty_templates(generating_rows, tmp_path, text, more, wanted):
    prompt = tmp_path / "p.txt"
    prompt.write_text(text, encoding="utf-8")
    generating_rows("--prompt", prompt, *more).refused(
        wanted.replace("{", r"\{").replace(".", r"\."), "p.txt"
    )
    assert not generating_rows.server.got


def test_files_that_are_no_templates(generating_rows, tmp_path):
    generating_rows("--prompt", tmp_path / "no.txt").refused("cannot be read")
    (tmp_path / "latin.txt").write_bytes(b"{question} {label} \xe9")
    generating_rows("--prompt", tmp_path / "latin.txt").refused("is not UTF-8")


# Files


def test_cells_come_out_as_they_went_in(generating_rows, rows):
    first, second = (json.dumps(ROWS[n] | {"id": n}) for n in (0, 1))
    long = first.replace('"id": 0', '"id": 12345678901234567890')
    more = ', "more": [1.50, null, true, {"a": "\\u2028\\u00e9"}], "lone": "\\ud83d"}'
    rows.write_text(f"{long}\n{second[:-1]}{more}\n", encoding="utf-8")
    generating_rows().done("2 ok")
    written = generating_rows.output.read_text(encoding="utf-8").splitlines()
    assert '"id": 12345678901234567890,' in written[0]
    assert '"more": [1.50, null, true, {"a": "\\u2028é"}], "lone": "\\ud83d"' in written[1]
    assert json.loads(written[1])["lone"] == "\ud83d"


UNWRITABLE = [
    ([decimal.Decimal("1.50")], r"is decimal128\(3, 2\), which JSON lacks"),
    ([datetime.datetime(2024, 1, 1)], r"is timestamp\[us\], which JSON lacks"),
    ([math.nan], r"is nan \(double\), which JSON lacks"),
    ([[1]], r"is list<\w+: int64>, which JSON lacks"),
]


@pytest.mark.parametrize("command", ["generate", "polish", "audit"])
@pytest.mark.parametrize(("values", "wanted"), UNWRITABLE)
def test_rows_that_cannot_be_written_are_refused_before_anything_is_paid(
    r2d, server, tmp_path, command, values, wanted
):
    table = tmp_path / "rows.parquet"
    columns = {name: [ROWS[0][name]] for name in ("question", "label", "rationale")}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "seen": values}), table)
    out = ("--output", tmp_path / "out.jsonl")
    if command == "audit":
        out = ("--judge", "--filter", tmp_path / "out.jsonl", "--output", tmp_path / "audited")
    endpoint = ("--base-url", server.url, "--llm", "m")
    r2d("rationales", command, "--input", table, *endpoint, *out).refused("row 1, field 'seen': " + wanted)
    assert not server.got


def test_deep_cells_are_refused_before_anything_is_paid(generating_rows, rows):
    def deep(levels):
        return json.dumps(ROWS[1])[:-1] + ', "deep": ' + "[" * levels + "]" * levels + "}"

    for levels in (102, 600):
        rows.write_text(f"{json.dumps(ROWS[0])}\n{deep(levels)}\n", encoding="utf-8")
        generating_rows().refused("line 2, field 'deep': is nested more than 100 deep")
        assert not generating_rows.sent
    rows.write_text(deep(100) + "\n", encoding="utf-8")
    generating_rows().done("1 ok")
    generating_rows().done("sent now: 0 requests")


def test_fractions_and_truth_values_of_parquet_come_out_as_numbers(generating_rows, tmp_path):
    table = tmp_path / "rows.parquet"
    columns = {name: [ROWS[0][name]] * 2 for name in ("question", "label")}
    columns |= {"pulse": [72.5, None], "fever": [True, False]}
    pyarrow.parquet.write_table(pyarrow.table(columns), table)
    generating_rows.arguments = ("rationales", "generate", "--input", table)
    generating_rows().done("2 ok")
    generating_rows().done("sent now: 0 requests")
    assert [(line["pulse"], line["fever"]) for line in generating_rows.lines()] == [
        (72.5, True),
        (None, False),
    ]


def test_a_table_becomes_rows(generating_rows, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text('id,question,label,n\n007,"a ""b""\nc",NA,1.0\n', encoding="utf-8")
    generating_rows.arguments = ("rationales", "generate", "--input", table, "--id-column", "id")
    generating_rows().done("1 ok")
    generating_rows().done("sent now: 0 requests")
    line = generating_rows.lines()[0]
    assert {name: line[name] for name in ("id", "question", "label", "n")} == {
        "id": "007",
        "question": 'a "b"\nc',
        "label": "NA",
        "n": "1.0",
    }


def test_inputs_are_never_written_over(generating_rows, rows, tmp_path, r2d, server):
    before = rows.read_bytes()
    endpoint = ("--base-url", server.url, "--llm", "m")
    command = ("rationales", "generate", "--input", rows, *COLUMNS, *endpoint, "--output")
    r2d(*command, rows).refused("is an input")
    r2d(*command, tmp_path / "x.csv").refused("does not end in .jsonl")
    (tmp_path / "other.jsonl").write_text("{}")
    r2d(*command, tmp_path / "other.jsonl").refused("is there and not of this command")
    generating_rows("--column", "rationale").refused("'rationale' is there already", "another --column")
    generating_rows("--column", "").refused("--column: is empty")
    generating_rows("--label-column", "answer").refused("no column 'answer'")
    generating_rows.arguments = ("rationales", "generate")
    generating_rows().refused("neither --input nor --model is given")
    assert rows.read_bytes() == before
    assert not server.got


@pytest.fixture
def a_run(tmp_path):
    (tmp_path / "all.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    YAML().dump(settings(tmp_path / "all.jsonl"), folder / "config.yaml")
    columns = ColumnsConfig(id="id", split="split", context="context")
    card = ModelCard(T5Config(), (*LABELS, "later"), 4, 64, 8, "float32", "0", columns)
    (folder / "r2d_model.json").write_text(card.to_json(), encoding="utf-8")
    return folder


def test_rows_of_a_run(generating_rows, a_run):
    generating_rows.arguments = ("rationales", "generate", "--model", a_run)
    generating_rows().done("30 ok")
    assert '["urgent", "not urgent", "later"]' in generating_rows.sent[0].prompt
    want = make_rows()
    assert [{name: line[name] for name in want[0]} for line in generating_rows.lines()] == want
    generating_rows("--split", "test").refused("holds the results of other rows")
    generating_rows("--split", "test", "--overwrite").done("6 rows; sent now: 0 requests")
    generating_rows("--split", "dev").refused("--split: 'dev' is not known")


def test_the_output_trains_both_stages(generating_rows, tmp_path, r2d, rows):
    """Stage 1 learns the LLM's rationales, stage 2 the human ones, of one file."""
    rows.write_text(as_lines(make_rows()), encoding="utf-8")
    generating_rows().done("30 ok")
    config = settings(generating_rows.output)
    config["data"]["columns"]["rationales"] = {"human": "rationale", "llm": "rationale_llm"}
    config["stage1"] = config["stage1"] | {"rationale_source": "llm"}
    config["stage2"] = config["stage2"] | {"rationale_source": "human"}
    YAML().dump(config, tmp_path / "config.yaml")
    config = load_config(tmp_path / "config.yaml")
    prepared = prepare(config, Workdir(tmp_path / "run"), make_mesh(config.mesh))
    assert prepared.sources == {1: "llm", 2: "human"}
    first = prepared.splits.train[0]
    assert first.rationales == {"llm": GOOD["rationale"], "human": ROWS[0]["rationale"]}
    for number, text in ((1, GOOD["rationale"]), (2, ROWS[0]["rationale"])):
        ids = prepared.encoder.encode([first], prepared.sources[number])[0].rationale
        assert text.startswith(prepared.tokenizer.decode(ids))


def test_each_stage_reads_its_own_source_in_the_order_of_the_seed(tmp_path, rows, monkeypatch):
    given = [row | {"llm": f"{row['id']} by a model"} for row in make_rows()]
    rows.write_text(as_lines(given), encoding="utf-8")
    config = settings(rows) | {"seed": 3}
    config["data"]["columns"]["rationales"] = {"human": "rationale", "llm": "llm"}
    config["stage1"] = config["stage1"] | {"rationale_source": "llm"}
    config["stage2"] = config["stage2"] | {"rationale_source": "human"}
    YAML().dump(config, tmp_path / "config.yaml")
    config, workdir = load_config(tmp_path / "config.yaml"), Workdir(tmp_path / "run")
    prepared = prepare(config, workdir, make_mesh(config.mesh))
    drawn = prepared.factory.init(jax.random.key(3))["embedding"]
    np.testing.assert_allclose(prepared.initial_params()["embedding"], drawn, atol=1e-6)
    trained, validated = [], []

    def first_batch(config, *, batches, evaluate, state, checkpoints, **_):
        assert int(state.seed) == 3
        trained.append(next(batches(0)))
        evaluate(state.params, 1, lambda: None)
        checkpoints.save_best(1, state.params, {})
        raise Preempted("seen enough")

    def watched(features, *arguments):
        validated.append(features)
        return evaluation_batches(features, *arguments)

    # What takes long, and looks at no rationale but through these batches.
    sums = {"rationale_loss_sum": 1.0, "label_loss_sum": 1.0}, {"rationale": 1.0, "label": 1.0}
    monkeypatch.setattr(validation, "make_loss_sums", lambda *_: lambda *_: sums)
    monkeypatch.setattr(stages, "_step_memory", lambda *_: None)
    monkeypatch.setattr(stages, "label_scores", lambda *_: {})
    no_states = types.SimpleNamespace(states=None)
    monkeypatch.setattr(DecodePrograms, "encode_questions", lambda *_: no_states)
    monkeypatch.setattr(DecodePrograms, "decode_labels", lambda *_: None)
    monkeypatch.setattr(Predictor, "label_texts", lambda self, _, rows: [""] * rows)
    monkeypatch.setattr(stages, "train", first_batch)
    monkeypatch.setattr(validation, "evaluation_batches", watched)
    for number, source in ((1, "llm"), (2, "human")):
        with pytest.raises(Preempted):
            stages.run_stage(prepared, workdir, number, Console(quiet=True), StopSignal())
        workdir.mark("stage1_done", {"best_step": 1})
        of_source = {}
        for split in ("train", "validation"):
            encoded = prepared.encoder.encode(getattr(prepared.splits, split), source)
            of_source[split] = prepared.encoder.features(encoded, prepared.shapes)
        buckets = prepared.stages[number].buckets
        wanted = next(train_batches(of_source["train"], 8, seed=3, buckets=buckets))
        np.testing.assert_array_equal(trained[-1]["rationale_ids"], wanted["rationale_ids"])
        np.testing.assert_array_equal(trained[-1]["question_ids"], wanted["question_ids"])
        every = np.arange(len(of_source["validation"]))
        np.testing.assert_array_equal(
            validated[-1].rationale_ids[every], of_source["validation"].rationale_ids[every]
        )


# polish

NURSE = [
    "HR 124, BP 85/50 mmHg - urgent.",
    "T 38.5 - not urgent",
    "As above, urgent",
    "",
    "Pain 8/10, urgent",
    "Fell, not urgent",
]


@pytest.fixture
def polishing_rows(r2d, server, tmp_path, rows):
    texts = [row | {"nurse": nurse} for row, nurse in zip(ROWS, NURSE, strict=True)]
    rows.write_text(as_lines(texts), encoding="utf-8")
    arguments = ("rationales", "polish", "--input", rows, *COLUMNS, "--rationale-column", "nurse")
    (tmp_path / "new").mkdir(exist_ok=True)
    return Command(r2d, server, tmp_path / "new" / "polished.jsonl", *arguments)


def test_polished_rationales(polishing_rows, server):
    texts = [
        "The heart rate is 124 and the pressure 85/50 mmHg, which is urgent.",
        "A temperature of 38.5, so it is not urgent.",
        "As described above, this is urgent.",
        "The pain is 8/10, which is urgent.",
        "The patient fell; this is not urgent.",
    ]
    server.script = [answer({"rationale": text}) for text in texts]
    polishing_rows().done("5 rows; sent now: 5 requests", "status of 6 rows: 5 ok, 1 no rationale to polish")
    sent = [got.prompt for got in polishing_rows.sent]
    template = packaged_text("polish")
    assert sent == [template.replace("{rationale}", text) for text in NURSE if text]
    assert polishing_rows.sent[0].body["messages"][0]["content"] == polishing.INSTRUCTIONS
    lines = polishing_rows.lines()
    assert [line["rationale_polished"] for line in lines] == [*texts[:3], "", *texts[3:]]
    assert [line["nurse"] for line in lines] == NURSE
    found = [line["rationale_polished_provenance"] for line in lines]
    assert [one["original_kept"] for one in found] == [False] * 3 + [True] + [False] * 2
    assert (found[3]["prompt_hash"], found[3]["time"]) == (None, None)
    polishing_rows().done("sent now: 0 requests")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The heart rate is 124 and the pressure low, which is urgent.", polishing.NUMBERS_CHANGED),
        ("Heart rate 142, pressure 85/50 mmHg: urgent.", polishing.NUMBERS_CHANGED),
        ("Heart rate 124 bpm, pressure 85/50 mmHg: urgent.", polishing.NUMBERS_CHANGED),
        ("Heart rate 124, pressure 85/50 kPa: urgent.", polishing.NUMBERS_CHANGED),
        ("Heart rate 124, pressure 85/50 mmHg, SpO2 97%: urgent.", polishing.NUMBERS_CHANGED),
        ("Heart rate 124, pressure 85/50 mmHg: not urgent.", polishing.LABEL_CHANGED),
        ("Heart rate 124, pressure 85/50 mmHg: very serious.", polishing.LABEL_CHANGED),
        ("Heart rate 124, pressure 85/50 mmHg: urgent, not just not urgent.", polishing.LABEL_CHANGED),
        ("I'm sorry, I can't help with that.", "refused by the model"),
        ("", "empty rationale"),
        ("\u200b", "empty rationale"),
    ],
)
def test_an_answer_that_changes_facts_leaves_the_original(polishing_rows, server, text, wanted):
    server.script = [answer({"rationale": text})] * 3
    server.usual = answer({"rationale": "no such text"})
    polishing_rows("--max-rows", 1).done("3 requests", f"status of 1 rows: 1 {wanted}")
    line = polishing_rows.lines()[0]
    assert line["rationale_polished"] == NURSE[0]
    found = line["rationale_polished_provenance"]
    assert (found["status"], found["original_kept"]) == (wanted, True)
    notes = [got.body["messages"][0]["content"].count("An earlier answer was refused") for got in server.got]
    assert notes == [0, 1, 1]
    polishing_rows("--max-rows", 1).done("sent now: 0 requests")


def test_a_better_second_answer_is_taken(polishing_rows, server):
    bad, good = "A fast heart: urgent.", "Heart rate 124 and pressure 85/50 mmHg, so it is urgent."
    server.script = [answer({"rationale": bad}), answer({"rationale": good})]
    polishing_rows("--max-rows", 1).done("sent now: 2 requests", "1 ok")
    assert polishing_rows.lines()[0]["rationale_polished"] == good


def test_one_note_under_two_labels_is_paid_once_and_checked_for_each(polishing_rows, rows, server):
    note = "Fell: urgent, or not urgent."
    rows.write_text(as_lines([row | {"nurse": note} for row in ROWS[:2]]), encoding="utf-8")
    server.usual = answer({"rationale": "The patient fell, which is urgent."})
    polishing_rows("--max-reasks", 0).done("sent now: 1 requests", "1 ok, 1 names another label")
    assert [line["rationale_polished"] == note for line in polishing_rows.lines()] == [False, True]


def test_one_command_does_not_write_over_the_output_of_another(generating_rows, rows, r2d, server):
    generating_rows().done()
    before = generating_rows.output.read_bytes()
    command = ("rationales", "polish", "--input", rows, *COLUMNS, *generating_rows.endpoint)
    r2d(*command, "--output", generating_rows.output).refused("is there and not of this command")
    assert generating_rows.output.read_bytes() == before


def test_an_output_of_other_rows_is_replaced_on_request_only(generating_rows, polishing_rows, rows):
    """Of other texts, or of the same ones under other ids; a value keeps its written form."""
    given = [row | {"nurse": nurse, "n": 1.50} for row, nurse in zip(ROWS, NURSE, strict=True)]
    for command, column in ((generating_rows, "question"), (polishing_rows, "nurse")):
        rows.write_text(as_lines(given).replace("1.5", "1.50"), encoding="utf-8")
        command().done()
        command().done("sent now: 0 requests")
        before = command.output.read_bytes()
        for name in (column, "id"):
            others = [row | {name: f"{row[name]} another"} for row in given]
            rows.write_text(as_lines([given[0], *others[1:]]), encoding="utf-8")
            command().refused(f"{command.output.name}: holds the results of other rows", "add --overwrite")
            assert not command.sent
            assert command.output.read_bytes() == before
        command("--overwrite").done("sent now: 0 requests")


def test_an_output_of_more_rows_or_of_an_older_version_is_told_as_such(generating_rows, polishing_rows):
    """An older version wrote no hash of what was asked; an empty file is nothing to keep."""
    for command in (generating_rows, polishing_rows):
        command.output.touch()
        command().done()
        before = command.output.read_bytes()
        command("--max-rows", 5).refused("holds the results of more rows", "add --overwrite")
        command("--max-rows", 5, "--temperature", 1, "--dry-run").done("rows, 0 of them")
        assert command.output.read_bytes() == before
        older = command.lines()
        for row in older:
            (found,) = (cell for name, cell in row.items() if name.endswith("_provenance"))
            del found["request_hash"]
        command.output.write_text(as_lines(older), encoding="utf-8")
        command().refused("does not say what was asked, as results of older versions", "Add --overwrite")
        assert command.lines() == older
        command("--overwrite").done("sent now: 0 requests")
        assert command.output.read_bytes() == before


def test_polish_needs_a_column_of_text(polishing_rows, rows):
    polishing_rows("--rationale-column", "nurses").refused("no column 'nurses'; columns found: ")
    rows.write_text(as_lines([row | {"nurse": 3} for row in ROWS]), encoding="utf-8")
    polishing_rows().refused("line 1, field 'nurse'", "is int, not text")
    assert not polishing_rows.server.got


def test_the_docs_hold_what_is_sent():
    text = (ROOT / "docs" / "rationales.md").read_text(encoding="utf-8")
    for name in ("generate", "generate_hidden_label", "polish"):
        assert packaged_text(name) in text
    assert generating.INSTRUCTIONS in text
    assert polishing.INSTRUCTIONS in text


def test_the_help_says_whose_duty_it_is(r2d):
    for command in ((), ("generate",), ("polish",)):
        r2d("rationales", *command, "--help").done("(?i)de-identif", "(?s)your.+duty")


def test_nothing_is_kept_of_another_server(generating_rows):
    generating_rows("--max-rows", 1).done("sent now: 1 requests")
    with running() as other:
        other.usual = answer(GOOD)
        endpoint = ("--base-url", other.url, "--llm", "m")
        generating_rows("--max-rows", 1, "--overwrite", endpoint=endpoint).done()
        assert len(other.got) == 1
