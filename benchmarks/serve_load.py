"""`r2d serve` under load on this machine; in: a model folder, out: latency, throughput, and mixed-up answers.

python benchmarks/serve_load.py --model runs/quickstart --output runs/serve_load
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.machine import facts
from benchmarks.tables import write_result
from r2d_jax.config import TriageConfig
from r2d_jax.data.features import question_text
from r2d_jax.data.triage import generate

START_SECS, ANSWER_SECS, MAX_REQUESTS = 600, 120, 5000


@dataclasses.dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        address: of a server on this machine.
        texts: notes, each sent once.
        clients: how many send at the same time; each waits for its answer before it sends the next note.
    """

    address: str
    texts: Sequence[str]
    clients: int


class Result(NamedTuple):
    """What came back for one note: its number, the HTTP status, seconds, and the answer where there is one."""

    number: int
    status: int
    seconds: float
    answer: dict[str, Any] | None


async def run_clients(load: Load) -> list[Result]:
    """Send every note once; results in the order of the notes.

    Raises:
        ValueError: the server is not on this machine, or there are too many notes.
    """
    if not re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?$", load.address):
        raise ValueError("load is sent to this machine only")
    if len(load.texts) > MAX_REQUESTS:
        raise ValueError(f"at most {MAX_REQUESTS} notes")
    left = collections.deque(enumerate(load.texts))
    results: list[Result] = []

    async def client(connection: httpx2.AsyncClient) -> None:
        while left:
            number, text = left.popleft()
            started = time.monotonic()
            reply = await connection.post(f"{load.address}/api/predict", json={"question": text})
            seconds = time.monotonic() - started
            answer = reply.json() if reply.status_code == 200 else None
            results.append(Result(number, reply.status_code, seconds, answer))

    pool = httpx2.Limits(max_connections=load.clients, max_keepalive_connections=load.clients)
    async with httpx2.AsyncClient(
        limits=pool, timeout=ANSWER_SECS, trust_env=False, verify=False
    ) as connection:
        await asyncio.gather(*[client(connection) for _ in range(load.clients)])
    return sorted(results)


def summary(results: Sequence[Result], wall_secs: float = float("nan")) -> dict[str, Any]:
    """Counts, and latency of the answered notes in milliseconds."""
    seconds = [result.seconds for result in results if result.status == 200]
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000 if seconds else (float("nan"),) * 2
    return {
        "sent": len(results),
        "answers": len(seconds),
        "refused": sum(result.status == 429 for result in results),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "per_sec": round(len(seconds) / wall_secs, 2),
    }


def differing(results: Sequence[Result], alone: Sequence[Result]) -> int:
    """How many answers differ from those that the same notes got with one client."""
    return sum(
        _told(one.answer) != _told(other.answer)
        for one, other in zip(results, alone, strict=True)
        if one.status == 200
    )


def _told(answer: dict[str, Any] | None) -> Any:
    if answer is None:
        return None
    explanation = answer["explanation"] or {}
    # The last digits of a probability move with the batch that a note shares.
    return answer["label"], explanation.get("rationale"), answer["input_tokens"]


@contextlib.contextmanager
def served(model: pathlib.Path, options: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The real command in a process of its own; gives its address and what it said of its shapes.

    Raises:
        RuntimeError: it did not start, or did not stop cleanly.
    """
    command = [sys.executable, "-m", "r2d_jax", "serve", "--model", str(model), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-access-log", *options], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line.strip())
            if line.startswith("ready"):
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        if not ready.wait(START_SECS) or process.poll() is not None:
            raise RuntimeError("the server did not start: " + " | ".join(lines))
        address = re.search(r"http://\S+", " ".join(lines))
        assert address is not None
        yield address[0], {"ready": lines[-1]}
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        raise RuntimeError(f"the server ended with {code}")


def measured(address: str, texts: Sequence[str], clients: int) -> tuple[list[Result], dict[str, Any]]:
    """One round with its wall time and the mean size of its batches."""
    before, started = _batches(address), time.monotonic()
    results = asyncio.run(run_clients(Load(address, texts, clients)))
    figures = summary(results, time.monotonic() - started)
    batches, rows = (after - earlier for after, earlier in zip(_batches(address), before, strict=True))
    return results, {"clients": clients} | figures | {"rows_per_batch": round(rows / max(batches, 1), 2)}


def _batches(address: str) -> tuple[float, float]:
    text = httpx2.get(f"{address}/metrics", trust_env=False).text

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))

    return total("r2d_batch_rows_count"), total("r2d_batch_rows_sum")


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    head = "| clients | notes | answered | refused (429) | differing | p50 ms | p95 ms | notes/s | notes per batch |"
    lines = [head, "|---" * 9 + "|"]
    for row in result["rounds"]:
        names = (
            "clients",
            "sent",
            "answers",
            "refused",
            "differing",
            "p50_ms",
            "p95_ms",
            "per_sec",
            "rows_per_batch",
        )
        lines.append("| " + " | ".join(str(row[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write result.json and result.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="run, exported or imported folder")
    parser.add_argument("--clients", default="1,8,64", help="numbers of clients, with commas")
    parser.add_argument("--requests", type=int, default=256, help="notes per round")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("serve", nargs="*", help="options of r2d serve, after --")
    chosen = parser.parse_args(arguments)
    rows = TriageConfig(train_rows=1, validation_rows=1, test_rows=min(chosen.requests, MAX_REQUESTS))
    texts = [question_text(example) for example in generate(rows, seed=1).test]
    with served(chosen.model, chosen.serve) as (address, said):
        alone, _ = measured(address, texts, 1)
        rounds = []
        for clients in map(int, chosen.clients.split(",")):
            results, figures = measured(address, texts, clients)
            rounds.append(figures | {"differing": differing(results, alone)})
            print(json.dumps(rounds[-1]), flush=True)
    result = {"machine": facts(), "options": chosen.serve, **said, "rounds": rounds}
    write_result(chosen.output, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
