"""Everything that the routes call; in: notes and uploads, out: their answers, through one queue and one model."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from r2d_jax.data.mentions import is_blank
from r2d_jax.serve import answers
from r2d_jax.serve.batcher import Batcher
from r2d_jax.serve.limits import Limits, Refused
from r2d_jax.serve.logs import quiet_loop
from r2d_jax.serve.metrics import Metrics
from r2d_jax.serve.schema import Answer, ModelFacts, WhatIfAnswer
from r2d_jax.serve.served_model import Outcome, ServedModel, ServedNote
from r2d_jax.serve.uploads import Uploads


class Service:
    """A model with its queue and its uploads."""

    def __init__(
        self,
        model: ServedModel,
        limits: Limits,
        *,
        wait_secs: float = 0.01,
        grace_secs: float = 30.0,
        prepare: Callable[[], None] | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        """Put the parts together; nothing runs before `running`.

        Args:
            model: answers batches.
            limits: what is taken.
            wait_secs: how long a note waits for others to share its batch.
            grace_secs: how long a stop waits for what is in work, from `refuse` or else from the end of `running` on.
            prepare: compiles, in the model's thread, before anything is answered; None: `model.warm`.
            on_failure: called where that fails.
        """
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self._prepare, self._on_failure, self._grace = prepare or model.warm, on_failure, grace_secs
        self.batcher = Batcher(
            model.work,
            batch_size=model.sizes[-1],
            wait_secs=wait_secs,
            queue_rows=limits.queue_rows,
            metrics=self.metrics,
        )
        self.uploads = Uploads(
            functools.partial(self._answer_text, of_file=True),
            window=2 * model.sizes[-1],
            marked=model.calibration is not None and model.calibration.target_risk is not None,
            limits=limits,
            metrics=self.metrics,
        )
        self.metrics.watch(
            lambda: self.batcher.queued,
            lambda: self.uploads.held,
            lambda: float(self.batcher.state == "ready"),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_by: float | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work from here to the end of the block, then finish what was taken."""
        self._loop = asyncio.get_running_loop()
        quiet_loop(self._loop)
        self.batcher.start(self._prepare, self._on_failure)
        sweeping = self._loop.create_task(self.uploads.sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            self.uploads.stop()
            # The server has waited for its connections since it was told to stop; that is no time of its own.
            left = self._grace if self._stop_by is None else max(0.0, self._stop_by - time.monotonic())
            await run_in_threadpool(self.batcher.stop, left)

    def refuse(self) -> None:
        """Take nothing more; the time of a stop runs from the first call on. May be called by a signal handler."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._grace
        self.batcher.refuse_soon()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.uploads.stop)

    def facts(self) -> ModelFacts:
        """What is served."""
        return answers.facts_of(self.model, self.limits)

    def checked_text(self, question: str, context: str) -> str:
        """Question and context as one text.

        Raises:
            Refused: 422 for a blank question, 413 for too long a note.
        """
        text = answers.note_text(question, context)
        _require_whole(text, "question and context")
        if is_blank(question):
            raise Refused(422, "blank", "question: is blank.")
        if len(text) > self.limits.note_characters:
            most = self.limits.note_characters
            raise Refused(413, "note", f"question and context: together longer than {most} characters.")
        return text

    async def answer(self, question: str, context: str, *, explain: bool) -> Answer:
        """The answer to one note.

        Raises:
            Refused: the note, the queue or the time is over a limit.
        """
        return await self._answer_text(self.checked_text(question, context), explain=explain)

    async def _answer_text(self, text: str, *, explain: bool = True, of_file: bool = False) -> Answer:
        item: ServedNote = await run_in_threadpool(self.model.prepare, text, explain=explain)
        outcome = await self._outcome(item, of_file=of_file)
        return await run_in_threadpool(answers.answer_of, self.model, text, item, outcome)

    async def what_if(self, question: str, context: str, label: str) -> WhatIfAnswer:
        """The rationale of a note under a given label.

        Raises:
            Refused: as `answer`; 409 where the model's rationales do not follow a label, 422 for the label.
        """
        if not self.model.follows_labels:
            raise Refused(409, "what_if", "This model writes no rationale for a given label.")
        text = self.checked_text(question, context)
        _require_whole(label, "label")
        if is_blank(label) or len(label) > self.limits.note_characters:
            raise Refused(422, "blank_label", "label: is blank or too long.")
        item: ServedNote = await run_in_threadpool(self.model.prepare, text, label=label)
        outcome = await self._outcome(item)
        return await run_in_threadpool(answers.what_if_of, self.model, text, label, item, outcome)

    async def _outcome(self, item: ServedNote, *, of_file: bool = False) -> Outcome:
        future = self.batcher.submit(item.group, item, patient=of_file)
        try:
            # Nobody waits at a connection for a row of a file, and a file can be deleted.
            async with asyncio.timeout(None if of_file else self.limits.answer_secs):
                result: Any = await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refused(503, "slow_model", "The answer took too long.", 10) from None
        return result


def _require_whole(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can hold what no text can.
        raise Refused(422, "surrogate", f"{field}: holds half of a character pair.") from None
