"""A stand-in for the Hugging Face Hub on loopback, which can be told to misbehave."""

import contextlib
import hashlib
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
    """Serves one file under every name.

    Attributes:
      content: of the file.
      sha256: that the server states; None for that of the content.
      cuts: for each coming answer, how many bytes are sent before the
        connection is closed.
      status: an error status to answer every request with; 0 for none.
      reason: the Hub's own name of that error.
      asked: method, path and `Range` header of each request so far.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.sha256: str | None = None
        self.cuts: list[int] = []
        self.status, self.reason = 0, ""
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content, start = self.server.content, self._answer()
        if start is not None:
            cuts = self.server.cuts
            sent = cuts.pop(0) if cuts else len(content)
            self.wfile.write(content[start : start + sent])

    def _answer(self) -> int | None:
        """Sends the headers; returns where the content starts, None after an error status."""
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.command, self.path, wanted))
        if server.status:
            self.send_response(server.status)
            self.send_header("X-Error-Code", server.reason)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        content = server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{server.sha256 or hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        return start

    def log_message(self, *args) -> None:
        del args
