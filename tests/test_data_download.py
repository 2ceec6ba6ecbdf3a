import socket
import time

import pytest
from data_server import CONTENT, serving

from proco_jax.data.checks import DataError
from proco_jax.data.download import download

NAME = "logs.hdf5"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with serving() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".logs.download"


def fetch(server, folder):
    return download(NAME, folder, lambda line: None, server.endpoint)


def test_a_file_arrives_whole_and_is_downloaded_once(server, folder):
    assert fetch(server, folder).read_bytes() == CONTENT
    path = f"/datasets/YYY-45/DSRL/resolve/main/{NAME}"
    assert {asked[1] for asked in server.asked} == {path}
    assert fetch(server, folder).read_bytes() == CONTENT
    assert [asked[0] for asked in server.asked].count("GET") == 1


def test_a_broken_connection_is_resumed(server, folder, monkeypatch):
    # Only whole blocks are written; the default block is larger than the file.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    server.cuts = [1000, 500]
    assert fetch(server, folder).read_bytes() == CONTENT
    ranges = [asked[2] for asked in server.asked if asked[0] == "GET"]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_killed_download_leaves_nothing_behind_after_the_next(server, folder):
    unfinished = folder / "datasets--YYY-45--DSRL" / "blobs" / "abc.1234.incomplete"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(CONTENT[:100])
    assert fetch(server, folder).read_bytes() == CONTENT
    assert list(folder.rglob("*.incomplete")) == []


def test_a_file_that_differs_from_the_stated_hash_is_refused_and_removed(server, folder):
    server.sha256 = "f" * 64
    with pytest.raises(DataError, match=r"damaged \(its SHA-256 is not ffff.*same command again"):
        fetch(server, folder)
    assert not folder.exists()
    server.sha256 = None
    assert fetch(server, folder).read_bytes() == CONTENT


@pytest.mark.parametrize("reason", ["EntryNotFound", "RepoNotFound", ""])
def test_a_missing_file_is_reported_with_its_address(server, folder, reason):
    server.status, server.reason = 404, reason
    with pytest.raises(DataError, match=r"answered 404 Not Found for http.*logs\.hdf5.*dsrl:PATH"):
        fetch(server, folder)
    assert [asked[0] for asked in server.asked] == ["HEAD"]


def test_without_a_network_the_error_names_the_address_and_the_remedy(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DataError, match=r"cannot download http.*refused.*network.*dsrl:PATH"):
            download(NAME, folder, print, endpoint)
