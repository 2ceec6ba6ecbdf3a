"""DSRL's files of logs, downloaded from the Hugging Face Hub."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from proco_jax.common.files import sha256
from proco_jax.data.checks import DataError

REPOSITORY = "YYY-45/DSRL"


def download(
    name: str, folder: Path, log: Callable[[str], None], endpoint: str | None = None
) -> Path:
    """Downloads a file of the DSRL repository, unless it is in `folder` already.

    A broken connection is resumed. The file appears whole: its size, and its
    SHA-256 where the server states one, are checked.

    Args:
      name: of the file in the repository.
      folder: holds the download, in the layout of the Hub's cache. No other
        process may use it at the same time.
      log: takes lines of text for the user.
      endpoint: address of the Hub; None for the default, which the environment
        variable `HF_ENDPOINT` changes.

    Returns:
      The path of the file.

    Raises:
      DataError: if the server cannot be reached or does not have the file, or
        the received file is not the one that the server announced.
      OSError: if the file cannot be written.
    """
    # Slow imports, needed for downloads only.
    import httpx
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    url = hf_hub_url(REPOSITORY, name, repo_type="dataset", endpoint=endpoint)
    remedy = f"download {url} by other means and give its path as the source, dsrl:PATH"
    # A killed process leaves its unfinished file, which the Hub's client does not continue.
    for unfinished in folder.rglob("*.incomplete"):
        unfinished.unlink()
    log(f"downloading {url}")
    try:
        path = hf_hub_download(
            REPOSITORY, name, repo_type="dataset", cache_dir=folder, endpoint=endpoint
        )
    except (LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        # The Hub's client wraps what happened, unless the server gave its own reason.
        reason = error if isinstance(error, httpx.HTTPError) else error.__cause__ or error
        if isinstance(reason, httpx.HTTPStatusError | HfHubHTTPError):
            status = f"{reason.response.status_code} {reason.response.reason_phrase}"
            raise DataError(
                f"the server answered {status} for {url}; the file may have moved: {remedy}"
            ) from error
        raise DataError(
            f"cannot download {url}: {reason}. Check the network and run the same command "
            f"again, or {remedy}"
        ) from error
    found = Path(path).resolve()
    # In the Hub's cache, a large file is named by its SHA-256.
    if re.fullmatch("[0-9a-f]{64}", found.name) and sha256(found) != found.name:
        shutil.rmtree(folder)
        raise DataError(
            f"the download of {url} was damaged (its SHA-256 is not {found.name}) and is removed; "
            f"run the same command again, or {remedy}"
        )
    return found
