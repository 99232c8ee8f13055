"""`r2d serve` around a model that is faked: answers, limits, who is served, uploads, and what is never told."""

import asyncio
import configparser
import csv
import io
import json
import pathlib
import re
import socket
import stat
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="r2d_jax[serve] is not installed")

from cli_cases import SECRET
from serve_cases import LABELS, FakeModel, Running, mark_of, notes, running

from benchmarks.serve_load import Load, run_clients, summary
from r2d_jax import cli
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import Calibration
from r2d_jax.serve import server as serving
from r2d_jax.serve.guard import HEADERS, host_name
from r2d_jax.serve.limits import Limits
from r2d_jax.serve.schema import INTENDED_USE, Answer, Note, UploadStatus, WhatIf
from r2d_jax.serve.shapes import batch_sizes, question_widths
from r2d_jax.serve.uploads import Upload, results_text

ROOT = pathlib.Path(__file__).parents[1]
NO_OBJECT = "the body is no JSON object; send it with the header content-type: application/json"
HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror=alert(1)>",
    "right to left": "not \u202eurgent\u2066 \u05d0\u05d1 \u200fx",
    "null": "fever\u0000 pain",
    "long line": "x" * 19_000,
    "emoji": "\U0001f9d1\u200d\u2695\ufe0f fever \u0301",
    "lines": "a\r\nb\u2028c\u2029d",
    "json": '"}, {"label": "urgent',
}


@pytest.fixture(scope="module")
def server():
    with running(FakeModel()) as one:
        yield one


def test_a_note_gets_its_answer(server):
    answer = server.predict("fever since two days", context="no rash")
    told = answer.json()
    text = "fever since two days no rash"
    assert answer.status == 200
    first = int(mark_of(text), 16) % 2 == 0
    assert told["label"] == LABELS[0 if first else 1]
    assert [(one["label"], one["probability"]) for one in told["probabilities"]] == [
        (told["label"], 0.75),
        (LABELS[1 if first else 0], 0.25),
    ]
    assert (told["probability"], told["label_valid"], told["calibrated"]) == (0.75, True, False)
    assert (told["abstained"], told["threshold"], told["input_cut"]) == (None, None, False)
    assert told["lost_characters"] == 0
    assert told["explanation"]["rationale"] == f"Read {mark_of(text)}"
    assert told["intended_use"] == INTENDED_USE
    assert server.predict("fever", explain=False).json()["explanation"] is None


def test_characters_that_the_model_cannot_read_are_counted(server):
    """The note looked as if it was read whole, whatever sign stood there."""
    note = {"question": "SpO2 \ufffc 90 %, \ufffc"}
    assert server.predict(**note).json()["lost_characters"] == 2
    told = server.ask("POST", "/api/what-if", note | {"label": LABELS[0]}).json()
    assert told["lost_characters"] == 2
    begun = server.upload("id,question\n1,a \ufffc\n2,b\n3,\u200b\n")
    rows = rows_of(server, server.finished(begun.json()["id"])["id"])
    assert [row["lost_characters"] for row in rows] == [1, 0, 0]


def test_what_if_is_the_rationale_of_the_other_label(server):
    for label in LABELS:
        told = server.ask("POST", "/api/what-if", {"question": "fever", "label": label}).json()
        assert told["label"] == label
        assert told["explanation"]["rationale"] == f"Read {mark_of('fever')} {label}"
        assert told["explanation"]["rationale_finished"] is None
    refused = server.ask("POST", "/api/what-if", {"question": "fever", "label": SECRET})
    assert (refused.status, SECRET in refused.text) == (422, False)
    for blank in ("", " \n", "\u200b"):
        refused = server.ask("POST", "/api/what-if", {"question": "fever", "label": blank})
        assert refused.json() == {"detail": "label: is blank or too long."}


@pytest.mark.parametrize(
    ("threshold", "risk", "abstained"),
    [(0.75, 0.1, False), (0.76, 0.1, True), (None, 0.1, True), (None, None, None)],
)
def test_abstention_follows_the_threshold(threshold, risk, abstained):
    """A target without a threshold: none was found, so nothing is answered. No target: nothing is said."""
    calibration = Calibration(
        temperature=1.0, threshold=threshold, target_risk=risk, rows=10, labels_sha256="0" * 64
    )
    with running(FakeModel(calibration=calibration)) as one:
        told = one.predict("fever").json()
        assert (told["abstained"], told["threshold"], told["calibrated"]) == (abstained, threshold, True)
        assert one.ask("GET", "/api/model").json()["threshold"] == threshold


def test_without_label_set_or_rationales():
    with running(FakeModel(labels=(), explains=False)) as one:
        told = one.predict("fever").json()
        assert (told["label"], told["label_valid"], told["probabilities"]) == ("free text", None, None)
        assert (told["probability"], told["abstained"], told["explanation"]) == (None, None, None)
        assert one.ask("GET", "/api/model").json()["explains"] is False
        one.service.model.follows_labels = False
        assert one.ask("POST", "/api/what-if", {"question": "a", "label": "b"}).status == 409


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_text(server, text):
    answer = server.predict(text)
    assert answer.status == 200
    assert answer.json()["explanation"]["rationale"] == f"Read {mark_of(text)}"
    assert answer.headers["content-type"] == "application/json"


def test_half_a_character_pair_is_refused(server):
    answer = server.ask(
        "POST", "/api/predict", b'{"question": "fever \\ud83d"}', {"content-type": "application/json"}
    )
    assert answer.status == 422
    assert "question" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "body", "told"),
    [
        ("predict", b'{"question": "SECRET"', "the body is not valid JSON."),
        ("predict", b'["SECRET"]', f"{NO_OBJECT}."),
        ("predict", b"", "the body: is missing."),
        ("predict", b"{}", "question: is missing."),
        (
            "predict",
            b'{"question": ["SECRET"], "context": 1}',
            "question: is not text; context: is not text.",
        ),
        ("predict", b'{"question": "a", "explain": "SECRET"}', "explain: is neither true nor false."),
        ("predict", b'{"question": "a", "explain": ["SECRET"]}', "explain: is neither true nor false."),
        (
            "predict",
            b'{"question": "a", "SECRET": "b", "SECRET 2": "c"}',
            "a field: is not known; there are question, context, explain.",
        ),
        (
            "what-if",
            b'{"question": "a", "SECRET": "b"}',
            "label: is missing; a field: is not known; there are question, context, label.",
        ),
        ("uploads?format=SECRET", b"a", "format: is none of the values that are known."),
    ],
)
def test_a_fault_of_a_request_is_told_in_words(server, method, body, told):
    """The types of faults that a library gives its own programmers were the whole message."""
    answer = server.ask("POST", f"/api/{method}", body, {"content-type": "application/json"})
    assert (answer.status, answer.json()) == (422, {"detail": told})


# Limits


def test_every_answer_has_the_headers(server):
    asked = [
        ("GET", "/", None),
        ("GET", "/static/app.js", None),
        ("GET", "/nowhere", None),
        ("GET", "/health", None),
        ("GET", "/metrics", None),
        ("PUT", "/api/predict", b"x"),
        ("POST", "/api/predict", {"question": " "}),
        ("POST", "/api/predict", b"x" * 500_000),
    ]
    statuses = []
    for method, path, body in asked:
        answer = server.ask(method, path, body)
        statuses.append(answer.status)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    assert statuses == [200, 200, 404, 200, 200, 405, 422, 413]
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "frame-ancestors 'none'",
    ):
        assert directive in HEADERS["content-security-policy"]
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_notes_bodies_and_rows_over_a_limit(server):
    most = server.limits.note_characters
    assert server.predict("x" * most).status == 200
    assert server.predict("x" * (most + 1)).status == 413
    assert server.predict("x" * most, context="y").status == 413
    assert server.predict("\n ").json() == {"detail": "question: is blank."}
    assert server.predict("\u200b\ufeff").json() == {"detail": "question: is blank."}
    # Written as JSON escapes of six bytes, and filled up with blanks to the last byte that is taken.
    body = json.dumps({"question": "\u2265" * most}).encode()
    assert 6 * most < len(body) < server.limits.note_bytes
    for size, status in ((server.limits.note_bytes, 200), (server.limits.note_bytes + 1, 413)):
        headers = {"content-type": "application/json"}
        assert server.ask("POST", "/api/predict", body.ljust(size), headers).status == status
    chunked = server.ask(
        "POST",
        "/api/predict",
        iter([b"x" * 100_000] * 5),
        {"content-type": "application/json"},
    )
    assert chunked.status == 413
    lines = "id,question\n" + "".join(f"{number},fever\n" for number in range(server.limits.upload_rows + 1))
    assert server.upload(lines).status == 413
    assert server.upload("x" * (server.limits.upload_bytes + 1)).status == 413


def test_a_full_queue_refuses_and_loses_nothing():
    model = FakeModel()
    with running(model, Limits(queue_rows=3), wait_secs=0.0) as one:
        model.gate.clear()
        held = threading.Thread(target=lambda: one.predict("held"))
        held.start()
        one.wait(lambda: model.taken == 1)
        texts = notes(10)
        threading.Timer(1.0, model.gate.set).start()
        answers = one.together(*[lambda text=text: one.predict(text) for text in texts])
        held.join()
        assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 7
        for text, answer in zip(texts, answers, strict=True):
            if answer.status == 200:
                assert answer.json()["explanation"]["rationale"] == f"Read {mark_of(text)}"
            else:
                assert int(answer.headers["retry-after"]) > 0
        assert 'r2d_refused_total{reason="queue_full"} 7.0' in one.ask("GET", "/metrics").text


def test_slow_bodies_and_slow_answers_end():
    model = FakeModel()
    with running(model, Limits(body_secs=0.3, answer_secs=0.3)) as one:
        with socket.create_connection(("127.0.0.1", one.port)) as line:
            line.sendall(
                b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert line.recv(1000).startswith(b"HTTP/1.1 408")
        model.gate.clear()
        assert one.predict("fever").status == 503
        model.gate.set()
        one.wait(lambda: one.predict("fever").status == 200)


def test_files_that_arrive_at_once_are_bounded():
    with running(FakeModel(), Limits(uploads=1)) as one:
        with socket.create_connection(("127.0.0.1", one.port)) as line:
            line.sendall(
                b"POST /api/uploads?format=csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\nid,question"
            )
            one.wait(lambda: one.upload("id,question\n").status == 429)
        one.wait(lambda: one.upload("id,question\n1,fever\n").status == 202)


# Who is served


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "[::2]", ""]
)
def test_other_names_are_not_served(server, host):
    answer = server.ask("POST", "/api/predict", {"question": "a"}, {"host": host.format(port=server.port)})
    assert answer.status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:8000"])
def test_names_of_this_machine_are_served(server, host):
    assert server.ask("GET", "/api/model", headers={"host": host}).status == 200


def test_another_address_and_name_of_this_machine_are_served():
    """Debian has its own name at 127.0.1.1; all requests to it used to be answered with 421."""
    with running(FakeModel(), host="127.0.0.2") as one:
        for host, status in (("127.0.0.2", 200), ("localhost", 200), ("127.0.0.3", 421)):
            assert one.ask("GET", "/api/model", headers={"host": f"{host}:{one.port}"}).status == status
    named = serving.hosts_of(serving.Listening("Box.lan"), local=True, address="127.0.1.1")
    assert {"box.lan", "127.0.1.1", "localhost"} <= named
    assert "[::1]" in serving.hosts_of(serving.Listening("0:0::1"), local=True, address="::1")
    assert serving.hosts_of(serving.Listening("10.0.0.1"), local=False, address="10.0.0.1") is None


def test_named_hosts_and_names():
    assert serving.hosts_of(serving.Listening(), local=False) is None
    assert serving.hosts_of(serving.Listening(allowed_hosts=["Box.lan:80"]), local=False) == {"box.lan"}
    assert "box" in serving.hosts_of(serving.Listening(allowed_hosts=["box"]), local=True)
    assert host_name("[::1]:80") == host_name("[::1]") == "[::1]"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost", 403),
        ("http://127.0.0.1:1", 403),
        ("http://[x", 400),
        ("http://[127.0.0.1]", 400),
    ],
)
def test_pages_of_others_are_not_served(server, origin, status):
    headers = {"origin": origin.format(port=server.port)}
    assert server.ask("POST", "/api/predict", {"question": "a"}, headers).status == status


def test_pages_of_a_named_host_are_served_behind_a_proxy():
    with running(FakeModel(), allowed=["box.lan"]) as one:
        for headers in ({"host": "box.lan"}, {"origin": "https://box.lan"}):
            assert one.ask("POST", "/api/predict", {"question": "a"}, headers).status == 200
        assert (
            one.ask("POST", "/api/predict", {"question": "a"}, {"origin": "https://box.lan.evil"}).status
            == 403
        )


def test_a_form_of_another_page_is_no_json(server):
    answer = server.ask("POST", "/api/predict", b'{"question": "a"}', {"content-type": "text/plain"})
    assert (answer.status, answer.json()) == (422, {"detail": f"{NO_OBJECT}."})


def test_a_token_is_asked_for():
    token = "a-token-of-some-length"
    with running(FakeModel(), token=token) as one:
        assert one.predict("fever").status == 200
        for wrong in (
            "",
            "Bearer",
            f"Bearer {token}x",
            f"Basic {token}",
            "Bearer \u00fc" * 3,
            f"Bearer {token[:-1]}",
        ):
            for path in ("/api/model", "/metrics", "/api/uploads/x", "/nowhere"):
                answer = one.ask(
                    "GET", path, headers={"authorization": wrong.encode("latin-1").decode("latin-1")}
                )
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert token not in answer.text
        for path in ("/", "/static/app.js", "/health", "/health/live", "/openapi.json"):
            assert one.ask("GET", path, headers={"authorization": ""}).status == 200
        assert token not in one.log.getvalue()


def test_tokens_that_are_no_good(tmp_path, monkeypatch, recwarn):
    monkeypatch.delenv(serving.TOKEN_VARIABLE, raising=False)
    assert serving.read_token(None) is None
    monkeypatch.setenv(serving.TOKEN_VARIABLE, " " + "k" * 16)
    assert serving.read_token(None) == "k" * 16
    file = tmp_path / "token"
    for text in ("", "short", "with blanks in it, and long", "k" * 15 + "\u00e9"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="no token") as error:
            serving.read_token(file)
        assert not text or text not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        serving.read_token(tmp_path / "absent")
    file.write_text("q" * 40 + "\n")
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    recwarn.clear()
    assert serving.read_token(file) == "q" * 40
    assert not recwarn.list
    file.chmod(0o644)
    with pytest.warns(UserWarning, match="other users may read it"):
        serving.read_token(file)


def test_reach_beyond_this_machine_is_warned_of(recwarn):
    serving.warn_of_reach(local=True, token=None)
    assert not recwarn.list
    serving.warn_of_reach(local=False, token="k" * 16)
    assert [("unencrypted" in str(one.message)) for one in recwarn.list] == [True]
    recwarn.clear()
    serving.warn_of_reach(local=False, token=None)
    assert "asks for no token" in str(recwarn.list[0].message)
    with serving.bind("127.0.0.1", 0) as here, serving.bind("0.0.0.0", 0) as everywhere:
        assert (serving.is_local(here), serving.is_local(everywhere)) == (True, False)
        port = here.getsockname()[1]
        assert serving.address_of(here) == f"http://127.0.0.1:{port}"
        here.listen()
        with pytest.raises(UserError, match=f"--port {port}: cannot be listened on"):
            serving.bind("127.0.0.1", port)
    with pytest.raises(UserError, match="is not an address of this machine"):
        serving.bind("no-such-name.invalid", 0)


# What is never told


def _explode(text):
    return ValueError(f"cannot read {text}")


def test_no_case_text_in_logs_answers_or_metrics(capfd):
    model = FakeModel()
    with running(model) as one:
        assert one.predict(SECRET).status == 200
        word = SECRET.split()[0]
        asked = [
            ("GET", f"/{word}?q={word}", None, {}),
            ("GET", f"/api/uploads/{word}", None, {}),
            ("GET", f"/static/{word}", None, {}),
            (word, "/", None, {}),
            ("POST", f"/api/uploads?format={word}", SECRET.encode(), {}),
            ("POST", "/api/uploads?format=csv", f"{SECRET},{SECRET}\n1,2\n".encode(), {}),
            ("POST", "/api/uploads?format=csv", f"{SECRET}\nid\n".encode(), {}),
            ("POST", "/api/uploads?format=csv", f'id,question\n1,"{SECRET}\n'.encode(), {}),
            ("POST", "/api/uploads?format=csv", f"id,question\n{SECRET},a\n{SECRET},b\n".encode(), {}),
            ("POST", "/api/uploads?format=jsonl", f'{{"question": {SECRET}}}'.encode(), {}),
            ("POST", "/api/uploads?format=jsonl", f'{{"{word}": 1, "{word}": 2}}'.encode(), {}),
            (
                "POST",
                "/api/uploads?format=jsonl",
                b'{"id": "1", "question": ["' + SECRET.encode() + b'"]}',
                {},
            ),
            ("POST", "/api/predict", {"question": [SECRET]}, {}),
            ("POST", "/api/predict", {"question": "a", SECRET: SECRET}, {}),
            ("POST", "/api/predict", {"question": "a", "explain": SECRET}, {}),
            (
                "POST",
                "/api/predict",
                f'{{"question": {SECRET}'.encode(),
                {"content-type": "application/json"},
            ),
            ("POST", "/api/what-if", {"question": "a", "label": SECRET}, {}),
            ("POST", "/api/predict", {"question": "a"}, {"host": word}),
            ("POST", "/api/predict", {"question": "a"}, {"origin": f"http://{word}"}),
        ]
        for method, path, body, headers in asked:
            answer = one.ask(method, path, body, headers)
            assert 400 <= answer.status < 500, (method, path, answer.status)
            assert word not in answer.text + str(answer.headers), path
        model.fault = _explode
        failed = one.predict(SECRET)
        assert (failed.status, word in failed.text) == (500, False)
        model.fault = None
        broken, model.prepare = model.prepare, lambda text, **_: _raise(_explode(text))
        assert one.predict(SECRET).status == 500
        model.prepare = broken
        assert one.predict(SECRET).status == 200
        with socket.create_connection(("127.0.0.1", one.port)) as line:
            line.sendall(f"{SECRET}\r\n\r\n".encode())
            line.recv(1000)
        one.wait(lambda: "ValueError" in one.log.getvalue())
        metrics = one.ask("GET", "/metrics").text
    log = one.log.getvalue()
    assert re.search(r"INFO POST /api/predict 200 \d+ ms", log)
    # Asked every few seconds, they were nearly all there was.
    assert not re.search(r"GET /(health|metrics)", log)
    # The exception is told by type and place.
    assert re.search(r"ValueError(\n  \S+:\d+ in \S+)*\n  \S+serve_cases\.py:\d+ in work", log)
    captured = capfd.readouterr()
    for word in SECRET.split():
        assert word not in log + metrics + captured.out + captured.err


def _raise(error):
    raise error


# Uploads


def rows_of(server, upload_id, form="jsonl"):
    answer = server.ask("GET", f"/api/uploads/{upload_id}/results?format={form}")
    assert answer.status == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="predictions.{form}"'
    if form == "csv":
        return list(csv.DictReader(io.StringIO(answer.text)))
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_file_is_answered_in_its_order(server):
    texts = [*notes(30, seed=5), 'with "quotes", commas\nand a line break', SECRET]
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerows(
        [["id", "other", "question"], *([f"case {k}", "x", text] for k, text in enumerate(texts))]
    )
    begun = server.upload("\ufeff" + lines.getvalue())
    assert begun.status == 202
    status = server.finished(begun.json()["id"])
    assert (status["state"], status["rows"], status["done"], status["faults"]) == ("done", 32, 32, 0)
    assert sum(status["labels"].values()) == 32
    # No text is held longer than it is needed.
    assert SECRET not in repr(server.service.uploads.find(status["id"]).rows)
    rows = rows_of(server, status["id"])
    assert [row["id"] for row in rows] == [f"case {k}" for k in range(32)]
    assert [row["rationale"] for row in rows] == [f"Read {mark_of(text)}" for text in texts]
    table = rows_of(server, status["id"], "csv")
    assert [row["rationale"] for row in table] == [row["rationale"] for row in rows]
    assert [float(row["label_probability"]) for row in table] == [0.75] * 32
    assert server.ask("DELETE", f"/api/uploads/{status['id']}").status == 204
    assert server.ask("GET", f"/api/uploads/{status['id']}").status == 404


def test_rows_with_faults_stay_in_their_place(server):
    lines = [
        {"id": "=1+1", "question": "fever"},
        {"id": 2, "question": " "},
        {"id": "3", "question": "x" * (server.limits.note_characters + 1)},
        {"id": "4", "other": "no question"},
        {"id": "5", "question": "@SUM(A1)"},
    ]
    begun = server.upload("".join(json.dumps(line) + "\n" for line in lines), "jsonl")
    status = server.finished(begun.json()["id"])
    assert (status["done"], status["faults"]) == (5, 3)
    rows = rows_of(server, status["id"])
    assert [row["id"] for row in rows] == ["=1+1", "2", "3", "4", "5"]
    assert [row["error"] for row in rows] == [
        "",
        "empty question",
        "longer than 20000 characters",
        "empty question",
        "",
    ]
    # A spreadsheet would run it.
    assert [row["id"] for row in rows_of(server, status["id"], "csv")] == ["'=1+1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("risk", "abstained"), [(0.1, True), (None, None)])
def test_a_row_without_an_answer_is_no_answered_one(risk, abstained):
    """As `r2d predict` marks it: whoever keeps the rows that were not abstained must not keep it."""
    calibration = Calibration(
        temperature=1.0, threshold=0.5, target_risk=risk, rows=10, labels_sha256="0" * 64
    )
    with running(FakeModel(calibration=calibration)) as one:
        begun = one.upload("id,question\n1,fever\n2, \n")
        status = one.finished(begun.json()["id"])
        # Counted as a row without an answer alone.
        assert (status["faults"], status["abstained"]) == (1, 0)
        rows = rows_of(one, status["id"])
        assert [row["abstained"] for row in rows] == [None if risk is None else False, abstained]
    with running(FakeModel()) as one:
        status = one.finished(one.upload("id,question\n2, \n").json()["id"])
        assert rows_of(one, status["id"])[0]["abstained"] is None


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_as_a_formula_of_a_spreadsheet(start):
    held = Upload("1", (), [{"id": f"{start}1", "rationale": f"{start}1+1", "unsupported": [f"{start}2"]}])
    _, line, _ = results_text(held, "csv").split("\n")
    assert [cell.strip('"') for cell in line.split(",")] == [f"'{start}1", f"'{start}1+1", f"'{start}2"]
    assert json.loads(results_text(held, "jsonl"))["rationale"] == f"{start}1+1"
    assert json.loads(results_text(held, "jsonl"))["id"] == f"{start}1"


def test_columns_may_have_other_names(server):
    query = "&question_column=%7Bage%7D%3A%20%7Btext%7D&id_column=number"
    begun = server.upload("number\tage\ttext\n7\t54\tfever\n", "tsv", query)
    status = server.finished(begun.json()["id"])
    assert rows_of(server, status["id"])[0]["rationale"] == f"Read {mark_of('54: fever')}"
    refused = server.upload("a,b\n1,2\n")
    assert (refused.status, "line 2, field 'id': is missing" in refused.text) == (422, True)


@pytest.mark.parametrize(
    ("form", "data", "told"),
    [
        ("csv", "", "empty"),
        ("csv", "id,question\n", "no rows"),
        ("csv", "id,question\n1\n", "line 2"),
        ("csv", "id,question\n1,a\n1,b\n", "line 3: has the id of an earlier row"),
        ("jsonl", '{"id": "1"}\n', "question"),
        ("jsonl", "[" * 100_000, "line 1"),
        ("jsonl", '["a"]\n', "line 1: is a JSON list"),
    ],
)
def test_files_that_cannot_be_read(server, form, data, told):
    answer = server.upload(data, form)
    assert answer.status == 422
    assert told in answer.json()["detail"]


def test_a_file_that_is_not_utf8(server):
    answer = server.ask("POST", "/api/uploads?format=csv", b"id,question\n1,caf\xe9\n")
    assert (answer.status, "line 2" in answer.text) == (422, True)


def test_notes_do_not_wait_for_a_whole_file_and_too_many_files_are_refused():
    model = FakeModel(secs=0.05)
    with running(model, Limits(uploads=2, keep_secs=0.6)) as one:
        file = "id,question\n" + "".join(f"{number},fever {number}\n" for number in range(160))
        ids = [one.upload(file).json()["id"] for _ in range(2)]
        assert one.upload(file).status == 429
        one.wait(lambda: one.ask("GET", f"/api/uploads/{ids[0]}").json()["state"] == "running")
        assert one.ask("GET", f"/api/uploads/{ids[0]}/results").status == 409
        started = time.monotonic()
        assert one.predict("a single note").status == 200
        # 320 rows in batches of 8, 0.05 s each, take 2 s; two or three of these are before a note.
        assert time.monotonic() - started < 0.6
        assert one.ask("GET", f"/api/uploads/{ids[1]}").json()["state"] == "waiting"
        assert one.ask("DELETE", f"/api/uploads/{ids[0]}").status == 204
        one.wait(lambda: one.ask("GET", f"/api/uploads/{ids[1]}").json()["state"] == "running")
        assert one.finished(ids[1])["state"] == "done"
        # Held for a while only.
        one.wait(lambda: one.ask("GET", f"/api/uploads/{ids[1]}").status == 404, secs=5)
        assert one.service.uploads.held == 0


def test_rows_of_a_file_have_all_the_time_they_need():
    with running(FakeModel(secs=0.3), Limits(answer_secs=0.4)) as one:
        begun = one.upload("id,question\n" + "".join(f"{number},fever\n" for number in range(40)))
        status = one.finished(begun.json()["id"])
        assert (status["state"], status["done"], status["faults"]) == ("done", 40, 0)


def test_a_note_goes_before_the_rows_of_a_file_that_wait():
    """It waits for the batch in work alone, and finds a place where a file has filled the queue."""
    model = FakeModel()
    with running(model, Limits(queue_rows=8), wait_secs=0.5) as one:
        model.gate.clear()
        begun = one.upload("id,question\n" + "".join(f"{number},fever\n" for number in range(40)))
        one.wait(lambda: (model.taken, one.service.batcher.queued) == (8, 8))
        answers = []
        note = threading.Thread(target=lambda: answers.append(one.predict("a note", explain=False)))
        note.start()
        one.wait(lambda: one.service.batcher.queued == 9)
        model.gate.set()
        note.join(10)
        assert [answer.status for answer in answers] == [200]
        assert one.finished(begun.json()["id"])["faults"] == 0
        assert [group.task for group, _ in model.batches[:3]] == ["full", "label", "full"]


# Batches, load and stops


def test_notes_share_batches_of_their_own_kind():
    model = FakeModel(secs=0.02)
    with running(model, wait_secs=0.05) as one:
        texts = [*["short note"] * 12, *["long note " * 20] * 12]
        one.together(
            *[lambda text=text: one.predict(text) for text in texts],
            *[lambda: one.predict("short note", explain=False)] * 6,
        )
        sizes = [size for _, size in model.batches]
        assert sum(sizes) == 30
        assert max(sizes) <= 8
        assert len(sizes) <= 12
        assert {group for group, _ in model.batches} == {("full", 16), ("full", 64), ("label", 16)}


def test_one_bad_note_does_not_cost_the_others_their_answers():
    model = FakeModel()

    def work(group, items):
        if any(item.text == "bad" for item in items):
            raise ValueError
        return FakeModel.work(model, group, items)

    model.work = work
    with running(model, wait_secs=0.2) as one:
        texts = ["bad", *notes(7, most=10)]
        answers = one.together(*[lambda text=text: one.predict(text) for text in texts])
        assert [answer.status for answer in answers] == [500] + [200] * 7
        for text, answer in zip(texts[1:], answers[1:], strict=True):
            assert answer.json()["explanation"]["rationale"] == f"Read {mark_of(text)}"


@pytest.mark.parametrize("clients", [1, 8, 64])
def test_under_load_nothing_is_lost_or_mixed_up(clients):
    texts = notes(96, seed=clients)
    with running(FakeModel(secs=0.002)) as one:
        load = Load(one.address, texts, clients)
        results = asyncio.run(run_clients(load))
        assert len(results) == len(texts)
        for result in results:
            assert result.status == 200
            assert result.answer["explanation"]["rationale"] == f"Read {mark_of(texts[result.number])}"
        figures = summary(results)
        assert figures["answers"] == len(texts)
        assert 0 < figures["p50_ms"] <= figures["p95_ms"]
        metrics = one.ask("GET", "/metrics").text
        count = re.search(
            r'r2d_requests_total\{method="POST",route="/api/predict",status="200"\} (\d+)', metrics
        )
        assert int(count[1]) == len(texts)


def test_a_stop_finishes_what_is_in_work_and_takes_nothing_new():
    model = FakeModel()
    one = Running(model, wait_secs=0.0)
    begun = one.upload("id,question\n" + "".join(f"{number},fever\n" for number in range(100))).json()["id"]
    one.finished(begun)
    before = model.taken
    model.gate.clear()
    answers = []
    texts = notes(12)
    threads = [
        threading.Thread(target=lambda text=text: answers.append((text, one.predict(text)))) for text in texts
    ]
    for thread in threads:
        thread.start()
    one.wait(lambda: model.taken - before + one.service.batcher.queued == 12)
    # As a signal does it, which comes to the main thread only.
    one.server.handle_exit(15, None)
    late = None
    try:
        late = one.ask("POST", "/api/predict", {"question": "late"}, timeout=2).status
    except OSError:
        late = 503
    assert late == 503
    time.sleep(0.3)
    model.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 12
    for text, answer in answers:
        assert answer.status == 200
        assert answer.json()["explanation"]["rationale"] == f"Read {mark_of(text)}"
    one.thread.join(10)
    assert not one.thread.is_alive()


def begun_note(one, text):
    """The connection of a note that was sent and not answered yet."""
    line = socket.create_connection((one.host, one.port))
    body = json.dumps({"question": text}).encode()
    head = (
        "POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    )
    line.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
    return line


def test_a_stop_has_one_limit_of_time():
    """The wait for connections and the wait for the model come one after the other."""
    model = FakeModel()
    one = Running(model, grace_secs=2, wait_secs=0.0)
    model.gate.clear()
    with begun_note(one, "fever"):
        one.wait(lambda: model.taken == 1)
        one.server.handle_exit(15, None)
        told = time.monotonic()
        one.thread.join(20)
        assert 1.5 < time.monotonic() - told < 3.7
    model.gate.set()


def test_a_note_whose_sender_has_gone_is_not_computed():
    model = FakeModel()
    with running(model, wait_secs=0.0) as one:
        model.gate.clear()
        with begun_note(one, "held") as held:
            one.wait(lambda: model.taken == 1)
            for path, body in (
                ("predict", {"question": "gone"}),
                ("what-if", {"question": "a", "label": "urgent"}),
            ):
                with pytest.raises(TimeoutError):
                    one.ask("POST", f"/api/{path}", body, timeout=0.5)
            one.wait(lambda: 'r2d_refused_total{reason="gone"} 2.0' in one.ask("GET", "/metrics").text)
            model.gate.set()
            assert held.recv(12) == b"HTTP/1.1 200"
        assert one.predict("next").status == 200
        assert model.taken == 2


def test_nothing_is_answered_before_the_model_is_prepared():
    prepared = threading.Event()
    with running(FakeModel(), prepare=lambda: prepared.wait(20), wait_ready=False) as one:
        one.wait(lambda: one.ask("GET", "/health/live").status == 200)
        health = one.ask("GET", "/health/ready")
        assert (health.status, health.json()["state"]) == (503, "starting")
        refused = one.predict("fever")
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert one.upload("id,question\n1,a\n").status == 503
        assert one.ask("GET", "/").status == 200
        prepared.set()
        one.wait(lambda: one.predict("fever").status == 200)
        assert re.search(r"GET /health/ready 503 \d+ ms", one.log.getvalue())


def test_a_model_that_cannot_be_prepared_ends_the_server():
    one = Running(FakeModel(), prepare=lambda: _raise(MemoryError(SECRET)), wait_ready=False)
    one.thread.join(10)
    assert not one.thread.is_alive()
    assert one.server.model_failed
    assert "MemoryError" in one.log.getvalue()
    assert SECRET not in one.log.getvalue()


# What it says of itself


def test_the_description_has_examples_that_hold(server):
    described = server.ask("GET", "/openapi.json").json()
    assert INTENDED_USE in described["info"]["description"]
    paths = described["paths"]
    assert {
        "/api/predict",
        "/api/what-if",
        "/api/uploads",
        "/api/model",
        "/health",
        "/metrics",
    } <= paths.keys()
    assert {"413", "422", "429", "503"} <= paths["/api/predict"]["post"]["responses"].keys()
    for kind in (Note, WhatIf, Answer, UploadStatus):
        (example,) = described["components"]["schemas"][kind.__name__]["examples"]
        kind.model_validate(example)
    assert (
        server.ask("POST", "/api/predict", Note.model_config["json_schema_extra"]["examples"][0]).status
        == 200
    )
    note = Note.model_config["json_schema_extra"]["examples"][0]["question"]
    spans = Answer.model_config["json_schema_extra"]["examples"][0]["explanation"]["cited"]
    assert "|".join(note[one["start"] : one["end"]] for one in spans) == note.replace(". ", ".|")


def test_the_page_says_what_it_is_for_and_loads_only_its_own(server):
    page = server.ask("GET", "/").text
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert INTENDED_USE in plain
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert server.ask("GET", name).status == 200, name
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    docs = re.sub(r"\s+", " ", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"))
    assert INTENDED_USE in docs


def test_the_page_files_are_package_data():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    pattern = parser["options.package_data"]["r2d_jax.serve"].strip()
    folder = ROOT / "r2d_jax" / "serve"
    files = {path for path in (folder / "static").iterdir() if path.is_file()}
    assert set(folder.glob(pattern)) == files
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".svg"}


def test_widths_halve_and_sizes_are_two():
    # With prompts of 15 tokens 64 and 32; 16 would leave one token for the note.
    assert question_widths(49, 15, 4) == (17, 49)
    assert question_widths(49, 15, 1) == (49,)
    assert question_widths(3, 29, 6) == (3,)
    assert (batch_sizes(1), batch_sizes(8)) == ((1,), (1, 8))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "absent"], "absent: no such folder"),
        (["--model", ".", "--host", "no-such-name.invalid"], "--host no-such-name.invalid"),
        (["--model", ".", "--token-file", "absent"], "--token-file absent: cannot be read"),
        (["--model", ".", "--port", "70000"], "--port"),
        *(
            (["--model", "absent", name, "inf"], name)
            for name in ("--answer-secs", "--grace-secs", "--keep-minutes")
        ),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(serving.TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr("sys.argv", ["r2d", "serve", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert (stop.value.code, len(error.splitlines())) == (2, 1)
    assert told in error
