"""The live page: a server on this machine's loopback that shows the runs of a watcher, and nothing else."""

import hashlib
import json
import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from parle.errors import SetupError
from parle.reports.watching import Watcher, shown

PORT = 8417
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("watch.html", "text/html"),
    "/look.css": ("look.css", "text/css"),
    "/watch.css": ("watch.css", "text/css"),
    "/watch.js": ("watch.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def server_for(watcher: Watcher, port: int | None = None) -> ThreadingHTTPServer:
    """A server of the page, bound to 127.0.0.1; without a port it takes its usual one, or a free one where that is taken.

    Raises SetupError where a port that was asked for is taken.
    """

    class Handler(_Handler):
        followed = watcher

    for number in (PORT, 0) if port is None else (port,):
        try:
            return _Server(("127.0.0.1", number), Handler)
        except OSError as error:
            if number and port is None:
                continue
            raise SetupError(f"Port {number} of 127.0.0.1 cannot be used: {error.strerror}. Choose another --port, or leave it away for a free one.") from error
    raise AssertionError("unreachable")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A browser that went away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers a few fixed paths; nothing that is asked for ever becomes the name of a file."""

    followed: Watcher
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "parle", ""
    timeout = 30  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        """Answer with a file of the page, or with the present state of the runs."""
        if not LOOPBACK.fullmatch(self.headers.get("Host", "")):  # else a page from elsewhere could read along, by a name that it makes point here
            self._answer(HTTPStatus.FORBIDDEN, b"This page is for 127.0.0.1 and localhost.\n", "text/plain")
        elif self.path == "/state":
            stories = self.followed.look()
            body = json.dumps({"runs": shown(stories), "waiting_for": "" if stories else self.followed.waiting_for}, allow_nan=False).encode()
            self._answer(HTTPStatus.OK, body, "application/json")
        elif self.path in FILES:
            name, kind = FILES[self.path]
            self._answer(HTTPStatus.OK, (STATIC / name).read_bytes(), kind)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"There is no such page here.\n", "text/plain")

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Requests are not worth a line."""

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        same = status == HTTPStatus.OK and self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if same else status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", "0" if same else str(len(body)))
        self.end_headers()
        if not same and self.command != "HEAD":
            self.wfile.write(body)
