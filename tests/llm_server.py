"""An OpenAI-compatible endpoint on this machine that can misbehave; in: one behaviour per request, out: what it got."""

import contextlib
import dataclasses
import json
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "sk-Quagga-0815"
SCORES = {"correctness": 4, "alignment": 5, "grounding": 3, "completeness": 2}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def answer(value, *, usage=USAGE, finish="stop"):
    """An ordinary reply with this text, or this value as JSON."""
    text = value if isinstance(value, str) or value is None else json.dumps(value)
    body = {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}
    return lambda handler: handler.reply(200, body)


def status(code, *, code_name=None, **headers):
    """A refusal that repeats the whole request and its key, as careless servers do."""

    def behave(handler):
        told = json.dumps(handler.body) + handler.headers["Authorization"]
        error = {"message": told, "code": code_name, "type": told}
        handler.reply(code, {"error": error}, **{k.replace("_", "-"): v for k, v in headers.items()})

    return behave


def page(handler):
    handler.reply(200, None, content_type="text/html", data=b"<html>welcome</html>")


def hang(handler):
    handler.server.over.wait(20)


def reset(handler):
    # With no time to linger, closing sends a reset.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for end in (handler.rfile, handler.wfile, handler.connection):
        end.close()


def slow(seconds, then):
    def behave(handler):
        handler.server.over.wait(seconds)
        then(handler)

    return behave


@dataclasses.dataclass
class Got:
    """One request as it came."""

    path: str
    headers: dict
    body: dict
    time: float

    @property
    def prompt(self):
        return self.body["messages"][1]["content"]

    @property
    def case(self):
        return json.loads(self.prompt)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet; else each request waits for a delayed acknowledgement.
    wbufsize = -1

    def do_POST(self):
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.got.append(Got(self.path, dict(self.headers.items()), self.body, time.monotonic()))
            behave = server.script.pop(0) if server.script else server.usual
        with contextlib.suppress(OSError):
            behave(self)

    def reply(self, code, body, content_type="application/json", data=None, **headers):
        data = json.dumps(body).encode() if data is None else data
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Follows `script`, one behaviour per request, and then behaves as `usual`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.over = threading.Lock(), threading.Event()
        self.got, self.script = [], []
        self.usual = answer({"justification": "It fits.", **SCORES})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def clean_endpoint(monkeypatch):
    """Short waits, and of the environment the key alone."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with running() as one:
        yield one


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
