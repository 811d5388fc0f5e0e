"""Download the files of a remote cohort: with checksum, and going on where a download stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from rich.progress import Progress

from ankle_lib.files import PARTIAL_PREFIX, AnkleError
from ankle_lib.manifest.schema import Cohort, RemoteFile, RemoteSource, unsafe_path

_ATTEMPTS = 3
_TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and for the next bytes."""
_CHUNK_BYTES = 1 << 16


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=_Resuming(target, file.size, progress),
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
    return target


class _Resuming:
    """A downloader for pooch that asks the server only for the bytes still missing."""

    def __init__(self, target: Path, size: int, progress: bool) -> None:
        self.size = size
        self.progress = progress
        self.partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")

    def __call__(self, url: str, output_file: Any, pooch_: Any) -> None:
        """Write the content of ``url`` to the path ``output_file``."""
        for attempt in range(_ATTEMPTS):
            try:
                self._continue(url)
                break
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                if attempt == _ATTEMPTS - 1:
                    raise AnkleError(
                        f"{url}: broke off after {self._have()} of {self.size} bytes "
                        f"({type(error).__name__}): fetch again to go on from there"
                    ) from None
        os.replace(self.partial, output_file)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _continue(self, url: str) -> None:
        if self._have() > self.size:
            self.partial.unlink()
        while (have := self._have()) < self.size:
            # without this, servers may compress once more and the bytes differ
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable and have:
                    self.partial.unlink()
                    continue
                self._receive(url, response, have)

    def _receive(self, url: str, response: requests.Response, have: int) -> None:
        if response.status_code >= 400:
            raise AnkleError(
                f"{url}: the server answers {response.status_code} {response.reason}: "
                "check the address in the manifest"
            )
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if response.status_code == 206 and resumed else 0
        with (
            open(self.partial, "ab" if start else "wb") as file,
            Progress(disable=not self.progress) as progress,
        ):
            name = self.partial.name.removeprefix(PARTIAL_PREFIX)
            bar = progress.add_task(name, total=self.size, completed=start)
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                progress.advance(bar, len(chunk))
                if file.tell() > self.size:
                    break
        found = self._have()
        if found < self.size and "Content-Length" not in response.headers:
            raise requests.ConnectionError("ended early")  # it may have more: ask again
        if found != self.size:
            self.partial.unlink()
            raise AnkleError(
                f"{url}: sends {'more than ' if found > self.size else ''}{min(found, self.size)} "
                f"bytes, the manifest says {self.size}: the download was deleted, check the address"
            )
