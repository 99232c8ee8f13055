"""Uploaded files while they are worked on; in: rows, out: progress and results, in memory only and for a while."""

import asyncio
import collections
import csv
import dataclasses
import io
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from r2d_jax.serve.answers import failed_row, result_row
from r2d_jax.serve.limits import Limits, Refused
from r2d_jax.serve.metrics import Metrics
from r2d_jax.serve.schema import Answer, UploadState, UploadStatus
from r2d_jax.serve.upload_rows import UploadedRow

_LOG = logging.getLogger(__name__)
# What a spreadsheet takes for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SWEEP_SECS = 15.0


@dataclasses.dataclass
class Upload:
    """One file: its rows until they are done, and their results."""

    upload_id: str
    rows: Sequence[UploadedRow]
    results: list[dict[str, Any] | None]
    state: UploadState = "waiting"
    ended: float | None = None
    task: "asyncio.Task[None] | None" = None

    def status(self) -> UploadStatus:
        """How far it is; labels are counted, texts left out."""
        done = [row for row in self.results if row is not None]
        labels = collections.Counter(row["label"] for row in done if not row["error"])
        return UploadStatus(
            id=self.upload_id,
            state=self.state,
            rows=len(self.results),
            done=len(done),
            faults=sum(bool(row["error"]) for row in done),
            abstained=sum(bool(row["abstained"]) and not row["error"] for row in done),
            labels=dict(labels.most_common()),
        )


class Uploads:
    """All uploads of a server, used from its event loop alone. One is worked on at a time, in the order they came."""

    def __init__(
        self,
        answer: Callable[[str], Awaitable[Answer]],
        *,
        window: int,
        marked: bool,
        limits: Limits,
        metrics: Metrics,
    ):
        """Begin empty.

        Args:
            answer: a note to its answer; raises Refused.
            window: most rows of an upload that are asked for at once, enough to fill the next batch while
                one is computed.
            marked: whether answers say that the model abstains, or does not.
            limits: how many uploads, and how long.
            metrics: told of finished rows.
        """
        self._answer, self._window, self._marked = answer, window, marked
        self._limits, self._metrics = limits, metrics
        self._held: dict[str, Upload] = {}
        self._turn = asyncio.Lock()

    @property
    def held(self) -> int:
        """Uploads in memory."""
        return len(self._held)

    def require_room(self) -> None:
        """Refuse one upload more than are held.

        Raises:
            Refused: 429.
        """
        self._forget_old()
        if len(self._held) >= self._limits.uploads:
            raise Refused(429, "uploads", "Too many uploads are held; delete one, or wait.", 30)

    def begin(self, rows: Sequence[UploadedRow]) -> Upload:
        """Take a file and start on it.

        Raises:
            Refused: 429, too many are held.
        """
        self.require_room()
        upload = Upload(secrets.token_urlsafe(16), rows, [None] * len(rows))
        self._held[upload.upload_id] = upload
        upload.task = asyncio.get_running_loop().create_task(self._run(upload))
        return upload

    def find(self, upload_id: str) -> Upload:
        """The upload of this id.

        Raises:
            Refused: 404, there is none, or none any more.
        """
        self._forget_old()
        try:
            return self._held[upload_id]
        except KeyError:
            raise Refused(404, "upload", "No such upload; results are held for a while only.") from None

    def delete(self, upload_id: str) -> None:
        """Stop work on an upload and forget it.

        Raises:
            Refused: 404.
        """
        upload = self.find(upload_id)
        if upload.task is not None:
            upload.task.cancel()
        del self._held[upload_id]

    async def sweep(self) -> None:
        """Forget what is held too long, again and again; ends when it is cancelled."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECS, self._limits.keep_secs))
            self._forget_old()

    def stop(self) -> None:
        """Stop all work; results so far stay."""
        for upload in self._held.values():
            if upload.task is not None:
                upload.task.cancel()

    def _forget_old(self) -> None:
        now = time.monotonic()
        for upload in list(self._held.values()):
            if upload.ended is not None and now - upload.ended > self._limits.keep_secs:
                del self._held[upload.upload_id]

    async def _run(self, upload: Upload) -> None:
        pending: set[asyncio.Task[None]] = set()
        try:
            async with self._turn:
                upload.state = "running"
                # Rows of like length share a batch.
                order = sorted(range(len(upload.rows)), key=lambda number: -len(upload.rows[number].text))
                for number in order:
                    if len(pending) >= self._window:
                        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    pending.add(asyncio.create_task(self._row(upload, number)))
                while pending:
                    _, pending = await asyncio.wait(pending)
            upload.state = "done"
        except asyncio.CancelledError:
            upload.state = "stopped"
            raise
        finally:
            for task in pending:
                task.cancel()
            # Their texts are needed no more.
            upload.rows = ()
            upload.ended = time.monotonic()

    async def _row(self, upload: Upload, number: int) -> None:
        row = upload.rows[number]
        if row.fault:
            result = self._failed(row, row.fault)
        else:
            try:
                result = result_row(row.row_id, await self._patiently(row.text))
            except Refused as refused:
                result = self._failed(row, refused.reason)
            except Exception:
                _LOG.exception("a row of an upload failed")
                result = self._failed(row, "internal error")
        upload.results[number] = result
        self._metrics.upload_rows.inc()

    def _failed(self, row: UploadedRow, error: str) -> dict[str, Any]:
        return failed_row(row.row_id, error, marked=self._marked)

    async def _patiently(self, text: str) -> Answer:
        while True:
            try:
                return await self._answer(text)
            except Refused as refused:
                if refused.status != 429:
                    raise
            # Single notes have filled the queue; a row can wait.
            await asyncio.sleep(0.1)


def results_text(upload: Upload, form: Literal["jsonl", "csv"]) -> str:
    """Finished rows in the order of the file.

    In CSV a text that begins like a formula gets an apostrophe before it, since spreadsheets would run it;
    JSONL has every text as it is.
    """
    rows = [row for row in upload.results if row is not None]
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0].keys())
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(value)
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return "" if value is None else value
