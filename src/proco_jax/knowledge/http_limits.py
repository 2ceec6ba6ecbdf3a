"""Limits on what a language model's server may send, for the HTTP clients that litellm makes.

Imported only together with litellm, which brings httpx.
"""

import json
import zlib
from typing import Any

import httpx

MAX_BODY = 8_000_000


class ResponseRefused(Exception):
    """A response that is not read further; the message says why.

    Attributes:
      final: whether the same request would be refused again.
    """

    def __init__(self, reason: str, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class LimitedTransport(httpx.AsyncBaseTransport):
    """Sends requests through another transport and limits the responses.

    A body is refused as soon as more than `max_body` bytes of it are decompressed, and a redirect
    to another origin before it is followed, since it would hand the prompt to another server.
    Message content that comes as a list of parts becomes their text, since litellm accepts
    nothing else.

    Args:
      inner: the transport that sends.
      max_body: bytes of a decompressed body.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, max_body: int = MAX_BODY) -> None:
        self._inner = inner
        self._max_body = max_body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "gzip, deflate"
        response = await self._inner.handle_async_request(request)
        try:
            _check_redirect(request, response)
            body = await self._read(response)
        finally:
            await response.aclose()
        # The body is passed on decompressed and whole.
        changed = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in changed]
        return httpx.Response(response.status_code, headers=headers, content=_parts_joined(body))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        decompress = _decompressor(response.headers.get("Content-Encoding", ""))
        body = bytearray()
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            if decompress is not None:
                try:
                    # One byte more than allowed tells that there is more.
                    chunk = decompress.decompress(chunk, self._max_body + 1 - len(body))
                except zlib.error as error:
                    reason = f"the compressed reply is damaged: {error}"
                    raise ResponseRefused(reason, False) from None
            body += chunk
            if len(body) > self._max_body:
                reason = f"the reply has more than {self._max_body} bytes, which is the limit"
                raise ResponseRefused(reason, False)
        return bytes(body)


def limit_litellm() -> None:
    """Makes every asynchronous HTTP client of litellm send through a `LimitedTransport`."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    original = AsyncHTTPHandler.create_async_transport

    def limited(*args: Any, **kwargs: Any) -> LimitedTransport:
        return LimitedTransport(original(*args, **kwargs) or httpx.AsyncHTTPTransport())

    AsyncHTTPHandler.create_async_transport = staticmethod(limited)  # type: ignore[assignment]


def _check_redirect(request: httpx.Request, response: httpx.Response) -> None:
    location = response.headers.get("Location")
    if not 300 <= response.status_code < 400 or location is None:
        return
    try:
        old, new = request.url, request.url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise ResponseRefused("the server redirects to an invalid address", True) from None
    same = (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port)
    upgraded = old.host == new.host and (old.scheme, new.scheme) == ("http", "https")
    if not same and not upgraded:
        raise ResponseRefused(
            f"{_origin(old)} redirects to {_origin(new)}; a redirect to another server is not"
            " followed, since it would send the prompt there; if this is intended, give the new"
            " address as --config.knowledge.api_base",
            True,
        )


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")


def _decompressor(encoding: str) -> Any:
    """An object that decompresses this content encoding; None for an encoding that is none."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if name == "deflate":
        return zlib.decompressobj()
    raise ResponseRefused(
        f"the reply is compressed as {encoding!r}; expected gzip or deflate", True
    )


def _parts_joined(body: bytes) -> bytes:
    """A chat completion whose messages have text for content; any other body as it is."""
    try:
        found = json.loads(body)
        lists = [
            c["message"] for c in found["choices"] if isinstance(c["message"]["content"], list)
        ]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return body
    for message in lists:
        texts = [part.get("text") for part in message["content"] if isinstance(part, dict)]
        message["content"] = "".join(text for text in texts if isinstance(text, str))
    return json.dumps(found).encode() if lists else body
