"""`r2d judge` and `r2d zero-shot` against a real server on this machine: cost, privacy, stops, and what is scored."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest_plugins = ["cli_cases", "llm_server"]
pytestmark = pytest.mark.usefixtures("clean_endpoint")

from cli_cases import LABELS, ROOT, SECRET, SECRET_WORDS, as_lines, make_rows, settings, snapshot
from llm_server import KEY, SCORES, answer, hang, page, reset, running, slow, status, wait_for
from ruamel.yaml import YAML

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.evaluation import judge, zero_shot
from r2d_jax.evaluation.comparison import read_result
from r2d_jax.evaluation.evaluate import prediction_row
from r2d_jax.evaluation.metrics import label_metrics
from r2d_jax.evaluation.model_folder import ModelCard
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.llm.cache import AnswerCache, LlmAnswer
from r2d_jax.llm.client import LlmClient
from r2d_jax.llm.questions import NO_JSON, OFF_LIST, RowAnswer

ROWS = make_rows()[:6]
COLUMNS = ("--id-column", "id", "--context-column", "context")


@pytest.fixture
def rows(tmp_path):
    """A file of labelled rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text(as_lines(ROWS), encoding="utf-8")
    return path


def predictions_of(rows, **third):
    lines = []
    for number, row in enumerate(rows):
        label = LABELS[number % 3 == 0]
        prediction = Prediction(label, True, 0.5, f"Because {SECRET} fell on day {number}.")
        lines.append(prediction_row(row["id"], prediction, LABELS) | {"gold_label": row["label"]})
    lines[2] = {name: value for name, value in (lines[2] | third).items() if value is not ...}
    return lines


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(as_lines(predictions_of(ROWS)), encoding="utf-8")
    return path


class Command:
    """A command on the six rows; whatever it does, no case text and no key is printed or cached."""

    def __init__(self, r2d, server, output, *arguments):
        self.r2d, self.server, self.output, self.arguments = r2d, server, output, arguments

    def __call__(self, *more, url=None, private=True):
        sent = len(self.server.got)
        url = self.server.url if url is None else url
        ended = self.r2d(*self.arguments, "--base-url", url, "--llm", "m", "--output", self.output, *more)
        self.sent = self.server.got[sent:]
        assert KEY not in ended.out + ended.err
        if private:
            assert not [word for word in SECRET_WORDS if word in ended.out + ended.err]
        for path in self.output.rglob("*"):
            if path.name not in ("predictions.jsonl", "zero_shot_answers.jsonl"):
                text = path.read_text(encoding="utf-8")
                assert not [word for word in (KEY, *SECRET_WORDS) if word in text], path
        return ended

    def lines(self, name):
        return list(map(json.loads, (self.output / name).read_text(encoding="utf-8").splitlines()))

    def json(self, name):
        return json.loads((self.output / name).read_text(encoding="utf-8"))


@pytest.fixture
def judging(r2d, server, tmp_path, rows, predictions):
    arguments = ("judge", "--predictions", predictions, "--input", rows, *COLUMNS)
    return Command(r2d, server, tmp_path / "judged", *arguments)


@pytest.fixture
def guessing(r2d, server, tmp_path, rows):
    server.usual = answer({"rationale": "It is so.", "label": "urgent"})
    return Command(r2d, server, tmp_path / "guessed", "zero-shot", "--input", rows, *COLUMNS)


# What is asked, and what comes of it


def test_every_rationale_is_judged_once(judging):
    judging().done("6 rows; sent now: 6 requests, 660 tokens", "correctness +4.00 +0 +0 +0 +6 +0")
    for got, row, prediction in zip(judging.sent, ROWS, predictions_of(ROWS), strict=True):
        assert got.path == "/v1/chat/completions"
        assert got.case == {
            "input": f"{row['question']} {row['context']}",
            "reference_label": row["label"],
            "predicted_label": prediction["label"],
            "rationale": prediction["rationale"],
        }
        assert got.body["messages"][0] == {"role": "system", "content": judge.RUBRIC}
        assert {name: got.body[name] for name in got.body.keys() - {"messages"}} == {
            "model": "m",
            "max_tokens": 1024,
            "temperature": 0.0,
        }
        assert got.headers["Authorization"] == f"Bearer {KEY}"
    lines = judging.lines("judgements.jsonl")
    assert len({line.pop("request_hash") for line in lines}) == 6
    assert lines == [{"id": row["id"], **SCORES, "fault": None} for row in ROWS]
    result = judging.json("judge.json")
    assert (result["rows"], result["rows_judged"], result["rows_failed"]) == (6, 6, 0)
    assert (result["prompt_tokens"], result["answer_tokens"], result["tokens_estimated"]) == (600, 60, False)
    assert result["endpoint_host"] == judging.server.url[7:-3]
    assert result["rubric_hash"] == judge.rubric_hash()
    before = snapshot(judging.output)
    judging().done("sent now: 0 requests, 0 tokens")
    assert not judging.sent
    assert snapshot(judging.output) == before


def test_justifications_are_kept_on_request_only(judging, server):
    server.usual = answer({"justification": "It fits the case.", **SCORES})
    judging().done()
    assert not any(b"fits" in path.read_bytes() for path in judging.output.iterdir())
    judging("--keep-justifications", "--overwrite").done("sent now: 6 requests")
    assert judging.lines("judgements.jsonl")[0]["justification"] == "It fits the case."


def test_another_model_parameter_or_address_is_asked_anew(judging):
    judging("--max-rows", 1).done()
    for change in (
        ("--temperature", 1),
        ("--json-mode",),
        ("--reasoning-model",),
        ("--max-answer-tokens", 99),
    ):
        judging("--max-rows", 1, *change).refused("of other rows, texts or settings, or of another LLM")
        assert not judging.sent
        judging("--max-rows", 1, *change, "--overwrite").done()
        assert len(judging.sent) == 1
    body = judging.sent[0].body
    assert body["max_tokens"] == 99
    with running() as other:
        judging("--max-rows", 1, "--overwrite", url=other.url).done()
        assert len(other.got) == 1


def test_a_reasoning_model_gets_no_temperature(judging):
    judging("--reasoning-model", "--json-mode", "--max-rows", 1).done()
    body = judging.sent[0].body
    assert body.keys() == {"model", "messages", "max_completion_tokens", "response_format"}


def test_an_empty_rationale_is_the_worst_and_not_sent(judging, predictions):
    predictions.write_text(as_lines(predictions_of(ROWS, rationale="\u200b")), encoding="utf-8")
    judging().done("1 rationales are empty; each counts as 1")
    assert len(judging.sent) == 5
    result = judging.json("judge.json")
    assert (result["rows_judged"], result["rows_empty_rationale"]) == (5, 1)
    assert result["criteria"]["alignment"]["counts"] == [1, 0, 0, 0, 5]
    assert result["criteria"]["alignment"]["mean"] == pytest.approx(26 / 6)
    assert [line["request_hash"] is None for line in judging.lines("judgements.jsonl")] == [False] * 2 + [
        True,
        *[False] * 3,
    ]
    judging().done("sent now: 0 requests")


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```".replace("{}", json.dumps({"justification": "", **SCORES})),
        "<think>{or not}</think>\n" + json.dumps({"justification": "", **SCORES, "more": 1}),
    ],
)
def test_json_in_a_fence_or_behind_thoughts(judging, server, text):
    server.usual = answer(text)
    judging("--max-rows", 1).done("sent now: 1 requests")


def test_the_interval_is_that_of_drawn_rows(judging, server):
    given = [1, 5, 4, 4, 2, 5]
    server.script = [answer({"justification": "", **SCORES, "grounding": score}) for score in given]
    judging().done("grounding +3.50")
    draw = np.random.default_rng(1)
    means = [draw.choice(given, len(given)).mean() for _ in range(4000)]
    grounding = judging.json("judge.json")["criteria"]["grounding"]
    assert (grounding["mean"], grounding["counts"]) == (3.5, [1, 1, 0, 2, 2])
    found = [grounding["low"], grounding["high"]]
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.2)
    judging("--max-rows", 1, "--overwrite").done("grounding +1.00")
    assert judging.json("judge.json")["criteria"]["grounding"]["low"] is None


# A server that misbehaves


def test_a_bad_day_of_the_server_costs_no_row(judging, server):
    good = server.usual
    server.script = [
        status(429, Retry_After="1"),
        good,
        status(500),
        status(503),
        good,
        hang,
        good,
        reset,
        good,
        answer("I think {it is fine"),
        good,
        answer({"correctness": 6} | SCORES),
        good,
    ]
    judging("--timeout-secs", 0.4).done("6 rows; sent now: 13 requests")
    assert judging.sent[1].time - judging.sent[0].time >= 1.0
    assert judging.json("judge.json")["rows_judged"] == 6
    assert judging.json("judge.json")["prompt_tokens"] == 800
    notes = [got.body["messages"][0]["content"].removeprefix(judge.RUBRIC) for got in judging.sent]
    assert [bool(note) for note in notes] == [False] * 10 + [True, False, True]
    assert "not one JSON object" in notes[10]
    assert "a key was missing" in notes[12]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (answer("no"), "no JSON object"),
        (answer('{"correctness": }'), "no JSON object"),
        (answer({"justification": "", **SCORES, "grounding": 0}), "JSON of another form"),
        (answer({"justification": "", **SCORES, "grounding": "3"}), "JSON of another form"),
        (answer({"justification": "", **SCORES, "grounding": True}), "JSON of another form"),
        (answer({"justification": SECRET}), "JSON of another form"),
        (answer('{"justification": "cut', finish="length"), "cut at the answer limit"),
        (answer(None), "refused by the model"),
        (answer("", finish="content_filter"), "refused by the model"),
    ],
)
def test_unusable_answers_end_in_a_failed_row(judging, server, bad, fault):
    server.script = [bad] * 3
    judging().done(f"1 rows failed and are in no mean: 1 {fault}")
    assert len(judging.sent) == 3 + 5
    assert len({got.case["rationale"] for got in judging.sent[:3]}) == 1
    result = judging.json("judge.json")
    assert (result["rows"], result["rows_judged"], result["failures"]) == (6, 5, {fault: 1})
    assert result["criteria"]["grounding"]["counts"] == [0, 0, 5, 0, 0]
    line = judging.lines("judgements.jsonl")[0]
    del line["request_hash"]
    assert line == {"id": "case-0", **dict.fromkeys(SCORES), "fault": fault}
    judging().done("sent now: 0 requests")


def test_a_row_keeps_its_last_answer_in_the_right_form():
    """Asked again after a label off the list, the model wrote no JSON; what the row then tells is the first answer."""
    row = RowAnswer(None, None).plus(LlmAnswer({"label": "x"}, OFF_LIST, 9, 3), OFF_LIST)
    row = row.plus(LlmAnswer(None, NO_JSON, 10, 4), NO_JSON)
    assert (row.value, row.fault, row.prompt_tokens, row.answer_tokens) == ({"label": "x"}, NO_JSON, 19, 7)


def test_one_row_that_the_server_refuses(judging, server):
    server.script = [status(400, code_name="context_length_exceeded"), server.usual, status(400)]
    judging().done("1 HTTP 400, 1 HTTP 400, context_length_exceeded")
    assert judging.json("judge.json")["rows_judged"] == 4
    # They were not paid for, so they are asked again.
    judging().done("sent now: 2 requests")
    assert judging.json("judge.json")["rows_judged"] == 6


def test_neighbours_that_the_server_refuses_for_what_they_hold(judging, server):
    """Nothing of them is kept, so a command that stopped at three of them stopped there for ever."""
    long, filtered = (status(400, code_name=name) for name in ("context_length_exceeded", "content_filter"))
    server.script = [long, filtered, long, long]
    judging().done("3 HTTP 400, context_length_exceeded", "1 HTTP 400, content_filter")
    assert judging.json("judge.json")["rows_judged"] == 2
    # They tell nothing about the endpoint: neither that it fails nor that it works.
    server.script = [status(500), long, status(500), long]
    server.usual = status(500)
    judging("--max-attempts", 1, "--temperature", 1, "--overwrite").refused("no answer for 3 rows in a row")
    assert len(judging.sent) == 5


@pytest.mark.parametrize(
    ("bad", "wanted", "requests"),
    [
        (status(401), r"refuses requests \(HTTP 401\). Check the key in OPENAI_API_KEY", 1),
        (status(403), "HTTP 403.*Check the key", 1),
        (status(404, code_name="model_not_found"), r"HTTP 404, model_not_found\). Check --llm", 1),
        (status(429, Retry_After="3600"), "HTTP 429.*Try again in 3600 s", 1),
        (status(429, code_name="insufficient_quota"), "HTTP 429, insufficient_quota", 2),
        (status(302, Location="http://127.0.0.1:9/v1"), "is a redirect, which is not followed", 1),
        (status(500), r"no answer for 3 rows in a row \(HTTP 500\)", 6),
        (status(400, code_name=SECRET_WORDS[0]), r"no answer for 3 rows in a row \(HTTP 400\)", 3),
        (status(400, code_name=[]), r"no answer for 3 rows in a row \(HTTP 400\)", 3),
        (reset, r"no answer for 3 rows in a row \(connection lost\)", 6),
        (hang, r"no answer for 3 rows in a row \(no answer in 0.2 s\)", 6),
        (page, "reply is not a chat completion", 3),
    ],
)
def test_a_server_that_stays_bad_stops_the_command_and_nothing_is_lost(
    judging, server, bad, wanted, requests
):
    good, server.script = server.usual, [server.usual] * 2
    server.usual = bad
    ended = judging("--max-attempts", 2, "--timeout-secs", 0.2)
    ended.refused(server.url[7:-3], wanted, "Answers so far are kept; the same command goes on")
    assert len(judging.sent) == 2 + requests
    assert not (judging.output / "judge.json").exists()
    server.usual = good
    judging().done("sent now: 4 requests")
    assert judging.json("judge.json")["rows_judged"] == 6


def test_a_redirect_is_not_followed(judging, server):
    with running() as other:
        server.usual = status(307, Location=other.url + "/chat/completions")
        judging().refused("redirect")
        assert not other.got


def test_a_server_that_is_gone(judging, server):
    judging("--max-rows", 2).done()
    with running() as other:
        url = other.url
    judging("--max-attempts", 2, "--overwrite", url=url).refused(
        "no connection in 2 attempts", "Check --base-url"
    )


def test_without_counts_tokens_are_estimated_and_the_result_says_so(judging, server):
    server.usual = answer({"justification": "", **SCORES}, usage=None)
    judging().done()
    result = judging.json("judge.json")
    assert result["tokens_estimated"] is True
    prompt = judging.sent[0].body["messages"]
    expected = sum(-(-len(message["content"].encode()) // 4) + 4 for message in prompt)
    assert abs(result["prompt_tokens"] / 6 - expected) < 3


# Stops


@pytest.fixture
def started(judging):
    """The command in a process of its own."""

    def start(**environment):
        arguments = (
            *judging.arguments,
            "--base-url",
            judging.server.url,
            "--llm",
            "m",
            "--output",
            judging.output,
        )
        return subprocess.Popen(
            [sys.executable, "-m", "r2d_jax", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )

    return start


def test_a_killed_command_pays_for_no_answer_twice(judging, server, started):
    server.script = [server.usual] * 3 + [hang]
    process = started()
    wait_for(lambda: len(server.got) == 4)
    # While it lives, a second one would pay for the same rows.
    judging().refused("another command is writing to it", "choose another --output")
    assert not judging.sent
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with (judging.output / "judge_answers.jsonl").open("ab") as file:
        file.write(b'{"key": "0123", "answ')
    judging().done("sent now: 3 requests")
    assert [got.case["rationale"][-2] for got in judging.sent] == ["3", "4", "5"]
    assert len(judging.lines("judge_answers.jsonl")) == 6
    assert judging.json("judge.json")["prompt_tokens"] == 600


def test_a_damaged_line_is_told_and_asked_again(judging):
    judging().done()
    cache = judging.output / "judge_answers.jsonl"
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join([lines[0], lines[1][20:], *lines[2:]]))
    ended = judging()
    assert (ended.code, len(judging.sent)) == (0, 1)
    assert "1 unreadable lines; their rows are asked again" in ended.err


def test_ctrl_c_keeps_what_is_paid(judging, monkeypatch):
    send, asked = LlmClient.send, []

    def interrupted(self, messages):
        asked.append(messages)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return send(self, messages)

    monkeypatch.setattr(LlmClient, "send", interrupted)
    ended = judging()
    assert ended.code == 75
    assert ended.err == "stopped: 2 of 6 rows are answered and kept; the same command goes on\n"
    judging().done("sent now: 4 requests")


def test_the_cache_is_locked_and_readable_beside(tmp_path):
    cache = AnswerCache(tmp_path / "a.jsonl")
    cache.put("k", LlmAnswer({"label": "\u2028"}, None, 1, 2))
    with pytest.raises(UserError, match="another command"):
        AnswerCache(tmp_path / "a.jsonl")
    assert AnswerCache(tmp_path / "a.jsonl", read_only=True).get("k") == LlmAnswer(
        {"label": "\u2028"}, None, 1, 2
    )
    cache.close()
    AnswerCache(tmp_path / "a.jsonl").close()


# Limits of cost


def test_a_limit_of_requests_counts_retries(judging, server):
    server.script = [server.usual, status(500)]
    judging("--max-requests", 2).refused("--max-requests: all 2 are sent", "the same command goes on")
    assert len(judging.sent) == 2
    judging("--max-requests", 5).done("sent now: 5 requests")


def test_a_limit_of_tokens_is_not_passed(judging):
    # The prompt alone would fit; with the longest answer it may not.
    judging("--max-tokens-total", 1000, "--max-answer-tokens", 1000).refused(
        "--max-tokens-total: 0 tokens are"
    )
    assert not judging.sent
    judging("--max-tokens-total", 1000, "--max-answer-tokens", 50).refused("--max-tokens-total: .* are used")
    first = len(judging.sent)
    assert 1 <= first <= 6
    assert first * 110 <= 1000
    judging("--max-tokens-total", 9000, "--max-answer-tokens", 50).done(f"sent now: {6 - first} requests")


def test_a_limit_of_rows(judging, guessing):
    judging("--max-rows", 2).done()
    assert judging.json("judge.json")["rows"] == 2
    guessing("--max-rows", 2).done("Results on 2 rows")
    assert guessing.sent[0].case["labels"] == sorted(LABELS)


@pytest.mark.parametrize("command", ["judging", "guessing"])
def test_a_dry_run_sends_and_writes_nothing(command, request, monkeypatch):
    command = request.getfixturevalue(command)
    monkeypatch.delenv("OPENAI_API_KEY")
    command("--dry-run").done(
        f"nothing is sent; model m at {command.server.url}",
        "6 rows, 0 of them",
        "6 requests; at most 18",
        r"about \d+ prompt tokens \(an estimate",
        "at most 6144 answer tokens",
    )
    assert not command.output.exists()
    shown = command("--dry-run", "--show-prompt", private=False)
    assert shown.out.count(SECRET) == (3 if command.arguments[0] == "judge" else 2)
    command("--show-prompt").refused("--show-prompt: goes with --dry-run only")
    assert not command.server.got
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    command("--max-rows", 4).done()
    command("--dry-run").done("6 rows, 4 of them", "2 requests")
    assert len(command.server.got) == 4


# Refused before anything is sent


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("", "--base-url: is not given, and without it nothing is sent anywhere"),
        ("localhost:8000/v1", "is not an http or https address"),
        ("ftp://localhost/v1", "is not an http or https address"),
        ("http://local host/v1", "is not an http or https address"),
        ("http://localhost:port/v1", "is not an http or https address"),
        (f"https://user:{KEY}@localhost/v1", "holds a user, password"),
        (f"https://localhost/v1?key={KEY}", "holds a user, password, query"),
        ("http://192.168.1.5:8000/v1", "http to 192.168.1.5:8000 would send case text unencrypted"),
        ("http://notlocalhost/v1", "http to notlocalhost would send case text unencrypted"),
        ("http://example.org/v1", "http to example.org would send case text unencrypted.*--allow-http"),
    ],
)
def test_addresses(judging, guessing, url, wanted):
    for command in (judging, guessing):
        command(url=url).refused(wanted)
        assert not command.output.exists()


def test_an_address_of_the_environment_is_not_used(r2d, judging, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", judging.server.url)
    r2d(*judging.arguments, "--llm", "m", "--output", judging.output).refused("--base-url: is not given")
    r2d(*judging.arguments, "--base-url", judging.server.url, "--output", judging.output).refused("--llm")
    assert not judging.server.got


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f"{KEY} x", f"{KEY}é"])
def test_keys(judging, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    judging().refused("environment variable OPENAI_API_KEY: (is not set|holds a blank)", "Set it")
    monkeypatch.setenv("OTHER", KEY)
    assert not judging.output.exists()
    judging("--api-key-env", "OTHER").done()
    assert judging.sent[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_missing_extra_is_one_line(judging, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    judging().refused("openai: the package is not installed", r"pip install .*'\.\[llm\]'")
    assert not judging.output.exists()


@pytest.mark.parametrize(
    ("third", "wanted"),
    [
        ({"id": "case-1"}, "line 3: has another id"),
        ({"id": ...}, "line 3: has no text in 'id'"),
        ({"rationale": ...}, "line 3: has no text in 'rationale'"),
        ({"rationale": None}, "line 3: has no text in 'rationale'"),
        ({"gold_label": "not urgent"}, "line 3: has another gold label"),
        ({"label": "\ud83d"}, "line 3: holds half of a character pair"),
        ({"rationale": f"{SECRET} \ud83d"}, "line 3: holds half of a character pair"),
    ],
)
def test_predictions_of_other_rows(judging, predictions, third, wanted):
    predictions.write_text(as_lines(predictions_of(ROWS, **third)), encoding="utf-8")
    judging().refused(wanted)
    assert not judging.sent
    predictions.write_text(as_lines(predictions_of(ROWS)[::-1]), encoding="utf-8")
    judging().refused("line 1: has another id")
    predictions.write_text(as_lines(predictions_of(ROWS)[:4]), encoding="utf-8")
    judging().refused("has 4 rows for 6 labelled rows")


def test_predictions_without_gold_labels(judging, predictions):
    """`r2d predict` writes none."""
    lines = [{name: row[name] for name in ("id", "label", "rationale")} for row in predictions_of(ROWS)]
    predictions.write_text(as_lines(lines), encoding="utf-8")
    judging().done()


def test_inputs_and_outputs(r2d, server, tmp_path, judging, guessing, rows, predictions):
    where = ("--base-url", server.url, "--llm", "m", "--output")
    out = tmp_path / "out"
    r2d("zero-shot", *where, out).refused("neither --input nor --model is given")
    r2d("zero-shot", *where, out, "--id-column", "id", "--model", tmp_path).refused("--input: is needed")
    r2d("zero-shot", *where, out, "--input", tmp_path / "no.jsonl").refused("no such file")
    r2d("zero-shot", *where, rows, "--input", rows).refused("is a file, not a folder")
    r2d("zero-shot", *where, out, "--input", rows, "--label-column", "answer").refused("no column 'answer'")
    before = predictions.read_bytes()
    r2d("zero-shot", *where, tmp_path, "--input", rows, *COLUMNS).refused("not of this command")
    r2d("zero-shot", *where, tmp_path, "--input", predictions, *COLUMNS).refused("is an input")
    assert predictions.read_bytes() == before
    r2d("judge", "--predictions", tmp_path / "no.jsonl", "--input", rows, *where, out).refused("no such file")
    assert not server.got
    assert not out.exists()


def test_results_of_other_rows_are_not_replaced(r2d, judging, guessing, rows, predictions):
    """The same rows may be asked about again, and more of them."""
    for command, results in ((judging, "judgements.jsonl"), (guessing, "predictions.jsonl")):
        command("--max-rows", 2).done()
        command().done()
        before = (command.output / results).read_bytes()
        original = rows.read_bytes(), predictions.read_bytes()
        others = [row | {"id": f"other-{row['id']}"} for row in ROWS]
        rows.write_text(as_lines(others))
        predictions.write_text(as_lines(predictions_of(others)))
        command().refused(f"{results}: holds the results of other rows", "Choose another --output, or add")
        # Other texts under the same ids.
        others = [row | {"question": f"{row['question']} again"} for row in ROWS]
        rows.write_text(as_lines(others))
        predictions.write_bytes(original[1])
        command().refused(f"{results}: holds the results of other rows, texts")
        assert not command.sent
        assert (command.output / results).read_bytes() == before
        rows.write_bytes(original[0])
        command().done("sent now: 0 requests")
    (judging.output / "judge_answers.jsonl").unlink()
    judging().refused("judgements.jsonl: is there and not of this command")
    judging("--overwrite").done()


def test_results_of_more_rows_are_not_replaced(judging, guessing):
    for command, results in ((judging, "judgements.jsonl"), (guessing, "predictions.jsonl")):
        command().done()
        before = snapshot(command.output)
        command("--max-rows", 5).refused(f"{results}: holds the results of more rows", "add --overwrite")
        assert snapshot(command.output) == before
        command("--max-rows", 5, "--overwrite").done()
        assert len(command.lines(results)) == 5


def test_results_of_an_older_version_are_told_as_such(judging, guessing, rows):
    """They hold no hash of what was asked; they used to be taken for those of other rows."""
    for command, results in ((judging, "judgements.jsonl"), (guessing, "predictions.jsonl")):
        command().done()
        before = [{k: v for k, v in row.items() if k != "request_hash"} for row in command.lines(results)]
        (command.output / results).write_text(as_lines(before), encoding="utf-8")
        command().refused(f"{results}: does not say what was asked, as results of older", "Add --overwrite")
        assert command.lines(results) == before
        command("--overwrite").done("sent now: 0 requests")
        command().done("sent now: 0 requests")
        (command.output / results).write_text(as_lines([before[1]]), encoding="utf-8")
        command().refused(f"{results}: holds the results of other rows")


def test_an_empty_file_of_results_is_nothing_to_keep(judging, guessing):
    for command, results in ((judging, "judgements.jsonl"), (guessing, "predictions.jsonl")):
        command.output.mkdir()
        (command.output / results).touch()
        command().done()
        (command.output / results).write_text("")
        command().done("sent now: 0 requests")
        assert len(command.lines(results)) == 6


def test_a_dry_run_asks_for_no_overwrite(judging, guessing):
    for command in (judging, guessing):
        command().done()
        before = snapshot(command.output)
        command("--max-rows", 5, "--temperature", 1, "--dry-run").done("5 rows, 0 of them", "5 requests")
        assert snapshot(command.output) == before


def test_judgements_of_another_model_are_not_replaced(judging, predictions, tmp_path):
    """Its predictions are of the same rows."""
    judging().done()
    before = snapshot(judging.output)
    other = tmp_path / "other.jsonl"
    other.write_text(as_lines(predictions_of(ROWS, rationale="Another model says so.")), encoding="utf-8")
    judging("--predictions", other).refused("judgements.jsonl: holds the results of other rows, texts")
    assert not judging.sent
    assert snapshot(judging.output) == before
    judging("--predictions", other, "--overwrite").done("sent now: 1 requests")
    judging().refused("judgements.jsonl: holds the results of other rows, texts")


# Privacy


def test_a_proxy_of_the_environment_is_used_on_request_only(judging, monkeypatch):
    with running() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url[:-3])
        judging("--max-rows", 1).done()
        assert (len(judging.sent), len(proxy.got)) == (1, 0)
        judging("--max-rows", 2, "--environment-proxy").done()
        assert not judging.sent
        assert proxy.got[0].path == f"{judging.server.url}/chat/completions"


def test_what_the_environment_tells_the_library_stays_here(judging, started):
    """Its log would print whole requests, and its headers belong to another endpoint."""
    process = started(
        OPENAI_LOG="debug",
        OPENAI_ORG_ID="org-Okapi",
        OPENAI_PROJECT_ID="proj-Okapi",
        OPENAI_CUSTOM_HEADERS="X-Extra: Okapi\nAuthorization: Bearer Okapi",
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert not [word for word in (KEY, *SECRET_WORDS, "DEBUG") if word in out]
    allowed = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length"}
    for got in judging.server.got:
        assert {name.lower() for name in got.headers} <= allowed | {
            "user-agent",
            "authorization",
            "x-stainless-raw-response",
        }
        assert "Okapi" not in str(got.headers)
        assert got.headers["Authorization"] == f"Bearer {KEY}"


def test_the_command_line_starts_without_the_library():
    code = "import sys, r2d_jax.cli; sys.exit('openai' in sys.modules or 'jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_docs_hold_what_is_sent():
    text = (ROOT / "docs" / "llm.md").read_text(encoding="utf-8")
    assert judge.RUBRIC in text
    assert zero_shot.zero_shot_question(LABELS, rationale=True).instructions in text
    assert judge.rubric_hash() in text


# Zero-shot


def test_a_zero_shot_run_is_scored_as_a_model_is(guessing, server):
    server.script = [
        answer({"rationale": f"The {SECRET} says so.", "label": label})
        for label in (" urgent ", "not  urgent", "not urgent")
    ]
    guessing().done("Results on 6 rows", "macro-F1", "BLEU of the corpus", r"m at 127.0.0.1:\d+, zero-shot")
    lines, gold = guessing.lines("predictions.jsonl"), [row["label"] for row in ROWS]
    model_line = prediction_row("", Prediction("", True, 0.5), LABELS) | {
        "gold_label": "",
        "request_hash": "",
    }
    assert [list(line) for line in lines] == [list(model_line)] * 6
    assert [line["label"] for line in lines] == ["urgent", "not  urgent", "not urgent"] + ["urgent"] * 3
    assert all(line["label_valid"] and line["label_confidence"] is None for line in lines)
    metrics = guessing.json("metrics.json")
    expected = label_metrics(gold, [line["label"] for line in lines], sorted(LABELS))
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["zero_shot"]["prompt_tokens"] == 600
    read = read_result(guessing.output)
    assert read.rows["accuracy"].mean() == metrics["accuracy"]
    for got in guessing.sent:
        assert got.case.keys() == {"input", "labels"}
        assert "Since" not in str(got.body)


def test_labels_off_the_list_are_asked_again_and_then_invalid(guessing, server):
    good, off = server.usual, answer({"rationale": "So.", "label": f"Urgent {SECRET}"})
    server.script = [off, good, off, off, off, good, *[answer("?")] * 3]
    ended = guessing()
    ended.done(
        "rows without a usable answer, each counted as wrong: 1 label not on the list, 1 no JSON object"
    )
    assert len(guessing.sent) == 2 + 3 + 1 + 3 + 2
    lines = guessing.lines("predictions.jsonl")
    assert [line["label"] for line in lines[:4]] == ["urgent", f"Urgent {SECRET}", "urgent", ""]
    assert [line["label_valid"] for line in lines] == [True, False, True, False, True, True]
    assert (lines[1]["error"], lines[3]["error"]) == ("label not on the list", "no JSON object")
    metrics = guessing.json("metrics.json")
    assert (metrics["invalid_fraction"], metrics["empty_fraction"]) == (2 / 6, 1 / 6)
    assert (metrics["zero_shot"]["rows_failed"], metrics["zero_shot"]["rows_off_list"]) == (1, 1)
    assert metrics["rows"] == 6
    guessing().done("sent now: 0 requests")


def test_labels_alone(guessing, server, rows):
    rows.write_text(as_lines([row | {"rationale": ""} for row in ROWS]), encoding="utf-8")
    guessing().refused("line 1, field 'rationale': is empty")
    server.usual = answer({"label": "urgent"})
    guessing("--no-rationale", "--task", "How soon the patient must be seen.").done("macro-F1")
    assert "rationale" not in guessing.sent[0].body["messages"][0]["content"]
    assert "one label. How soon the patient" in guessing.sent[0].body["messages"][0]["content"]
    assert not {"bleu", "label_agreement", "evidence_fraction"} & guessing.json("metrics.json").keys()


def test_nothing_of_an_earlier_evaluation_stays_beside_zero_shot_predictions(guessing, monkeypatch):
    """Not even until the new ones are scored, which may fail."""
    guessing().done()
    for name in ("faithfulness.jsonl", "rationale_checks.jsonl"):
        (guessing.output / name).write_text("{}\n", encoding="utf-8")
    found, score = [], zero_shot.score

    def seen(*arguments):
        found.extend(sorted(path.name for path in guessing.output.iterdir()))
        return score(*arguments)

    monkeypatch.setattr(zero_shot, "score", seen)
    guessing("--temperature", 1, "--overwrite").done()
    assert found == ["predictions.jsonl", "zero_shot_answers.jsonl"]
    assert {path.name for path in guessing.output.iterdir()} == {*found, "row_scores.jsonl", "metrics.json"}


def test_zero_shot_predictions_can_be_judged(guessing, judging, server):
    guessing().done()
    server.usual = answer({"justification": "", **SCORES})
    judging("--predictions", guessing.output / "predictions.jsonl").done("correctness +4.00")


# Rows of a run


@pytest.fixture
def a_run(tmp_path):
    """A run's folder as far as rows and labels go; no weights are needed."""
    (tmp_path / "all.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    YAML().dump(settings(tmp_path / "all.jsonl"), folder / "config.yaml")
    columns = ColumnsConfig(id="id", split="split", context="context")
    card = ModelCard(T5Config(), (*LABELS, "later"), 4, 64, 8, "float32", "0", columns)
    (folder / "r2d_model.json").write_text(card.to_json(), encoding="utf-8")
    return folder


def test_the_split_columns_and_labels_of_a_run(r2d, server, a_run, tmp_path, rows):
    server.usual = answer({"rationale": "So.", "label": "later"})
    where = ("--base-url", server.url, "--llm", "m", "--model", a_run)
    r2d("zero-shot", *where, "--output", tmp_path / "z").done("Results on 6 rows")
    assert server.got[0].case["labels"] == [*LABELS, "later"]
    found = [json.loads(line)["id"] for line in (tmp_path / "z/predictions.jsonl").read_text().splitlines()]
    assert found == [f"case-{number}" for number in range(24, 30)]
    server.usual = answer({"justification": "", **SCORES})
    predicted = ("--predictions", tmp_path / "z/predictions.jsonl", "--output", tmp_path / "j")
    r2d("judge", *where, *predicted).done("correctness")
    r2d("judge", *where, *predicted, "--split", "validation").refused("line 1: has another id")
    r2d("judge", *where, *predicted, "--split", "train").refused("is not a split to evaluate")
    # A file with the columns of the run.
    r2d("zero-shot", *where, "--output", tmp_path / "f", "--input", rows, "--dry-run").done(
        "6 rows, 0 of them"
    )
    (a_run / "config.yaml").unlink()
    r2d("judge", *where, *predicted).refused("is not a run folder", "Give --input FILE")


def test_rows_of_a_run_are_scored_by_its_settings(r2d, server, a_run, tmp_path, monkeypatch):
    """Of these, triage alone used to count."""
    server.usual = answer({"rationale": "So.", "label": "urgent"})
    config = YAML().load(a_run / "config.yaml")
    config["data"]["columns"]["subgroups"] = {"split": "split"}
    asked = (
        "zero-shot",
        "--base-url",
        server.url,
        "--llm",
        "m",
        "--model",
        a_run,
        "--output",
        tmp_path / "z",
    )
    for changed, intervals, least in (({}, True, 30), ({"resamples": 0, "subgroup_least_rows": 6}, False, 6)):
        config["evaluation"] |= changed
        YAML().dump(config, a_run / "config.yaml")
        r2d(*asked).done("Results on 6 rows")
        metrics = json.loads((tmp_path / "z" / "metrics.json").read_text(encoding="utf-8"))
        assert (bool(metrics["intervals"]), metrics["subgroups"]["least_rows"]) == (intervals, least)
    sent = len(server.got)
    config["evaluation"]["bertscore"] = {"model": "any"}
    YAML().dump(config, a_run / "config.yaml")
    # As of `r2d eval`, and before anything is paid for.
    monkeypatch.setitem(sys.modules, "bert_score", None)
    r2d(*asked, "--temperature", 1, "--overwrite").refused("bertscore: cannot import bert-score")
    assert len(server.got) == sent


def drip(handler):
    """A blank now and then: never silent for long, never at its end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n")
    while not handler.server.over.wait(0.1):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(handler):
    while not handler.server.over.wait(0.1):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        handler.wfile.flush()


def test_a_limit_of_time_is_for_each_request(judging, server):
    server.usual = slow(0.15, server.usual)
    judging("--timeout-secs", 1, "--max-rows", 2).done("sent now: 2 requests")


@pytest.mark.parametrize("behave", [drip, drip_headers])
def test_a_limit_of_time_is_for_the_whole_answer(judging, server, behave):
    server.usual = behave
    begun = time.monotonic()
    limits = ("--timeout-secs", 0.5, "--max-rows", 1, "--max-attempts", 2)
    judging(*limits).refused(r"no answer for 1 rows in a row \(no answer in 0.5 s\)")
    assert len(judging.sent) == 2
    assert time.monotonic() - begun < 15
    server.script, server.usual = [behave], answer({"justification": "It fits.", **SCORES})
    judging(*limits).done("sent now: 2 requests")


@pytest.mark.parametrize("option", ["--temperature", "--timeout-secs"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300", "-1"])
def test_numbers_without_a_meaning(judging, option, value):
    judging(option, value).refused(option)
    assert not judging.sent


def test_bytes_that_are_no_text_are_not_sent(judging, guessing):
    judging("--llm", "m\udcff").refused("--llm: holds bytes that are not text")
    guessing("--task", "\udcff").refused("--task: holds bytes that are not text")
    assert not judging.sent + guessing.sent
