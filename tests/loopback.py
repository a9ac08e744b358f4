"""An HTTP server on the loopback interface that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("loopback.pem")  # of the hosts of KILT's files, for tests alone
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
TLS.load_cert_chain(CERTIFICATE)


@dataclass
class Loopback:
    """What the server has and does. `asked` holds the Range header of every request ("" for none)."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True  # False: Range is ignored
    announces: bool = True  # False: no Content-Length, the body ends with the connection
    etag: str = '"1"'
    drops: list[int] = field(default_factory=list)  # bytes after which the connection ends, one per request
    statuses: list[int] = field(default_factory=list)  # answered before anything else, one per request
    redirects: dict[str, str] = field(default_factory=dict)  # path: where it has gone
    endless: bool = False  # the body goes on behind its end, in chunks, until the client hangs up
    sent: int = 0  # bytes of endless bodies
    total: str = ""  # said in Content-Range instead of the file's size
    asked: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Loopback]:
    """Serve `files` by path until the block ends."""
    loopback = Loopback(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            loopback.paths.append(self.path)
            loopback.asked.append(self.headers.get("Range", ""))
            if target := loopback.redirects.get(self.path.removeprefix("/")):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
            body = loopback.files.get(
                self.path.partition("://")[2].partition("/")[2] if "://" in self.path else self.path[1:]
            )
            status = loopback.statuses.pop(0) if loopback.statuses else 404 if body is None else 200
            if body is None or status != 200:
                self.send_error(status)
                return
            start = 0
            fresh = self.headers.get("If-Range", loopback.etag) == loopback.etag
            if loopback.ranges and fresh and (asked := self.headers.get("Range")):
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(status)
            if loopback.endless:
                self.send_header("Transfer-Encoding", "chunked")
            elif loopback.announces:
                self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", loopback.etag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{loopback.total or len(body)}")
            self.end_headers()
            if loopback.endless:
                self.go_on()
                return
            stop = start + loopback.drops.pop(0) if loopback.drops else len(body)
            self.wfile.write(body[start:stop])

        def go_on(self) -> None:
            """Send what has no end."""
            block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
            with contextlib.suppress(ConnectionError):
                while loopback.sent < 1 << 30:
                    self.wfile.write(block)
                    loopback.sent += 1 << 16

        def do_CONNECT(self) -> None:
            """Be the host itself, for which this is a proxy, over TLS."""
            self.send_response(200)
            self.end_headers()
            self.connection = TLS.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)  # type: ignore[assignment]
            host = self.path.removesuffix(":443")
            self.raw_requestline = self.rfile.readline()
            if self.parse_request():
                self.path = f"https://{host}{self.path}"
                self.do_GET()
            self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    loopback.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
