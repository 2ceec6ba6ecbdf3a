import socket

import pytest
from data_server import CONTENT, serving

from proco_jax.data.checks import DataError
from proco_jax.data.download import download


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "logs.hdf5"


def fetch(server, target, tries=1):
    lines: list[str] = []
    download(server.url, target, lines.append, tries=tries, pause_s=0.0)
    return lines


def test_a_file_arrives_whole_and_alone(server, target):
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["logs.hdf5"]
    fetch(server, target)
    assert len(server.asked) == 1


def test_a_cut_download_continues_where_it_broke_off(server, target):
    server.cuts = [1000, 500]
    lines = fetch(server, target, tries=3)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert "received 1,000 of 10,240 bytes" in lines[0]


def test_the_next_run_continues_too(server, target):
    server.cuts = [1000]
    with pytest.raises(DataError, match=r"broke off: received 1,000 of 10,240 bytes.* continue"):
        fetch(server, target)
    assert not target.exists()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, target):
    server.cuts = [1000]
    with pytest.raises(DataError):
        fetch(server, target)
    server.content, server.version = CONTENT[::-1], '"two"'
    fetch(server, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(server, target):
    server.cuts, server.ranges = [1000], False
    fetch(server, target, tries=2)
    assert target.read_bytes() == CONTENT


def test_a_kill_after_the_last_byte_costs_nothing(server, target):
    fetch(server, target)
    target.rename(target.with_name("logs.hdf5.part"))
    target.with_name("logs.hdf5.part.version").write_text(server.version)
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(server, target):
    target.parent.mkdir()
    target.with_name("logs.hdf5.part").write_bytes(CONTENT + b"more")
    target.with_name("logs.hdf5.part.version").write_text(server.version)
    fetch(server, target, tries=2)
    assert target.read_bytes() == CONTENT


def test_a_file_that_always_falls_short_is_an_error(server, target):
    server.cuts = [10, 10, 10]
    with pytest.raises(DataError, match=r"received 30 of 10,240 bytes\. 30 bytes are kept in"):
        fetch(server, target, tries=3)
    assert not target.exists()


def test_a_missing_file_is_told_at_once(server, target):
    server.statuses = [404]
    with pytest.raises(DataError, match=r"answered 404 Not Found for http.*dsrl:PATH"):
        fetch(server, target, tries=5)
    assert len(server.asked) == 1
    assert list(target.parent.iterdir()) == []


def test_a_busy_server_is_asked_again(server, target):
    server.statuses = [503, 429]
    fetch(server, target, tries=3)
    assert target.read_bytes() == CONTENT


def test_an_unknown_size_is_refused(server, target):
    server.sized = False
    with pytest.raises(DataError, match="doesn't say how large the file is"):
        fetch(server, target)


def test_no_network_says_what_to_do(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/logs.hdf5"
        with pytest.raises(DataError, match=r"can't reach .*refused.*Is there a network\?.*PATH"):
            download(url, target, print, tries=2, pause_s=0.0)
