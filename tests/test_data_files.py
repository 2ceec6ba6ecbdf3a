import errno
import threading
from pathlib import Path

import pytest

from proco_jax.common.files import disk_full_explained, locked, sha256, write_atomic, write_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "card.json"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_full_disk_is_reported_with_the_path_and_the_remedy(tmp_path):
    def fill(temporary):
        temporary.write_text("half")
        Path("/dev/full").write_text("x")

    expected = r"No space left on device while writing .*card\.json; free space .* resumes"
    with pytest.raises(OSError, match=expected) as caught:
        write_atomic(tmp_path / "card.json", fill)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_is_recognized_in_the_errors_of_hdf5(tmp_path, kind):
    hdf5 = "Can't write data (file write failed: errno = 28, error message = 'No space left')"
    with pytest.raises(OSError, match=r"while writing .*logs; free space"):  # noqa: SIM117
        with disk_full_explained(tmp_path / "logs"):
            raise kind(hdf5)
    with pytest.raises(kind, match="errno = 5,"), disk_full_explained(tmp_path / "logs"):
        raise kind("Can't write data (file write failed: errno = 5, error message = 'I/O')")


def test_a_lock_is_waited_for_and_says_so(tmp_path):
    path, order, lines = tmp_path / "a" / ".lock", [], []
    waiting = threading.Event()

    def log(line):
        lines.append(line)
        waiting.set()

    def second():
        with locked(path, log):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path, log):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(lines) == 1 and "another process works on the same dataset" in lines[0]


def test_a_hash_is_of_the_content(tmp_path):
    write_text(tmp_path / "a", "same")
    write_text(tmp_path / "b", "same")
    write_text(tmp_path / "c", "other")
    a, b, c = (sha256(tmp_path / name) for name in "abc")
    assert a == b != c
