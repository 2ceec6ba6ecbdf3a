"""Folders and texts in an object store: `s3://`, `gs://`, `az://`, through obstore.

An object appears whole or not at all, and a later one of the same name takes its place, so several
processes may write and read at once. There are no locks. A folder is one object, an archive that is
unpacked beside its destination; links and paths in it that lead elsewhere are refused.
"""

import contextlib
import errno
import importlib.util
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import disk_full_explained

_SUFFIX = ".tar"
_CHUNK = 8 << 20


def is_address(text: str) -> bool:
    """Whether a text is the address of an object store, not a path."""
    return "://" in text


class ObjectStore(NamedTuple):
    """A place in an object store.

    Attributes:
      address: e.g. `s3://bucket/sweeps/a`. Credentials and an endpoint other than the provider's
        are those of environment variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
        GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...) or of the machine.
    """

    address: str

    def read(self, name: str) -> str | None:
        """The text of an object; None if there is none."""
        with self._reported() as (obstore, store), contextlib.suppress(FileNotFoundError):
            return bytes(obstore.get(store, name).bytes()).decode()
        return None

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a text, or the content of a file, as an object."""
        with self._reported() as (obstore, store):
            obstore.put(store, name, content.encode() if isinstance(content, str) else content)

    def remove(self, name: str) -> None:
        """Removes an object if it is there."""
        with self._reported() as (obstore, store), contextlib.suppress(FileNotFoundError):
            obstore.delete(store, name)

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with self._reported() as (obstore, store), contextlib.suppress(FileNotFoundError):
            obstore.head(store, name)
            return True
        return False

    def names(self, folder: str) -> list[str]:
        """The names of the objects directly in a folder, sorted."""
        with self._reported() as (obstore, store):
            found = obstore.list_with_delimiter(store, folder)["objects"]
        return sorted(one["path"].rsplit("/", 1)[-1] for one in found)

    def has_folder(self, name: str) -> bool:
        """Whether a folder was put under that name."""
        return self.exists(name + _SUFFIX)

    def folder_names(self, folder: str) -> list[str]:
        """The names of the folders that were put directly into a folder."""
        found = self.names(folder)
        return [name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)]

    def put_folder(self, name: str, folder: Path, paths: Iterable[Path]) -> None:
        """Puts files and folders below a folder, with all that they hold, as one object.

        Args:
          name: of the object.
          folder: their paths are remembered relative to it.
          paths: below the folder; those that are not there are left out.

        Raises:
          OSError: if the disk is full, or the store cannot be reached.
        """
        with disk_full_explained(folder), _scratch(folder) as scratch:
            archive = scratch / "folder.tar"
            with tarfile.open(archive, "w") as tar:
                for path in paths:
                    if path.exists():
                        tar.add(path, path.relative_to(folder).as_posix())
            with self._reported() as (obstore, store):
                obstore.put(store, name + _SUFFIX, archive)

    @contextlib.contextmanager
    def folder(self, name: str, beside: Path) -> Iterator[Path | None]:
        """A copy of a folder that was put, removed at the end; None if there is none.

        Args:
          name: of the object.
          beside: an existing folder, on the disk to which parts of the copy are moved.

        Raises:
          ValueError: if the archive is damaged.
        """
        with _scratch(beside) as scratch:
            yield self._get_folder(name, scratch)

    def remove_folder(self, name: str) -> None:
        """Removes a folder that was put, if it is there."""
        self.remove(name + _SUFFIX)

    def _get_folder(self, name: str, scratch: Path) -> Path | None:
        archive, copy = scratch / "folder.tar", scratch / "folder"
        with disk_full_explained(scratch):
            if not self._download(name + _SUFFIX, archive):
                return None
            try:
                with tarfile.open(archive, "r:") as tar:
                    tar.extractall(copy, filter="data")
            except (tarfile.TarError, EOFError) as error:
                raise ValueError(
                    f"{self.address}/{name}{_SUFFIX} is damaged ({error}); remove it, then the "
                    "same command makes it anew"
                ) from error
        archive.unlink()
        return copy

    def _download(self, name: str, path: Path) -> bool:
        with self._reported() as (obstore, store):
            try:
                chunks = obstore.get(store, name).stream(min_chunk_size=_CHUNK)
            except FileNotFoundError:
                return False
            with open(path, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
        return True

    @contextlib.contextmanager
    def _reported(self) -> Iterator[tuple[Any, Any]]:
        """The module obstore and its store; its errors name the address and a remedy."""
        if importlib.util.find_spec("obstore") is None:
            raise ImportError(
                f"{self.address}: obstore is not installed; pip install 'proco-jax[remote]'"
            )
        import obstore  # pyright: ignore[reportMissingImports]

        try:
            # A folder of this machine is made, as a prefix of a bucket is.
            local = self.address.startswith("file://")
            options: dict[str, Any] = {"mkdir": True} if local else {}
            yield obstore, obstore.store.from_url(self.address.rstrip("/"), **options)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            # What follows the first lines is obstore's own structure.
            reason = " ".join(str(error).split("\n\nDebug source:")[0].split())
            raise OSError(
                f"{self.address}: {reason or type(error).__name__}; check the address, the "
                "credentials and the connection, then run the same command again, which resumes"
            ) from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".transfer-", dir=folder) as name:
        yield Path(name)
