"""One large file over HTTP: continued after a cut, checked for size, renamed when whole."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import write_text
from proco_jax.common.progress import progress
from proco_jax.data.checks import DataError

BLOCK = 1 << 20
TIMEOUT_S = 60.0


class _Answer(NamedTuple):
    """A reply: where its body starts in the file, the file's size and version."""

    start: int
    total: int
    version: str


def download(
    url: str, target: Path, log: Callable[[str], None], tries: int = 5, pause_s: float = 2.0
) -> None:
    """Downloads `url` to `target`, unless it is there already.

    What was received is kept as `<target>.part` when the connection breaks or
    the process is killed, and the next call, or the next of the `tries`,
    continues from there. If the server's file has changed meanwhile, the
    download starts anew.

    Raises:
      DataError: if the server can't be reached, doesn't have the file, or
        sends less than it announced on every try.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    problem: Exception | None = None
    for attempt in range(tries):
        if attempt:
            log(f"the connection broke ({problem}); trying again, {attempt + 1} of {tries}")
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            total = _fetch(url, part, log)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (408, 416, 429) and error.code < 500:
                raise DataError(_refused(url, error)) from error
            problem = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        else:
            size = part.stat().st_size
            if size == total:
                part.replace(target)
                _version_file(part).unlink(missing_ok=True)
                return
            problem = DataError(f"received {size:,} of {total:,} bytes")
    raise DataError(_broken(url, part, problem)) from problem


def _fetch(url: str, part: Path, log: Callable[[str], None]) -> int:
    """One connection: appends to the part what is missing; returns the whole file's size."""
    have = part.stat().st_size if part.exists() else 0
    version_file = _version_file(part)
    version = version_file.read_text() if have and version_file.exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "proco-jax"})
    if have and version:
        # With If-Range, a file that has changed comes whole and not its rest.
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return have
            part.unlink(missing_ok=True)
        raise
    with response:
        answer = _read_headers(response, url, have)
        write_text(version_file, answer.version)
        with open(part, "ab") as out:
            out.truncate(answer.start)
            with progress(f"downloading {part.stem}", answer.total, log, answer.start) as advance:
                while block := response.read(BLOCK):
                    out.write(block)
                    advance(len(block))
    return answer.total


def _read_headers(response: Any, url: str, have: int) -> _Answer:
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if version.startswith("W/"):
        version = headers.get("Last-Modified") or ""
    if response.status == 206:
        span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if start.isdigit() and total.isdigit() and int(start) <= have:
            return _Answer(int(start), int(total), version)
        raise DataError(f"{url}: unusable Content-Range {headers.get('Content-Range')!r}")
    length = headers.get("Content-Length", "")
    if not length.isdigit():
        raise DataError(
            f"{url}: the server doesn't say how large the file is, so it can't be checked; "
            f"{_by_hand(url)}"
        )
    return _Answer(0, int(length), version)


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _refused(url: str, error: urllib.error.HTTPError) -> str:
    return (
        f"the server answered {error.code} {error.reason} for {url}; "
        f"the file may have moved: {_by_hand(url)}"
    )


def _broken(url: str, part: Path, problem: Exception | None) -> str:
    kept = part.stat().st_size if part.exists() else 0
    reason = getattr(problem, "reason", problem)
    if not kept:
        return f"can't reach {url}: {reason}. Is there a network? Otherwise, {_by_hand(url)}"
    return (
        f"the download of {url} broke off: {reason}. {kept:,} bytes are kept in {part}; "
        f"run the same command again to continue, or {_by_hand(url)}"
    )


def _by_hand(url: str) -> str:
    return f"fetch {url} by other means and give its path as the source, dsrl:PATH"
