"""Downloads over a local server: complete, resumed, wrong, missing, and out of bounds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from ankle_lib.files import AnkleError
from ankle_lib.manifest.document import load_manifest, verify
from ankle_lib.manifest.downloads import CHUNK_BYTES, fetch
from ankle_lib.manifest.schema import Cohort, RemoteFile, RemoteSource

CONTENT = np.random.default_rng(1).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path but /missing; may break off, or know no ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.break_after: list[int] = []  # for each coming request, bytes sent before it breaks
        self.ranges = True
        self.tell_length = True
        self.asked: list[str | None] = []  # Range header of each request

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/file.nii.gz")
            self.end_headers()
            return
        content, start = self.server.content, 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.tell_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        length = self.server.break_after.pop(0) if self.server.break_after else len(content)
        self.wfile.write(content[start : start + length])

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def cohort(url: str, **changes: Any) -> Cohort:
    file = {"name": "file.nii.gz", "url": url, "sha256": DIGEST, "size": len(CONTENT)} | changes
    source = RemoteSource.model_validate({"type": "remote", "files": [file]})
    return Cohort(name="bones", licence="CC0-1.0", source=source)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("progress", [False, True])
def test_a_file_is_downloaded_once(tmp_path: Path, server: Server, progress: bool) -> None:
    bones = cohort(server.url("file.nii.gz"), name="masks/file.nii.gz")
    (path,) = fetch(bones, tmp_path, progress=progress)
    assert path == tmp_path / "masks/file.nii.gz"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.nii.gz"]
    fetch(bones, tmp_path)
    assert server.asked == [None]


def test_a_redirection_is_followed(tmp_path: Path, server: Server) -> None:
    (path,) = fetch(cohort(server.url("moved")), tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_broken_connection_is_resumed_at_once(
    tmp_path: Path, server: Server, tell_length: bool
) -> None:
    server.break_after, server.tell_length = [100_000, 50_000], tell_length
    (path,) = fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert path.read_bytes() == CONTENT
    first, second = (int(asked.removeprefix("bytes=")[:-1]) for asked in server.asked[1:])
    assert 100_000 - CHUNK_BYTES < first <= 100_000
    assert first + 50_000 - CHUNK_BYTES < second <= first + 50_000
    assert names(tmp_path) == ["file.nii.gz"]


def test_a_later_call_goes_on_where_the_last_stopped(tmp_path: Path, server: Server) -> None:
    server.break_after = [100_000, 0, 0]
    bones = cohort(server.url("file.nii.gz"))
    with pytest.raises(AnkleError, match="broke off after 98304 of 300000 bytes"):
        fetch(bones, tmp_path)
    assert names(tmp_path) == [".partial-file.nii.gz"]
    (path,) = fetch(bones, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=98304-"
    assert names(tmp_path) == ["file.nii.gz"]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path, server: Server) -> None:
    server.break_after, server.ranges = [100_000], False
    (path,) = fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 300_000, b"x" * 300_001])
def test_too_much_of_a_beginning_is_downloaded_again(
    tmp_path: Path, server: Server, left: bytes
) -> None:
    (tmp_path / ".partial-file.nii.gz").write_bytes(left)
    (path,) = fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_beginning_is_deleted_and_the_next_call_succeeds(
    tmp_path: Path, server: Server
) -> None:
    (tmp_path / ".partial-file.nii.gz").write_bytes(b"x" * 100_000)
    bones = cohort(server.url("file.nii.gz"))
    with pytest.raises(AnkleError, match="checksum"):
        fetch(bones, tmp_path)
    assert names(tmp_path) == []
    (path,) = fetch(bones, tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(AnkleError, match="checksum is not the manifest's"):
        fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert names(tmp_path) == []


def test_more_than_promised_leaves_nothing_behind(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT + b"more" * 50_000
    with pytest.raises(AnkleError, match="more than the 300000 bytes that the manifest says"):
        fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert names(tmp_path) == []


def test_less_than_promised_is_told_and_never_taken_for_the_file(
    tmp_path: Path, server: Server
) -> None:
    server.content = CONTENT[:1000]
    bones = cohort(server.url("file.nii.gz"))
    with pytest.raises(AnkleError, match=r"1000 of 300000 bytes .* correct the manifest"):
        fetch(bones, tmp_path)
    assert names(tmp_path) in ([], [".partial-file.nii.gz"])
    server.content = CONTENT
    assert fetch(bones, tmp_path)[0].read_bytes() == CONTENT


def test_a_file_that_has_changed_on_disk_is_fetched_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.nii.gz").write_bytes(b"old")
    (path,) = fetch(cohort(server.url("file.nii.gz")), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_missing_address_gives_a_clear_error(tmp_path: Path, server: Server) -> None:
    with pytest.raises(AnkleError, match="404 Not Found: check the address"):
        fetch(cohort(server.url("missing")), tmp_path)
    assert names(tmp_path) == []


def test_no_server_gives_a_clear_error(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url("file.nii.gz")
    with pytest.raises(AnkleError, match=r"0 of 300000 bytes \(ConnectionError\)"):
        fetch(cohort(url), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../file.nii.gz", "/tmp/file.nii.gz", "a/../../b", "a\\b", "C:b", ""]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        cohort("http://127.0.0.1/x", name=name)
    unchecked = RemoteFile.model_construct(
        name=Path(name), url="http://127.0.0.1/x", sha256=DIGEST, size=5, licence=None
    )
    source = RemoteSource.model_construct(type="remote", files=[unchecked], root=None)
    with pytest.raises(AnkleError, match=r"refused|folder"):
        fetch(Cohort.model_construct(name="x", source=source), tmp_path / "data")
    assert names(tmp_path) == []


def test_a_link_in_the_folder_does_not_lead_out(tmp_path: Path, server: Server) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "data/masks").symlink_to(tmp_path / "out")
    with pytest.raises(AnkleError, match="refused"):
        fetch(cohort(server.url("x"), name="masks/file.nii.gz"), tmp_path / "data")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://", "http:///x"]
)
def test_only_web_addresses_are_accepted(url: str) -> None:
    with pytest.raises(ValidationError):
        cohort(url)


def test_from_the_manifest_to_verified_files(tmp_path: Path, server: Server) -> None:
    content = cohort(server.url("file.nii.gz")).model_dump(mode="json")
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "cohorts": [content]}))
    bones = load_manifest(path).cohort("bones")
    assert bones.root == tmp_path.resolve() / "data/bones"
    assert [f.problem for f in verify(bones)] == ["missing: run `ankle data fetch bones`"]
    (file,) = fetch(bones)
    assert verify(bones) == []
    file.write_bytes(CONTENT[:-1] + b"!")
    assert "checksum" in verify(bones)[0].problem
    file.write_bytes(CONTENT[:-1])
    assert "checksum" in verify(bones)[0].problem


def test_only_remote_cohorts_are_fetched(tmp_path: Path) -> None:
    phantom = Cohort.model_validate({"name": "p", "licence": "MIT", "source": {"type": "phantom"}})
    with pytest.raises(AnkleError, match="nothing to fetch"):
        fetch(phantom, tmp_path)
    with pytest.raises(AnkleError, match="into which folder"):
        fetch(cohort("http://127.0.0.1/x"))
