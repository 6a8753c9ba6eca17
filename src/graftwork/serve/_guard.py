"""Who is let in: the browser of the person who has the token, on this machine, from the page itself."""

import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOSTS = ("127.0.0.1", "localhost", "::1")
_HEADERS: Mapping[str, str] = {
    # Figures carry their styles in attributes; scripts come from this server alone.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr "
    "'unsafe-inline'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Middleware that refuses whatever a page of somebody else could send.

    * ``Host`` has to name this machine: a name that is bound to it anew (DNS rebinding) is refused.
    * The token has to come, once in the address and from then on in a cookie that scripts can't read and other sites
      don't send.
    * What changes something is a POST whose ``Origin`` is this server.

    Args:
        app: What is guarded.
        token: Secret of this server.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """What is answered in the place of the page; None where it is let through."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, method = headers.get("host", ""), scope["method"]
        if _host_name(host) not in _HOSTS:
            return _refused(f"host: expected this machine, 127.0.0.1 or localhost, got {ascii(host)[:80]}")
        if method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("expected GET or POST", 405, {"allow": "GET, HEAD, POST"})
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given and method == "GET":
            return self._entrance(scope["path"], given[0], host)
        if not self._is_known(_cookie(headers.get("cookie", ""), _cookie_name(host))):
            return _refused("token: expected that of this server; open the address that graftwork serve printed")
        if method == "POST" and headers.get("origin") != f"http://{host}":
            return _refused("origin: expected a form of this page")
        return None

    def _entrance(self, path: str, token: str, host: str) -> ASGIApp:
        if not self._is_known(token):
            return _refused("token: expected that of this server; it is another one after each start")
        response = RedirectResponse("/" + path.lstrip("/"), 303)
        response.set_cookie(_cookie_name(host), token, httponly=True, samesite="strict")
        return response

    def _is_known(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie_name(host: str) -> str:
    """Browsers keep cookies by host, whatever the port: two servers need two names."""
    return f"graftwork-{host.rpartition(':')[2]}" if host.rpartition(":")[2].isdigit() else "graftwork"


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _refused(text: str) -> ASGIApp:
    return PlainTextResponse(text, 403)
