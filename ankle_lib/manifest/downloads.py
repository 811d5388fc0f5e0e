"""Download the files of a remote cohort: with checksum, and going on where a download stopped."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pooch
import requests

from ankle_lib.files import PARTIAL_PREFIX, AnkleError
from ankle_lib.manifest.schema import Cohort, RemoteFile, RemoteSource, unsafe_path

ATTEMPTS = 3
TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and for the next bytes."""
CHUNK_BYTES = 1 << 14
"""Written at a time; of a connection that breaks, at most so many bytes are lost."""


def fetch(
    cohort: Cohort, dest: str | os.PathLike[str] | None = None, *, progress: bool = False
) -> list[Path]:
    """Download what is missing of a remote cohort and return the paths of all its files.

    A file that is there with the right checksum is not downloaded again. A broken download is
    kept under a name that starts with ``.partial-`` and goes on from there, within this call or in
    a later one. What arrives with a wrong checksum or size is deleted.

    Parameters
    ----------
    cohort : Cohort
        One whose source is ``remote``.
    dest : path, optional
        Folder; the cohort's own root if not given.
    progress : bool
        Show a progress bar per file.

    Raises
    ------
    AnkleError
        If the cohort is not remote, or a file cannot be downloaded as the manifest says.

    Examples
    --------
    >>> paths = fetch(load_manifest("data_manifest.yaml").cohort("openfoot"), progress=True)
    """
    if not isinstance(cohort.source, RemoteSource):
        raise AnkleError(
            f"cohort {cohort.name}: is {cohort.source.type}, there is nothing to fetch"
        )
    folder = dest if dest is not None else cohort.root
    if folder is None:
        raise AnkleError(f"cohort {cohort.name}: say into which folder to download it")
    root = Path(folder).resolve()
    return [_fetch_file(file, root, progress) for file in cohort.source.files]


def _fetch_file(file: RemoteFile, root: Path, progress: bool) -> Path:
    problem = unsafe_path(str(file.name))
    target = root / file.name
    if problem or not target.resolve().is_relative_to(root):
        raise AnkleError(f"{file.name}: refused as a name below {root}: {problem or 'links out'}")
    if target.is_dir():
        raise AnkleError(f"{target}: is a folder, cannot download {file.url} to it")
    partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")

    def download(url: str, output_file: Any, pooch_: Any) -> None:
        _complete(url, partial, file.size, progress)
        os.replace(partial, output_file)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=download,
        )
    except AnkleError:
        raise
    except ValueError:  # pooch's only one: the checksum; it has deleted the download
        raise AnkleError(
            f"{file.url}: the checksum is not the manifest's ({file.sha256[:12]}…), the download "
            "was deleted: fetch again, or correct the manifest if the source has changed"
        ) from None
    except OSError as error:
        raise AnkleError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        if partial.exists() and not partial.stat().st_size:
            partial.unlink()
    return target


class _Partial(io.FileIO):
    """The beginning of a file of ``size`` bytes, which takes no more than that."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "ab")
        self.size = size

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.size:
            self.truncate(0)
            raise AnkleError(f"sends more than the {self.size} bytes that the manifest says")
        return super().write(data)

    def begin_again(self, response: requests.Response, **_: Any) -> None:
        """Forget what there is unless the server sends what comes after it."""
        unusable = (requests.codes.ok, requests.codes.requested_range_not_satisfiable)
        if response.status_code in unusable:
            self.truncate(0)
            self.seek(0)


def _complete(url: str, path: Path, size: int, progress: bool) -> None:
    """Download what is missing at the end of the file ``path``."""
    for _ in range(ATTEMPTS):
        reason = "no error"
        with _Partial(path, size) as file:
            headers = {"Accept-Encoding": "identity"}  # or servers may compress: other bytes
            if file.tell():
                headers["Range"] = f"bytes={file.tell()}-"
            download = pooch.HTTPDownloader(
                progressbar=progress,
                chunk_size=CHUNK_BYTES,
                timeout=TIMEOUT_S,
                headers=headers,
                hooks={"response": file.begin_again},
            )
            try:
                download(url, file, None)
            except AnkleError as error:
                raise AnkleError(f"{url}: {error}: check the address") from None
            except requests.RequestException as error:
                reason = type(error).__name__
                answer = error.response
                if answer is not None and answer.status_code != 416:
                    raise AnkleError(
                        f"{url}: the server answers {answer.status_code} {answer.reason}: "
                        "check the address in the manifest"
                    ) from None
            have = file.tell()
        if have == size:
            return
    raise AnkleError(
        f"{url}: broke off after {have} of {size} bytes ({reason}): fetch again to go on from "
        "there, or correct the manifest if the source has changed"
    )
