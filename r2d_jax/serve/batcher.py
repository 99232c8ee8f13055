"""Requests put together; in: items from many threads, out: a future each, filled by one thread that runs the model."""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

from r2d_jax.serve.limits import Refused
from r2d_jax.serve.metrics import Metrics

State = Literal["starting", "ready", "stopping", "failed"]
_LOG = logging.getLogger(__name__)
_STARTING_SECS, _BUSY_SECS = 5, 2


@dataclasses.dataclass(frozen=True)
class _Waiting:
    group: Hashable
    item: Any
    future: "concurrent.futures.Future[Any]"
    since: float
    patient: bool


class Batcher:
    """A queue and one thread. Items of one group are worked on together, the oldest first.

    Patient items come after all others: they fill batches up, and have some of their own while nothing else waits.

    A batch goes off when it is full, when its oldest item has waited long enough, or when nothing may be added
    any more. While a batch is computed the next ones gather, so waiting costs nothing under load.
    """

    def __init__(
        self,
        work: Callable[[Hashable, Sequence[Any]], Sequence[Any]],
        *,
        batch_size: int,
        wait_secs: float,
        queue_rows: int,
        metrics: Metrics,
    ):
        """Prepare; nothing runs before `start`.

        Args:
            work: a group and at most batch_size items of it to as many results, in their order.
            batch_size: most items worked on at once.
            wait_secs: how long the oldest item waits for others.
            queue_rows: most items that wait; patient ones take no place from the others.
            metrics: told of batches.
        """
        self._work, self._size, self._wait, self._limit = work, batch_size, wait_secs, queue_rows
        self._metrics = metrics
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._state: State = "starting"
        self._thread: threading.Thread | None = None
        self._prepared = False

    @property
    def state(self) -> State:
        """starting: not compiled yet; ready; stopping: takes nothing more; failed: could not be prepared."""
        return self._state

    @property
    def queued(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def working(self) -> bool:
        """Whether the thread still runs; after `stop`, one that could not be waited for."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self, prepare: Callable[[], None] = lambda: None, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread, which first prepares (compiles), then works.

        Args:
            prepare: called in the thread; items are taken only once it is done.
            on_failure: called where it raises.
        """
        self._thread = threading.Thread(
            target=self._run, args=(prepare, on_failure), name="r2d-model", daemon=True
        )
        self._thread.start()

    def submit(
        self, group: Hashable, item: Any, *, patient: bool = False
    ) -> "concurrent.futures.Future[Any]":
        """Put an item into the queue.

        Args:
            group: of the item.
            item: to be worked on.
            patient: whether all others go before it.

        Raises:
            Refused: 503 before it is ready and once it stops, 429 where the queue is full.
        """
        with self._changed:
            if self._state == "starting":
                raise Refused(503, "starting", "The model is being prepared.", _STARTING_SECS)
            if self._state != "ready":
                raise Refused(503, "stopping", "The server is stopping.", _STARTING_SECS)
            before = len(self._waiting) if patient else sum(not one.patient for one in self._waiting)
            if before >= self._limit:
                raise Refused(429, "queue_full", "Too many notes are waiting.", _BUSY_SECS)
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            self._waiting.append(_Waiting(group, item, future, time.monotonic(), patient))
            self._changed.notify_all()
        return future

    def refuse_soon(self) -> None:
        """Take nothing more; what waits is still worked on. Takes no lock: a signal handler may call it."""
        if self._state != "failed":
            self._state = "stopping"

    def refuse(self) -> None:
        """Take nothing more, and wake the thread up."""
        self.refuse_soon()
        with self._changed:
            self._changed.notify_all()

    def stop(self, timeout_secs: float) -> bool:
        """Take nothing more and wait until all that was taken is done; says whether it is.

        Before it is prepared nothing was taken, so nothing is waited for.
        """
        self.refuse()
        if self._thread is not None and self._prepared:
            self._thread.join(timeout_secs)
        return not self.working

    def _run(self, prepare: Callable[[], None], on_failure: Callable[[], None]) -> None:
        try:
            prepare()
            self._prepared = True
            with self._changed:
                # A stop may have come meanwhile.
                if self._state == "starting":
                    self._state = "ready"
            while batch := self._next():
                self._answer(batch)
        except Exception:
            _LOG.exception("the thread of the model ended")
            with self._changed:
                self._state = "failed"
                left, self._waiting = self._waiting, collections.deque()
            for one in left:
                one.future.cancel()
            on_failure()

    def _next(self) -> list[_Waiting]:
        with self._changed:
            while not self._waiting:
                if self._state != "ready":
                    return []
                self._changed.wait()
            while True:
                # Stable: of those alike in patience the oldest is in front.
                order = sorted(self._waiting, key=lambda one: one.patient)
                oldest = order[0]
                left = oldest.since + self._wait - time.monotonic()
                if self._state != "ready" or self._count(oldest.group) >= self._size or left <= 0:
                    break
                self._changed.wait(left)
            batch: list[_Waiting] = []
            others: list[_Waiting] = []
            for one in order:
                fits = one.group == oldest.group and len(batch) < self._size
                (batch if fits else others).append(one)
            self._waiting = collections.deque(others)
            return batch

    def _count(self, group: Hashable) -> int:
        return sum(one.group == group for one in self._waiting)

    def _answer(self, batch: list[_Waiting]) -> None:
        # One whose sender has gone, or whose time is up, is left out.
        batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
        if not batch:
            return
        for one in batch:
            self._metrics.queue_seconds.observe(time.monotonic() - one.since)
        self._compute(batch)

    def _compute(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        task = str(getattr(batch[0].group, "task", "all"))
        self._metrics.batch_rows.labels(task).observe(len(batch))
        try:
            results = self._work(batch[0].group, [one.item for one in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            _LOG.exception("a batch of %d failed", len(batch))
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # A note that the model stumbles over must not cost the others their answers.
            for one in batch:
                self._compute([one])
            return
        self._metrics.model_seconds.labels(task).observe(time.monotonic() - started)
        for one, result in pairs:
            one.future.set_result(result)
