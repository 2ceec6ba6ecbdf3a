import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from proco_jax.knowledge.cache import ReplyCache, content_key

WRITER = """
import sys
from pathlib import Path
from proco_jax.knowledge.cache import ReplyCache
cache = ReplyCache(Path(sys.argv[1]))
for i in range(50):
    cache.put({"key": f"{sys.argv[2]}-{i}", "reply": "x" * 5000})
"""


def test_replies_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replies.jsonl"
    ReplyCache(path).put({"key": "a", "reply": "yes", "usd": 0.1})
    assert ReplyCache(path).get("a") == {"key": "a", "reply": "yes", "usd": 0.1}
    assert ReplyCache(path).get("b") is None
    assert ReplyCache(tmp_path / "none").get("a") is None


def test_the_key_depends_on_content_only() -> None:
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_what_another_run_wrote_is_seen(tmp_path: Path) -> None:
    first, second = ReplyCache(tmp_path / "r.jsonl"), ReplyCache(tmp_path / "r.jsonl")
    assert first.get("a") is None
    second.put({"key": "a", "reply": "yes"})
    first.put({"key": "b", "reply": "no"})
    assert first.get("a") is not None and second.get("b") is not None
    assert [r["key"] for r in ReplyCache(first.path).records()] == ["a", "b"]


@pytest.mark.parametrize(
    "bad",
    [
        b"{broken\n",
        b"[]\n",
        b'{"key": 1, "reply": "x"}\n',
        b"\xff\xfe\n",
        b'{"key": "x"}\n',
        b"[" * 100_000 + b"\n",
        b'{"key": ' * 50_000 + b"\n",
        b'{"key": "b", "reply": "x", "usd": ' + b"9" * 5000 + b"}\n",
    ],
    ids=range(8),
)
def test_a_corrupted_line_is_skipped_with_a_warning(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "r.jsonl"
    ReplyCache(path).put({"key": "a", "reply": "yes"})
    path.write_bytes(path.read_bytes() + bad)
    ReplyCache(path).put({"key": "b", "reply": "no"})
    cache = ReplyCache(path)
    with pytest.warns(UserWarning, match="skipped a line"):
        assert cache.get("b") == {"key": "b", "reply": "no"}
    assert cache.get("a") is not None


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_a_flipped_bit_changes_no_reply(tmp_path: Path, at: int) -> None:
    path = tmp_path / "r.jsonl"
    record = {"key": "a", "reply": '{"rule": "nearest(x) <= 0.25 m"}', "finish": "stop"}
    for key in ("a", "b"):
        ReplyCache(path).put({**record, "key": key})
    content = path.read_bytes()
    for bit in range(8):
        spoiled = bytearray(content)
        spoiled[at] ^= 1 << bit
        path.write_bytes(spoiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ReplyCache(path).get("a")
            assert found is None or record.items() <= found.items()
            assert at < len(content) // 2 - 1 or found == record


def test_lines_without_a_digest_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": "a", "reply": "yes"}\n')
    assert ReplyCache(path).get("a") == {"key": "a", "reply": "yes"}


def test_a_write_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    cache = ReplyCache(path)
    cache.put({"key": "a", "reply": "yes"})
    path.write_bytes(path.read_bytes() + b'{"key": "b", "rep')
    assert ReplyCache(path).get("a") is not None
    cache.put({"key": "c", "reply": "no"})
    with pytest.warns(UserWarning, match="skipped a line"):
        assert [r["key"] for r in ReplyCache(path).records()] == ["a", "c"]


def test_runs_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(i)]) for i in range(3)
    ]
    assert [w.wait() for w in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert len(lines) == 150
    assert all(len(json.loads(line)["reply"]) == 5000 for line in lines)
