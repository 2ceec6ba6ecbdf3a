"""An OpenAI-compatible server on loopback that answers with recorded replies.

    python -m proco_jax.knowledge.replay --port 8080 --from runs/x/replies.jsonl

A run with `--config.knowledge.api_base=http://127.0.0.1:8080/v1` then gets the
replies that an earlier run paid for. Tests use the same server with answers of
their own, good and bad ones.
"""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from absl import app, flags

from proco_jax.common.commands import begin_command
from proco_jax.knowledge.cache import ReplyCache, content_key

_LARGEST_REQUEST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Answer:
    """A response of the server.

    Attributes:
      body: sent as it is.
      status: of HTTP.
      headers: beside type and length.
      wait_s: seconds before the first byte.
      drip_s: seconds between bytes of the body; 0 sends it at once.
      keep: share of the body that is sent before the connection is cut.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wait_s: float = 0.0
    drip_s: float = 0.0
    keep: float = 1.0


Answerer = Callable[[dict[str, Any]], Answer]


def completion(text: str | None, finish: str = "stop", **message: Any) -> Answer:
    """A good answer with this text, in the form of OpenAI's chat completions."""
    body = {
        "id": "replay",
        "object": "chat.completion",
        "created": 0,
        "model": "replay",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
    return Answer(json.dumps(body).encode())


def failure(status: int, reason: str, **headers: str) -> Answer:
    """An error in OpenAI's form; `retry_after="2"` becomes the header Retry-After."""
    body = {"error": {"message": reason, "type": "error", "param": None, "code": str(status)}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps(body).encode(), status, named)


def recorded(path: Path) -> Answerer:
    """Answers from a reply cache, found by the messages.

    Several replies to the same messages, as independent votes give, are served
    in turn.

    Raises:
      ValueError: if the file holds no reply.
    """
    replies: dict[str, list[dict[str, Any]]] = {}
    for record in ReplyCache(path).records():
        replies.setdefault(content_key({"messages": record["messages"]}), []).append(record)
    if not replies:
        raise ValueError(f"{path} holds no recorded reply")
    served = dict.fromkeys(replies, 0)
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> Answer:
        key = content_key({"messages": request.get("messages")})
        if key not in replies:
            return failure(404, "no reply to these messages is recorded")
        with lock:
            record = replies[key][served[key] % len(replies[key])]
            served[key] += 1
        return completion(record["reply"], record.get("finish") or "stop")

    return answer


@contextlib.contextmanager
def serve(answer: Answerer, port: int = 0) -> Iterator[str]:
    """Serves on 127.0.0.1 in threads; yields the address for `api_base`.

    Args:
      answer: request, as the client sent it, to answer.
      port: 0 takes a free one.
    """
    server = _server(answer, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield _address(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_integer("port", 8080, "Port to serve on; 0 takes a free one.")
    flags.DEFINE_string("from", None, "JSON lines file of recorded replies.", required=True)
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Serves the replies until it is interrupted."""
    begin_command(argv)
    values = flags.FLAGS.flag_values_dict()
    path = Path(values["from"])
    try:
        server = _server(recorded(path), values["port"])
    except (ValueError, OSError) as error:
        sys.exit(f"error: cannot replay: {error}")
    print(f"replaying {path} on {_address(server)}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def _address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def _server(answer: Answerer, port: int) -> ThreadingHTTPServer:
    class Handler(_Handler):
        answerer = staticmethod(answer)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    answerer: Answerer

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        if not self.path.endswith("/chat/completions") or size > _LARGEST_REQUEST:
            self._send(failure(404, f"only /v1/chat/completions is served, not {self.path}"))
            return
        try:
            request = json.loads(self.rfile.read(size))
        except ValueError:
            self._send(failure(400, "the request is no JSON"))
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(self.answerer(request))

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.wait_s)
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        body = answer.body[: int(len(answer.body) * answer.keep)]
        if not answer.drip_s:
            self.wfile.write(body)
            return
        for i in range(len(body)):
            self.wfile.write(body[i : i + 1])
            self.wfile.flush()
            time.sleep(answer.drip_s)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet: the requests are the caller's to log."""


if __name__ == "__main__":
    run()
