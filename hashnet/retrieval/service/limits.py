"""What every request must keep to, and what every answer carries.

An ASGI application around another: it sees a request before anything of it is parsed.
"""

import asyncio
import ipaddress
import json
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = "1"  # seconds
# A client that sends more than it may is heard out for a moment, so that it reads the answer.
DRAIN_SECONDS = 1.0

_ANSWER_HEADERS = {
    # Asked for again each time: else a browser guesses how long, and mixes scripts of two versions.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Limits:
    """Refuses requests that are too large, too slow, or not meant for this service.

    Args:
        app: the ASGI application inside.
        hosts: collection of str. Names that the service answers to, besides `localhost` and
            addresses in numbers: a page of another site that points its own name here finds none.
        body_bytes: int. Of one request.
        bodies_bytes: int. Of all requests that are being read or answered.
        body_seconds: float. For a body to come in.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] = (),
        body_bytes: int,
        bodies_bytes: int,
        body_seconds: float,
    ) -> None:
        self._app, self._hosts = app, {host.lower() for host in hosts}
        self._body_bytes, self._bodies_bytes = body_bytes, bodies_bytes
        self._body_seconds = body_seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(self, receive, expects="expect" in headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer_headers = MutableHeaders(scope=message)
                for name, value in _ANSWER_HEADERS.items():
                    answer_headers.setdefault(name, value)
                if not body.complete and _has_body(headers):
                    answer_headers["connection"] = "close"
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                status, reason = refusal
                if status == 413:
                    await body.drain()
                await _answer(answer, status, reason)
            else:
                # Nothing here has ranges to give; answering in whole is always allowed.
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"range"]
                await self._app(scope, body.receive, answer)
        finally:
            self._held -= body.held

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._answers_to(hosts[0]):
            return 400, "This service answers to another host name; see --allow-host."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != hosts[0]:
            return 403, "Pages of other sites may not use this service."
        if "," in headers.get("range", ""):
            return 416, "One range at most."
        raw = scope.get("raw_path") or b""
        if b"%00" in raw or len(raw) > 8192:
            return 404, "There is nothing of this name."
        length = headers.get("content-length")
        if length is not None and int(length) > self._body_bytes:
            return 413, self.too_large
        return None

    def _answers_to(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.lower().rstrip(".")
        if name == "localhost" or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    @property
    def too_large(self) -> str:
        """str, what is answered to a request that is too large."""
        return f"A request has {self._body_bytes} bytes at most."


class _Body:
    """The body of one request on its way in."""

    def __init__(self, limits: Limits, receive: Receive, expects: bool) -> None:
        self._limits, self._receive, self._expects = limits, receive, expects
        self._deadline = time.monotonic() + limits._body_seconds
        self.held, self.complete = 0, False

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        limits = self._limits
        try:
            message = await asyncio.wait_for(
                self._receive(), max(0.0, self._deadline - time.monotonic())
            )
        except TimeoutError as error:
            raise HTTPException(408, f"A request comes in {limits._body_seconds:g} s.") from error
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.held += size
            limits._held += size
            self.complete = not message.get("more_body", False)
            if self.held > limits._body_bytes:
                await self.drain()
                raise HTTPException(413, limits.too_large)
            if limits._held > limits._bodies_bytes:
                raise HTTPException(503, "The service is busy.", {"Retry-After": RETRY_AFTER})
        return message

    async def drain(self) -> None:
        """Read on for a moment without keeping anything."""
        if self._expects:  # such a client sends nothing before it is told to
            return
        deadline = time.monotonic() + DRAIN_SECONDS
        while not self.complete and (left := deadline - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except TimeoutError:
                return
            self.complete = message["type"] != "http.request" or not message.get("more_body")


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _answer(send: Send, status: int, reason: str) -> None:
    content = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
