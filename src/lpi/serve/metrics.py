"""What Prometheus is told: requests, batches, queues, and what is searched. Each app counts for itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("lpi_requests", "Requests answered.", ["route", "method", "status"], registry=registry)
        self.seconds = Histogram(
            "lpi_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_sizes = Histogram(
            "lpi_batch_size", "Questions of a batch.", ["work"], buckets=SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "lpi_batch_seconds", "What a batch took.", ["work"], buckets=SECONDS, registry=registry
        )
        self.refreshes = Counter("lpi_refreshes", "Changes of the index that were taken over.", registry=registry)
        self.refresh_failures = Counter("lpi_refresh_failures", "Changes that couldn't be.", registry=registry)
        self._queue = Gauge("lpi_queue", "Questions that wait.", ["work"], registry=registry)
        self._pictures = Gauge("lpi_pictures", "Pictures that can be found.", registry=registry)
        self._stage = Gauge("lpi_stage", "The current stage.", registry=registry)

    def batch(self, work: str, size: int, seconds: float) -> None:
        """Count a batch of questions that was answered, and its seconds."""
        self.batch_sizes.labels(work).observe(size)
        self.batch_seconds.labels(work).observe(seconds)

    def watch(
        self, queues: dict[str, Callable[[], float]], pictures: Callable[[], float], stage: Callable[[], float]
    ) -> None:
        """Register where queue lengths, pictures and stage are looked up when Prometheus asks."""
        for work, length in queues.items():
            self._queue.labels(work).set_function(length)
        self._pictures.set_function(pictures)
        self._stage.set_function(stage)

    def text(self) -> bytes:
        """All figures in Prometheus' own format."""
        return generate_latest(self.registry)


class Measured:
    """Counts and times every request by its route, never by what a client made up.

    Args:
        app: what it stands before.
        metrics: where to count.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)
