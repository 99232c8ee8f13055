"""Servers for tests; in: a model (a fake whose answers depend on the note, or a tiny real one), out: one that runs."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import http.client
import io
import json
import logging
import threading
import time
import types

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="r2d_jax[serve] is not installed")

from t5_cases import SMALL, random_weights

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.model_folder import TOKENIZER_FOLDER, WEIGHTS_FOLDER, ModelCard
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.runtime.checkpoint_files import save_params
from r2d_jax.runtime.files import write_texts
from r2d_jax.runtime.run_files import MODEL_CARD
from r2d_jax.serve.limits import Limits, Refused
from r2d_jax.serve.logs import write_logs
from r2d_jax.serve.served_model import Group, Outcome, ServedNote
from r2d_jax.serve.server import Listening, bind, hosts_of, make_server
from r2d_jax.serve.service import Service

LABELS = ("urgent", "not urgent")
WORDS = ["fever", "pain", "cough", "rash", "since", "two", "days", "because", "no", "38.5"]


def mark_of(text):
    """What the fake answers to a text: nothing else gives it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class TextItem(ServedNote):
    text: str = ""
    label: str = ""


class FakeModel:
    """Answers with the mark of the note, and notes its batches. `gate` holds batches up while it is clear."""

    name, sizes, widths, follows_labels = "fake", (1, 8), (16, 64), True

    def __init__(self, secs=0.0, labels=LABELS, calibration=None, explains=True):
        self.secs, self.calibration = secs, calibration
        self.card = types.SimpleNamespace(labels=labels, columns=ColumnsConfig(id="id"))
        self.predictor = types.SimpleNamespace(explains=explains)
        self.batches, self.taken, self.gate, self.fault = [], 0, threading.Event(), None
        self.gate.set()

    def warm(self):
        pass

    def known_label(self, label):
        if self.card.labels and label not in self.card.labels:
            raise Refused(422, "unknown_label", "label: is not in the label set of this model.")
        return label

    def prepare(self, text, *, explain=True, label=""):
        task = "given" if label else "full" if explain and self.predictor.explains else "label"
        if label:
            self.known_label(label)
        words = np.arange(min(len(text.split()), 64), dtype=np.int32)
        width = 16 if len(words) <= 16 else 64
        return TextItem(
            Group(task, width), words, words[:0], len(text.split()), text.count("\ufffc"), text, label
        )

    def work(self, group, items):
        assert {item.group for item in items} == {group}
        self.taken += len(items)
        self.gate.wait(20)
        time.sleep(self.secs)
        if self.fault:
            raise self.fault(items[0].text)
        self.batches.append((group, len(items)))
        outcomes = []
        for item in items:
            first = int(mark_of(item.text), 16) % 2 == 0
            label = self.card.labels[0 if first else 1] if self.card.labels else "free text"
            share = np.array([0.75, 0.25] if first else [0.25, 0.75]) if self.card.labels else None
            rationale = f"Read {mark_of(item.text)} {item.label}".strip() if group.task != "label" else ""
            outcomes.append(Outcome(Prediction(label, True, 0.75, rationale), share))
        return outcomes


@dataclasses.dataclass(frozen=True)
class Reply:
    status: int
    headers: dict
    data: bytes

    @property
    def text(self):
        return self.data.decode()

    def json(self):
        return json.loads(self.data)


class Running:
    """A server in a thread of this process, as `r2d serve` makes it."""

    def __init__(
        self,
        model,
        limits=None,
        *,
        token=None,
        allowed=(),
        host="127.0.0.1",
        grace_secs=5,
        wait_ready=True,
        **service,
    ):
        self.limits = limits or Limits()
        self.log = io.StringIO()
        write_logs(self.log)
        bound = bind(host, 0)
        self.host, self.port = bound.getsockname()
        self.service = Service(
            model, self.limits, grace_secs=grace_secs, on_failure=lambda: self.server.give_up(), **service
        )
        listening = Listening(host, allowed_hosts=allowed)
        self.server = make_server(
            self.service,
            self.limits,
            hosts=hosts_of(listening, local=True, address=self.host),
            named=listening.named,
            token=token,
            grace_secs=grace_secs,
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]}, daemon=True)
        self.thread.start()
        self.token = token
        if wait_ready:
            self.wait(lambda: self.ask("GET", "/health/ready").status == 200)

    @property
    def address(self):
        return f"http://{self.host}:{self.port}"

    def wait(self, condition, secs=20):
        end = time.monotonic() + secs
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            time.sleep(0.01)
        raise AssertionError("waited in vain")

    def ask(self, method, path, body=None, headers=None, *, timeout=30):
        """One request; a dict is sent as JSON, and the token borne where there is one."""
        sent = {"content-type": "application/json"} if isinstance(body, dict) else {}
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, data, sent | (headers or {}))
            got = connection.getresponse()
            names = {name.lower(): value for name, value in got.getheaders()}
            return Reply(got.status, names, got.read())
        finally:
            connection.close()

    def predict(self, question, **more):
        return self.ask("POST", "/api/predict", {"question": question, **more})

    def together(self, *calls):
        """What calls of no argument give, all made at once."""
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            return [one.result() for one in [pool.submit(call) for call in calls]]

    def upload(self, data, form="csv", query=""):
        return self.ask("POST", f"/api/uploads?format={form}{query}", data.encode())

    def finished(self, upload_id):
        """The status of an upload once it has ended."""
        path, seen = f"/api/uploads/{upload_id}", []

        def ended():
            seen.append(self.ask("GET", path).json())
            return seen[-1]["state"] in ("done", "stopped")

        self.wait(ended)
        return seen[-1]

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(model, *arguments, **options):
    server = Running(model, *arguments, **options)
    try:
        yield server
    finally:
        getattr(model, "gate", threading.Event()).set()
        server.close()
        for name in ("uvicorn", "asyncio", "r2d_jax.serve"):
            logging.getLogger(name).handlers = [logging.NullHandler()]


def make_model(folder, *, labels=LABELS, rationale_prompt="given_label", seed=0):
    """A folder with a tiny model of random weights, as `r2d import` lays it out."""
    tokenizer = Tokenizer.train(["predict: explain: given label: , ", *LABELS, *WORDS * 3], 140)
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size, "num_layers": 1}, num_decoder_layers=1)
    card = ModelCard(
        shape=shape,
        labels=labels,
        label_tokens=max(len(tokenizer.encode(label)) for label in LABELS) + 1,
        input_limit_tokens=64,
        rationale_tokens=12,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(id="id"),
        rationale_prompt=rationale_prompt,
    )
    folder.mkdir(parents=True)
    save_params(folder / WEIGHTS_FOLDER, random_weights(shape, seed))
    write_texts(folder / TOKENIZER_FOLDER, tokenizer.files())
    (folder / MODEL_CARD).write_text(card.to_json(), encoding="utf-8")
    return folder


def notes(count, seed=0, most=30):
    """Texts of 1 to `most` words, no two alike."""
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(WORDS, rng.integers(1, most)))} {number}" for number in range(count)]
