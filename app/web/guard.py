"""What stands before every request of the page: password, same origin, and the headers that keep it on this machine."""

import base64
import binascii
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = "assistant"
# Nothing is loaded from elsewhere and nothing is sent elsewhere: what is said here stays here.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; frame-ancestors 'self'"
)


class Guard:
    """ASGI middleware. A password is asked for once (HTTP basic); a cookie then opens the WebSocket too.

    Programs may bring USER:PASSWORD as their key (bearer) instead.
    """

    def __init__(self, app: ASGIApp, *, auth: str | None, hosts: Iterable[str] = (), free: Iterable[str] = ()) -> None:
        """`auth`: USER:PASSWORD or None. `hosts`: the host names that are answered; empty: all of them.

        `free`: paths that ask for no password.
        """
        self._app = app
        self._auth = auth.encode() if auth else None
        self._hosts, self._free = frozenset(hosts), frozenset(free)
        self._token = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._hosts and _host(f"//{headers.get('host', '')}") not in self._hosts:
            await _refuse(scope, receive, send, 421, "this address is not served here")
        elif scope["type"] == "websocket" and not _same_origin(headers):
            await _refuse(scope, receive, send, 403, "the page of another site may not talk here")
        elif scope["path"] not in self._free and not self._known(headers):
            await _refuse(scope, receive, send, 401, "user name and password, please")
        else:
            await self._app(scope, receive, self._with_headers(scope, send))

    def _known(self, headers: Headers) -> bool:
        if self._auth is None:
            return True
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                return secrets.compare_digest(base64.b64decode(value, validate=True), self._auth)
            except (binascii.Error, ValueError):
                return False
        if kind.lower() == "bearer":
            return secrets.compare_digest(value.encode(), self._auth)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(cookie.value, self._token)

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        if scope["type"] == "websocket":
            return send
        cookie = f"{_COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        if scope["scheme"] == "https":
            cookie += "; Secure"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                if self._auth and scope["path"] not in self._free:
                    headers.append("set-cookie", cookie)
            await send(message)

        return sending


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _same_origin(headers: Headers) -> bool:
    """Browsers name the page's origin; other programs name none."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="assistant", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
