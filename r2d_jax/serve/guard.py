"""The outermost layer of a server; in: raw requests, out: those of the right host, token and size, and safe answers."""

import asyncio
import dataclasses
import hmac
import json
import logging
import time
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from r2d_jax.serve.limits import Limits, Refused
from r2d_jax.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger(__name__)
UPLOADS_PATH = "/api/uploads"
INTERNAL = "Internal error; the log of the server says where."
# The page itself holds no case text; it asks for the token where one is needed.
_OPEN = ("/static/", "/health")
_OPEN_WHOLE = ("/", "/openapi.json")
# What machines ask every few seconds. Answered as ever, it would hide all else in a log.
_PROBES = ("/health", "/metrics")
_SAFE_METHODS = ("GET", "HEAD")
# A body over its limit is read on, and thrown away, up to so many times the limit: a client that still sends when
# the connection is closed never sees the answer.
_DRAINED = 8
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def host_name(header: str) -> str:
    """The name in a Host header, without the port and in lower case; brackets of IPv6 stay."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).lower()


@dataclasses.dataclass
class _Answer:
    """The answer to one request as it goes out."""

    send_on: Send
    status: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = HEADERS.keys()
            kept = [pair for pair in message.get("headers", ()) if pair[0].decode("latin-1") not in names]
            message = {**message, "headers": [*kept, *_RAW_HEADERS]}
        await self.send_on(message)

    async def fault(self, status: int, text: str, retry_secs: int | None = None) -> None:
        body = json.dumps({"detail": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if retry_secs is not None:
            headers.append((b"retry-after", str(retry_secs).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class Guard:
    """Wraps the application. Nothing of a request but method, route, status and time is ever logged."""

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        metrics: Metrics,
        hosts: frozenset[str] | None,
        named: frozenset[str] = frozenset(),
        token: str | None,
        access_log: bool = True,
    ):
        """Wrap.

        Args:
            app: what answers.
            limits: of bodies and their arrival.
            metrics: told of every request.
            hosts: names that a Host header may have; None: any.
            named: those that the operator gave; pages of these may send too, for a proxy may write another
                Host header than the browser.
            token: what a request must bear; None: nothing.
            access_log: whether each request gets a line, but for probes of health and metrics that find all well.
        """
        self._app, self._limits, self._metrics = app, limits, metrics
        self._hosts, self._named, self._access_log = hosts, named, access_log
        self._uploading = 0
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass the lifespan on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, answer = time.monotonic(), _Answer(send)
        try:
            self._check(scope)
            body = await self._arrived(scope, receive)
            await self._app(scope, _with_body(body, receive), answer.send)
        except Refused as refused:
            self._metrics.refused.labels(refused.reason).inc()
            await answer.fault(refused.status, refused.text, refused.retry_secs)
        except Exception:
            _LOG.exception("a request failed")
            if not answer.status:
                await answer.fault(500, INTERNAL)
        finally:
            self._note(scope, answer.status, time.monotonic() - started)

    def _check(self, scope: Scope) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        # A page of another name that was made to point here must not read answers.
        if len(hosts) != 1 or (self._hosts is not None and host_name(hosts[0]) not in self._hosts):
            raise Refused(421, "host", "This server is not reached by that name; see --allowed-host.")
        # Nor may another page use the browser to send work.
        for origin in headers.get("origin", []):
            try:
                sender = urllib.parse.urlsplit(origin).netloc.lower()
            except ValueError:
                raise Refused(400, "origin", "The Origin header is not the address of a page.") from None
            if sender != hosts[0].lower() and host_name(sender) not in self._named:
                raise Refused(403, "origin", "Requests of other pages are not served.")
        path = scope["path"]
        if self._token is None or path in _OPEN_WHOLE or path.startswith(_OPEN):
            return
        kind, _, borne = headers.get("authorization", [""])[0].partition(" ")
        same = hmac.compare_digest(borne.strip().encode(), self._token)
        if kind.lower() != "bearer" or not same:
            raise Refused(401, "token", "This server asks for its token, as Authorization: Bearer TOKEN.")

    async def _arrived(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] in _SAFE_METHODS:
            return b""
        if scope["path"] != UPLOADS_PATH:
            return await self._body(scope, receive, self._limits.note_bytes)
        # Files are large: so many at once bounds their memory.
        if self._uploading >= self._limits.uploads:
            raise Refused(429, "uploads", "Too many files arrive at once.", 5)
        self._uploading += 1
        try:
            return await self._body(scope, receive, self._limits.upload_bytes)
        finally:
            self._uploading -= 1

    async def _body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        too_large = Refused(413, "body", f"The request is larger than {most} bytes.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > _DRAINED * most:
            raise too_large
        try:
            async with asyncio.timeout(self._limits.body_secs):
                body, size, more = bytearray(), 0, True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "gone", "The request ended too soon.")
                    piece = message.get("body", b"")
                    size += len(piece)
                    more = message.get("more_body", False)
                    if size <= most:
                        body += piece
                    elif size > _DRAINED * most or not more:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "slow", "The request took too long to arrive.") from None
        return bytes(body)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The path itself may hold anything; the template of the route that served it does not.
        route = getattr(scope.get("route"), "path", "none")
        method = (
            scope["method"]
            if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS")
            else "other"
        )
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if self._access_log and not (status == 200 and route.startswith(_PROBES)):
            _LOG.info("%s %s %d %.0f ms", method, route, status, 1000 * seconds)


def _with_body(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
