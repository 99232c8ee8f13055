"""Counts and latencies of a server; in: what happened, out: Prometheus text. No case text passes through here."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server, in a registry of its own so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "r2d_requests", "Answered requests.", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "r2d_request_seconds",
            "From the first byte of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("r2d_refused", "Requests not served.", ["reason"], registry=self.registry)
        self.model_seconds = Histogram(
            "r2d_model_seconds",
            "Of one batch in the model.",
            ["task"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "r2d_batch_rows", "Notes in one batch.", ["task"], buckets=_ROWS, registry=self.registry
        )
        self.queue_seconds = Histogram(
            "r2d_queue_seconds",
            "Of one note, waiting for its batch.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_rows = Gauge("r2d_queue_rows", "Notes that wait for the model.", registry=self.registry)
        self.upload_rows = Counter("r2d_upload_rows", "Finished rows of uploads.", registry=self.registry)
        self.uploads = Gauge("r2d_uploads", "Uploads held in memory.", registry=self.registry)
        self.ready = Gauge("r2d_ready", "1 where notes are answered, else 0.", registry=self.registry)

    def watch(
        self, queued: Callable[[], float], held: Callable[[], float], ready: Callable[[], float]
    ) -> None:
        """Read the three gauges off their sources whenever they are asked for."""
        self.queue_rows.set_function(queued)
        self.uploads.set_function(held)
        self.ready.set_function(ready)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
