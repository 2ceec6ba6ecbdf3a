"""A file server on loopback that misbehaves when told to."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

CONTENT = bytes(range(256)) * 40


@contextlib.contextmanager
def serving() -> Iterator["Server"]:
    """Runs a `Server` in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Server(http.server.ThreadingHTTPServer):
    """A file server on loopback that can be told to misbehave.

    Attributes:
      content: what is served.
      version: its ETag.
      cuts: for each coming answer, how many bytes are sent before the
        connection is closed.
      statuses: for each coming answer, an error status to give instead.
      ranges: whether ranges are honored.
      sized: whether the size is announced.
      asked: the `Range` header of each request so far.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version = CONTENT, '"one"'
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges, self.sized = True, True
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/logs.hdf5"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        content, start = server.content, 0
        fresh = self.headers.get("If-Range") in (None, server.version)
        if wanted and server.ranges and fresh:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        else:
            self.send_response(200)
        if server.sized:
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        sent = server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start : start + sent])

    def log_message(self, *args) -> None:
        del args
