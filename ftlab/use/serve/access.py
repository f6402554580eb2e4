"""Who may ask, and what a page from here may fetch: a layer around an ASGI application."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any

PASSWORD = "FTLAB_PASSWORD"  # of the environment
HEALTH = "/health"

# Nothing is fetched from elsewhere, whatever a page names: its own files and what it makes itself.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

App = Callable[[Any, Any, Any], Awaitable[None]]


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """:param password: that everybody needs, as a bearer token or in the browser's dialogue under any name, if any.
    :param is_local: whether only this machine is answered, by names of it: a page from elsewhere that gives its own
        name this address (DNS rebinding) gets nothing.
    """

    def __init__(self, app: App, password: str | None, is_local: bool):
        self._app, self._password, self._is_local = app, password, is_local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._is_local and not _names_this_machine(headers.get(b"host", b"").decode("latin-1")):
            await _refuse(scope, send, 421, "This server answers to 127.0.0.1 and localhost alone.")
        elif self._password is not None and scope["path"] != HEALTH and not self._is_known(headers):
            await _refuse(scope, send, 401, f"A password is needed: that of {PASSWORD}, as the API key.")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        assert self._password is not None
        return kind.lower() in (b"bearer", b"basic") and hmac.compare_digest(given, self._password.encode())


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return is_local(name.strip("[]"))


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending


async def _refuse(scope: Any, send: Any, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = json.dumps({"error": {"message": reason, "type": "invalid_request_error", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), *_HEADERS]
    headers += [(b"www-authenticate", b'Basic realm="ftlab"')] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
