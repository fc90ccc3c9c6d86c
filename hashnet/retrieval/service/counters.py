"""Counters of the service, as Prometheus reads them."""

import time
from collections.abc import Callable, Mapping

import prometheus_client
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hashnet.retrieval.service.work_queue import WorkQueue

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Counters:
    """What is counted of one service.

    Args:
        num_images: function that gives the number of images in the index.
        queues: dict of name to `WorkQueue`.
    """

    def __init__(self, num_images: Callable[[], int], queues: Mapping[str, WorkQueue]) -> None:
        registry = prometheus_client.CollectorRegistry()
        self._registry = registry
        self._requests = prometheus_client.Counter(
            "hashnet_requests", "Answers given", ["endpoint", "status"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "hashnet_request_seconds", "From request to answer", ["endpoint"], registry=registry
        )
        self._stages = prometheus_client.Histogram(
            "hashnet_stage_seconds",
            "Stages of searches",
            ["stage"],
            buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=registry,
        )
        images = prometheus_client.Gauge("hashnet_images", "Images in the index", registry=registry)
        images.set_function(num_images)
        size = prometheus_client.Gauge(
            "hashnet_queue", "Work waiting or being done", ["queue"], registry=registry
        )
        for name, queue in queues.items():
            size.labels(name).set_function(queue.size)

    def text(self) -> bytes:
        """All counters, of the type `CONTENT_TYPE`."""
        return prometheus_client.generate_latest(self._registry)

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one answer.

        Args:
            endpoint: str, what was asked.
            status: int, of HTTP.
            seconds: float, from request to answer.
        """
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def count_stages(self, milliseconds: Mapping[str, float | None]) -> None:
        """Count the times of one search.

        Args:
            milliseconds: as of a `SearchResult`.
        """
        for stage, time_taken in milliseconds.items():
            if time_taken is not None:
                self._stages.labels(stage).observe(time_taken / 1000)


class Counted:
    """Counts requests; endpoints by the names of their functions, so that they stay few.

    Args:
        app: the ASGI application inside.
        counters: `Counters`.
    """

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 499  # the client went away

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._counters.count(endpoint, status, time.perf_counter() - start)
        return None
