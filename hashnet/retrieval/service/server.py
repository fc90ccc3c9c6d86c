"""The process of the service: its socket, its slow clients, its end."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hashnet import system
from hashnet.errors import ArgumentError, HashnetError
from hashnet.retrieval.service.app import create_app
from hashnet.retrieval.service.settings import Settings

HEADER_BYTES = 32 * 2**10
HEADER_SECONDS = 10.0
CONNECTIONS = 1000
# Of one address, so that no client keeps all others out; a proxy is one, too.
CONNECTIONS_A_CLIENT = 250
# Whoever is sent something takes some of it in each so many seconds.
SENDING_SECONDS = 10.0
LEAST_TAKEN = 4 * 2**10
# What is being answered when the service is told to stop gets so long to be finished.
STOP_SECONDS = 30

MOST_TOKEN = 4096  # characters

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b'content-length: 44\r\n\r\n{"error": "The request came in too slowly."}'
)


def address_of(client: tuple[str, int] | None) -> str:
    """Whose connection it is.

    Args:
        client: (host, port) in numbers, or None where that is not known.

    Returns:
        str: the host; of IPv6 its network of 64 bits, of which one client may have all addresses.

    Example:
        >>> address_of(("127.0.0.1", 8000)), address_of(("2001:db8::1", 80))
        ('127.0.0.1', '2001:db8::')
    """
    host = client[0].partition("%")[0] if client else ""
    if ":" not in host:
        return host
    network = ipaddress.ip_network((ipaddress.IPv6Address(host), 64), strict=False)
    return str(network.network_address)


class _Connection(H11Protocol):
    """A connection that must send the head of each request within a time, and take its answer.

    uvicorn waits for both for ever, so that idle clients could take all the connections there are.
    """

    _head: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _num_drained = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = address_of(self.client)
        others = (one for one in self.connections if isinstance(one, _Connection))
        of_client = sum(address_of(one.client) == address for one in others)
        if len(self.connections) > CONNECTIONS or of_client > CONNECTIONS_A_CLIENT:
            transport.abort()
            return
        self._await_head()
        self._watch_sending(None)

    def data_received(self, data: bytes) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._head is None:
            self._await_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._sending is not None:
            self._sending.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._num_drained += 1
        super().resume_writing()

    def _watch_sending(self, before: tuple[int, int, object] | None) -> None:
        """Cut off a client that takes nothing of what it was sent, and look again later."""
        unsent = self.transport.get_write_buffer_size()
        now = unsent, self._num_drained, self.cycle
        if before is not None and unsent and now[1:] == before[1:]:
            if before[0] and unsent > before[0] - LEAST_TAKEN:
                self.transport.abort()
                return
        self._sending = self.loop.call_later(SENDING_SECONDS, self._watch_sending, now)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        self.transport.write(_TOO_SLOW)
        self.transport.close()


class _Server(uvicorn.Server):
    """Finishes what is being answered when it is told to stop, and ends at once if told again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: str, a name or an address in numbers.
        port: int, 0 for a free one.

    Returns:
        socket.socket.

    Raises:
        ArgumentError: there is no such port.
        HashnetError: the port is taken or not allowed, or there is no such host.
    """
    if port > 65535:  # some systems would take the rest of it
        raise ArgumentError("A port is a number from 0 to 65535.", f"port={port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends at once only over sockets that say they are TCP; others wait for the
        # client's acknowledgement, 40 ms an answer.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            system.take_address(listening)
            listening.bind(address)
            listening.listen(512)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise HashnetError(
            "A service needs an address that is free.",
            f"{host}, port {port}: {getattr(error, 'strerror', None) or error}",
            "Stop what uses it, or give another --host or --port.",
        ) from error
    return listening


def serve(
    place: str | os.PathLike[str],
    *,
    host: str,
    port: int,
    settings: Settings,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve an index until SIGTERM or SIGINT; what is being answered then is finished.

    A second one ends it at once. What is on disk is whole at any moment.

    Args:
        place: str or path-like, the folder of the index, or the URL of its table.
        host: str. Where to listen; only this machine can reach 127.0.0.1.
        port: int; 0 takes a free one.
        settings: a `Settings`.
        ready: called with the URL once connections are accepted.

    Raises:
        HashnetError: the address is taken, or the index cannot be served.
    """
    with listen(host, port) as listening:
        app = create_app(place, settings)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        server = _Server(config)
        if ready:
            name, number = listening.getsockname()[:2]
            ready(f"http://{f'[{name}]' if ':' in name else name}:{number}/")
        asyncio.run(server.serve([listening]))


def token_from(path: str | None) -> str | None:
    """The token of a file's first line, or of HASHNET_TOKEN, or None.

    Args:
        path: str, a file; or None.

    Returns:
        str; None where neither is given.

    Raises:
        HashnetError: the file cannot be read, or the token is short enough to guess.
    """
    token = os.environ.get("HASHNET_TOKEN")
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                token = file.readline(MOST_TOKEN + 1).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HashnetError(
                "A token is the first line of a file.", f"{path}: {error}"
            ) from error
    elif not token:
        return None
    if not 16 <= len(token) <= MOST_TOKEN or not (token.isascii() and token.isprintable()):
        raise HashnetError(
            f"A token has 16 printable characters of ASCII or more, so that nobody guesses it, and "
            f"{MOST_TOKEN} at most.",
            f"{len(token)} characters",
            "Make one with `openssl rand -hex 16`.",
        )
    return token
