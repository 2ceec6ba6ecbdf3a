import threading

import pytest

from proco_jax.common.files import locked, sha256, write_atomic, write_text


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
