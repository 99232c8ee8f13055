"""`r2d push`: what goes to the Hub, seen by a server that stands for it; what never does; and every refusal."""

import base64
import dataclasses
import http.server
import json
import threading

import huggingface_hub
import pytest
from cli_cases import SECRET, r2d  # noqa: F401
from t5_cases import SMALL, random_weights

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.calibration import Calibration, labels_digest
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_folder import LoadedModel, ModelCard
from r2d_jax.evaluation.push import ALLOWED, upload_of
from r2d_jax.model.parameters import T5Factory

TOKEN = "hf_notarealtokenatall"


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
    """Nothing is compiled here, but what other files compile in this process may go there."""
    return tmp_path_factory.mktemp("unused")


@pytest.fixture
def run(tmp_path):
    """The folder of a run with an export, and the files with case text that lie beside and among it."""
    tokenizer = Tokenizer.train(["predict: explain: given label: yes, no"], 300)
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size}, num_decoder_layers=1)
    card = ModelCard(
        shape=shape,
        labels=("yes", "no", "x" * 61),
        label_tokens=4,
        input_limit_tokens=64,
        rationale_tokens=8,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(),
        label_map={"Yes ": "yes"},
    )
    model = LoadedModel(card, T5Factory(shape, "float32"), random_weights(shape), tokenizer, "made")
    export_model(model, tmp_path / "run" / "export")
    for name in ("run.json", "evaluation/predictions.jsonl", "tokens/train.bin"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text(SECRET)
    for name in ("predictions.jsonl", "row_scores.jsonl", "notes/README.md", ".hidden", "rows.csv"):
        (tmp_path / "run" / "export" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / "export" / name).write_text(SECRET)
    (tmp_path / "run" / "export" / "LICENSE").symlink_to(tmp_path / "run" / "run.json")
    return tmp_path / "run"


class Hub(http.server.ThreadingHTTPServer):
    """A stand-in for the Hub: keeps every request, and what a commit holds."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests, self.files, self.made = [], {}, None
        self.there_before, self.private, self.status = False, True, None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.requests.append((self.path, b""))
        self.answer({"id": "me/model", "private": self.server.private, "sha": "0" * 40})

    def do_POST(self):
        hub = self.server
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append((self.path, body))
        if hub.status is not None:
            return self.answer({"error": "no"}, hub.status)
        if self.path == "/api/repos/create":
            hub.made = json.loads(body)
            return self.answer({"url": f"{hub.address}/me/model"}, 409 if hub.there_before else 200)
        if "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            told = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            return self.answer({"files": told})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] != "header":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"commitUrl": f"{hub.address}/me/model/commit/1", "commitOid": "1", "success": True}
            )
        return self.answer({"errors": [], "warnings": []})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def push(r2d, folder, *options):  # noqa: F811
    return r2d("push", "--model", folder, "--repo", "me/model", *options)


def test_digests_of_rows_are_told_before_they_go(run):
    """An exported folder may be calibrated itself; then a note can be found out to have been among its rows."""
    export = run / "export"
    labels = ("yes", "no", "x" * 61)
    made = Calibration(2.0, None, None, 1, labels_digest(labels), source="file", row_digests=("0" * 16,))
    (export / "calibration.json").write_text(made.to_json())
    assert any("has digests of rows" in note for note in upload_of(export).notes)
    (export / "calibration.json").write_text(dataclasses.replace(made, row_digests=()).to_json())
    assert not any("digests" in note for note in upload_of(export).notes)


def test_a_dry_run_shows_what_would_go_and_sends_nothing(r2d, run, hub):  # noqa: F811
    ended = push(r2d, run, "--dry-run")
    ended.done(
        "private model me/model on the Hugging Face Hub would get from .*export:",
        r"  model\.safetensors +[\d,]+ bytes",
        r"does not go: \.hidden",
        r"does not go: LICENSE",
        r"does not go: notes/README\.md",
        r"does not go: predictions\.jsonl",
        "has the 3 labels, 1 of them longer than 60 characters",
        "has 1 labels as your files write them",
        "can repeat pieces of the training text",
        "licence in README.md: none",
        "nothing was sent",
    )
    assert f"{(run / 'export' / 'model.safetensors').stat().st_size:,} bytes" in ended.out
    push(r2d, run).refused("--yes: is needed to send this", "nothing was sent")
    assert not hub.requests


def test_what_is_on_the_list_goes_whole_and_nothing_else(r2d, run, hub):  # noqa: F811
    push(r2d, run, "--yes").done("sent: .*/me/model/commit/1")
    assert hub.made == {"name": "model", "organization": "me", "visibility": "private"}
    sent = {"README.md", "config.json", "generation_config.json", "model.safetensors", "r2d_model.json"}
    assert hub.files.keys() == sent | {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert hub.files.keys() <= ALLOWED
    for name, content in hub.files.items():
        assert content == (run / "export" / name).read_bytes()
    wire = b"".join(path.encode() + body for path, body in hub.requests)
    for secret in (
        SECRET,
        base64.b64encode(SECRET.encode()).decode().rstrip("=")[:-1],
        "predictions",
        "row_scores",
    ):
        assert secret.encode() not in wire


def test_public_has_to_be_asked_for(r2d, run, hub):  # noqa: F811
    push(r2d, run, "--yes", "--public").done("public model me/model", "sent: ")
    assert hub.made["visibility"] == "public"
    hub.files.clear()
    hub.there_before, hub.private = True, False
    push(r2d, run, "--yes").refused(
        "me/model: is a public repository, and --public was not given", "no file was sent"
    )
    assert not hub.files
    push(r2d, run, "--yes", "--public").done("sent: ")


def test_each_refusal_says_what_to_do_and_tells_no_token(r2d, run, hub, monkeypatch):  # noqa: F811
    for status, wanted in (
        (401, "the Hub refuses the token"),
        (403, "write access"),
        (400, "the Hub refused .400"),
    ):
        hub.status = status
        ended = push(r2d, run, "--yes")
        ended.refused(wanted)
        assert TOKEN not in ended.out + ended.err
    asked = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    push(r2d, run, "--yes").refused("the Hub could not be reached", "Check the network")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    push(r2d, run, "--yes").refused("HF_HUB_OFFLINE: is set")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    push(r2d, run, "--yes").refused("Hugging Face token: there is none", "hf auth login")
    assert len(hub.requests) == asked


def test_the_command_exports_what_it_is_asked_for(r2d, run, hub, tmp_path):  # noqa: F811
    output = tmp_path / "int8"
    words = (
        "--license",
        "apache-2.0",
        "--language",
        "en",
        "--title",
        "Notes",
        "--data-name",
        "made-up notes",
    )
    command = ("export", "--model", run / "export", "--output", output)
    r2d(*command, "--dtype", "int8", *words).done(f"model.safetensors written to {output}")
    card = huggingface_hub.ModelCard.load(output / "README.md")
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    assert "# Notes\n" in card.text
    assert "Data: made-up notes." in card.text
    assert "quantization_config" in json.loads((output / "config.json").read_text())
    push(r2d, output, "--dry-run").done("licence in README.md: apache-2.0")
    r2d(*command, "--overwrite", "--license", "Apache 2").refused(
        "--license: 'Apache 2' is not written as the Hub"
    )
    assert not hub.requests


def test_what_is_no_exported_folder_or_no_name(r2d, run, hub, tmp_path):  # noqa: F811
    push(r2d, tmp_path / "nowhere", "--dry-run").refused("nowhere: no such folder", "r2d export")
    push(r2d, tmp_path, "--dry-run").refused("is not an exported folder .README.md, ")
    for name in ("a/b/c", "-x", "a b", ""):
        r2d("push", "--model", run, "--repo", name, "--dry-run").refused(
            "--repo: .* is not the name of a repository"
        )
    (run / "export" / "README.md").write_text("---\na: [\n---\n")
    push(r2d, run, "--dry-run").refused("its YAML block is not readable")
    (run / "export" / "README.md").unlink()
    (run / "export" / "README.md").symlink_to(run / "run.json")
    push(r2d, run, "--dry-run").refused("README.md: is a link")
    assert not hub.requests
