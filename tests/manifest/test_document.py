"""A manifest says what it means, refuses what it cannot, and finds what is broken."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ankle_lib.files import AnkleError
from ankle_lib.manifest.document import (
    Manifest,
    fetch,
    load_manifest,
    manifest_from_folder,
    save_manifest,
    verify,
)
from ankle_lib.manifest.schema import (
    Cohort,
    Geometry,
    LocalSource,
    RemoteFile,
    RemoteSource,
    Sequence,
    Subject,
    unsafe_path,
)
from ankle_lib.presets import BONES
from ankle_lib.volume import save

REPOSITORY = Path(__file__).resolve().parents[2]
GEOMETRY = Geometry(static_voxel_mm=(1, 1, 2), dynamic_voxel_mm=(2, 2, 8), n_frames=3)
# axes P, S, R
STATIC = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
DYNAMIC = np.array([[0, 0, 8.0, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])


def write_cohort(root: Path, codes: tuple[str, ...] = ("T01", "E02")) -> Path:
    """Write a small intact cohort and its manifest."""
    subjects = []
    for code in codes:
        folder = root / "raw" / code
        save(folder / "static.nii.gz", np.ones((6, 5, 4), np.int16), STATIC)
        for bone in BONES:
            save(folder / f"{bone}.nii.gz", np.ones((6, 5, 4), np.uint8), STATIC)
        save(folder / "active.nii.gz", np.ones((5, 6, 3, 3), np.int16), DYNAMIC)
        subjects.append(
            Subject(
                code=code,
                group="control" if code[0] == "T" else "equinus",
                side="left",
                static=[Path(f"raw/{code}/static.nii.gz")],
                masks={bone: Path(f"raw/{code}/{bone}.nii.gz") for bone in BONES},
                sequences=[
                    Sequence(
                        name="active_run-01",
                        kind="active",
                        path=Path(f"raw/{code}/active.nii.gz"),
                    )
                ],
                notes=["injected: nothing"],
            )
        )
    cohort = Cohort(
        name="mine",
        licence="CC0-1.0",
        source=LocalSource(type="local", root="."),
        geometry=GEOMETRY,
        subjects=subjects,
    )
    return save_manifest(root / "manifest.yaml", Manifest(version=1, cohorts=[cohort]))


def problems(path: Path) -> dict[str, str]:
    """Return {file: problem} of the only cohort."""
    return {finding.file: finding.problem for finding in verify(load_manifest(path).cohort())}


def test_a_manifest_comes_back_with_absolute_paths(tmp_path: Path) -> None:
    path = write_cohort(tmp_path)
    cohort = load_manifest(path).cohort("mine")
    assert cohort.root == tmp_path.resolve()
    assert (cohort.geometry, cohort.licence) == (GEOMETRY, "CC0-1.0")
    first = cohort.subject("T01")
    assert (first.group, first.side, first.notes) == ("control", "left", ["injected: nothing"])
    assert list(first.masks) == list(BONES)
    files = [file for subject in cohort.subjects for _, file in subject.files()]
    assert len(files) == 10
    assert all(file.is_absolute() and file.is_file() for file in files)
    again = save_manifest(tmp_path / "again.yaml", load_manifest(path))
    assert again.read_text() == path.read_text()


def test_the_manifest_of_the_repository() -> None:
    manifest = load_manifest(REPOSITORY / "data_manifest.yaml")
    phantom = manifest.cohort("phantom")
    assert (phantom.source.type, phantom.root, verify(phantom)) == ("phantom", None, [])
    template = manifest.cohort("latim_bone_template")
    assert template.source.type == "remote"
    assert [file.name.as_posix() for file in template.source.files] == [
        f"{bone}.nii.gz" for bone in BONES
    ]
    with pytest.raises(AnkleError, match="phantom, latim_bone_template"):
        manifest.cohort("phantm")
    with pytest.raises(AnkleError, match="choose one of"):
        manifest.cohort()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 2, "version: .*found 2"),
        ("colour", "red", "colour: Extra inputs are not permitted"),
        ("cohorts.0.name", "my cohort", r"cohorts\[0\]\.name: .*found 'my cohort'"),
        ("cohorts.0.source.type", "web", r"cohorts\[0\]\.source: .*'web'"),
        ("cohorts.0.source.rot", "x", r"cohorts\[0\]\.source\.rot: Extra"),
        ("cohorts.0.source", None, r"cohorts\[0\]\.source"),
        ("cohorts.0.geometry.n_frames", 0, r"geometry\.n_frames"),
        ("cohorts.0.geometry.static_voxel_mm", [1, 1], "static_voxel_mm"),
        ("cohorts.0.geometry.static_voxel_mm", [1, 1, float("nan")], "static_voxel_mm"),
        ("cohorts.0.subjects.1.side", "up", r"cohorts\[0\]\.subjects\[1\]\.side: .*'up'"),
        ("cohorts.0.subjects.1.code", "T01", "more than one subject is named 't01'"),
        ("cohorts.0.subjects.1.code", "../T9", r"subjects\[1\]\.code"),
        ("cohorts.0.subjects.1.code", 12, r"subjects\[1\]\.code: .*string"),
        ("cohorts.0.subjects.0.masks.fibula", "f.nii.gz", "'fibula' is not one of the bones"),
        ("cohorts.0.subjects.0.static", "a.nii.gz", r"subjects\[0\]\.static: .*list"),
        ("cohorts.0.subjects.0.static", ["../a.nii.gz"], r"static\[0\]: .*'\.\.'"),
        ("cohorts.0.subjects.0.sequences.0.path", "/a.nii.gz", "absolute"),
        ("cohorts.0.subjects.0.sequences.0.kind", "fast", "kind"),
        ("cohorts", {"mine": 1}, "cohorts: .*list"),
    ],
)
def test_an_error_names_the_place_in_the_yaml(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    path = write_cohort(tmp_path)
    content = yaml.safe_load(path.read_text())
    *steps, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    target = content
    for step in steps:
        target = target[step]
    target[last] = value
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(AnkleError, match=message) as error:
        load_manifest(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"just words",
        b"version: 1\ncohorts: [",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system [echo]",
        b"a: &a [*a]",
        b"version: 1\ncohorts: " + b"[" * 5000,
    ],
)
def test_files_that_are_no_manifest_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_manifest.yaml"
    path.write_bytes(content)
    with pytest.raises(AnkleError, match="data_manifest"):
        load_manifest(path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(AnkleError, match="cannot be read"):
            load_manifest(path)


names = st.text("ab.-_ é", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))


@given(st.lists(names, min_size=1, max_size=4), st.data())
def test_paths_that_lead_out_are_refused(parts: list[str], data: st.DataObject) -> None:
    assert unsafe_path("/".join(parts)) is None
    Sequence(name="s", path=Path("/".join(parts)))
    where = data.draw(st.integers(0, len(parts)))
    separator = data.draw(st.sampled_from(["/", "\\"]))
    for bad in (
        separator.join([*parts[:where], "..", *parts[where:]]),
        separator + separator.join(parts),
        "C:" + separator.join(parts),
        "//server/share/" + "/".join(parts),
        "/".join(parts) + "\0",
    ):
        assert unsafe_path(bad) is not None
        with pytest.raises(ValidationError):
            Sequence(name="s", path=Path(bad))


@pytest.mark.parametrize("what", ["file", "folder", "loop"])
def test_links_that_lead_out_are_refused(tmp_path: Path, what: str) -> None:
    path = write_cohort(tmp_path / "cohort")
    outside = tmp_path / "outside"
    outside.mkdir()
    static = tmp_path / "cohort/raw/T01/static.nii.gz"
    if what == "folder":
        (tmp_path / "cohort/raw/T01").rename(outside / "T01")
        (tmp_path / "cohort/raw/T01").symlink_to(outside / "T01")
    else:
        static.rename(outside / "static.nii.gz")
        static.symlink_to(outside / "static.nii.gz" if what == "file" else static)
    with pytest.raises(AnkleError, match=r"subject T01: raw/T01/\w+\.nii\.gz is a link"):
        load_manifest(path).cohort()


def test_links_inside_the_root_are_fine(tmp_path: Path) -> None:
    path = write_cohort(tmp_path)
    static = tmp_path / "raw/T01/static.nii.gz"
    (tmp_path / "annex").mkdir()
    static.rename(tmp_path / "annex/1234")
    static.symlink_to(os.path.relpath(tmp_path / "annex/1234", static.parent))
    assert problems(path) == {}


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    path = write_cohort(tmp_path)
    path.write_text(path.read_text().replace("root: .", "root: elsewhere"))
    with pytest.raises(AnkleError, match="elsewhere is no folder"):
        load_manifest(path).cohort()


def test_an_intact_cohort_gives_no_finding(tmp_path: Path) -> None:
    assert problems(write_cohort(tmp_path)) == {}


def test_every_broken_file_is_found(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, ("T01", "T02", "E01", "E02", "E03"))
    raw = tmp_path / "raw"
    (raw / "T01/static.nii.gz").unlink()
    (raw / "T01/active.nii.gz").write_bytes((raw / "T01/active.nii.gz").read_bytes()[:-9])
    (raw / "T02/talus.nii.gz").write_bytes(b"not an image")
    (raw / "T02/static.nii.gz").unlink()
    (raw / "T02/static.nii.gz").mkdir()
    save(raw / "E01/static.nii.gz", np.ones((6, 5, 4)), np.diag([1.2, 1, 2, 1]))
    save(raw / "E01/tibia.nii.gz", np.ones((6, 5, 3), np.uint8), STATIC)
    save(raw / "E02/active.nii.gz", np.ones((5, 6, 3, 2)), DYNAMIC)
    save(raw / "E03/active.nii.gz", np.ones((5, 6, 3, 3)), DYNAMIC @ np.diag([1, 1, 0.9, 1]))
    found = problems(path)
    assert set(found) == {
        "raw/T01/static.nii.gz",
        "raw/T01/active.nii.gz",
        "raw/T02/static.nii.gz",
        "raw/T02/talus.nii.gz",
        "raw/E01/static.nii.gz",
        "raw/E01/tibia.nii.gz",
        "raw/E02/active.nii.gz",
        "raw/E03/active.nii.gz",
    }
    assert found["raw/T01/static.nii.gz"] == "missing"
    assert "gzip" in found["raw/T01/active.nii.gz"]
    assert "not a NIfTI file" in found["raw/T02/talus.nii.gz"]
    assert found["raw/E01/static.nii.gz"] == (
        "voxels of 1 x 2 x 1.2 mm, expected 1 x 1 x 2 mm within 5%"
    )
    assert "mask of shape (6, 5, 3)" in found["raw/E01/tibia.nii.gz"]
    assert found["raw/E02/active.nii.gz"] == "2 frames, expected 3"
    assert "2 x 2 x 7.2 mm" in found["raw/E03/active.nii.gz"]


def test_voxel_sizes_within_the_tolerance_are_fine_in_any_order_of_axes(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, ("T01",))
    turned = np.array([[2.06, 0, 0, 0], [0, 1.04, 0, 0], [0, 0, 0.97, 0], [0, 0, 0, 1]])
    for name in ("static", *BONES):
        save(tmp_path / f"raw/T01/{name}.nii.gz", np.ones((6, 5, 4), np.uint8), turned)
    assert problems(path) == {}


def test_checksums_are_compared(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, ("T01",))
    good = hashlib.sha256((tmp_path / "raw/T01/static.nii.gz").read_bytes()).hexdigest()
    (tmp_path / "notes.txt").write_text("hello")
    content = yaml.safe_load(path.read_text())
    content["cohorts"][0]["source"]["sha256"] = {
        "raw/T01/static.nii.gz": good,
        "raw/T01/talus.nii.gz": "0" * 64,
        "notes.txt": "1" * 64,
        "gone.txt": "2" * 64,
    }
    path.write_text(yaml.safe_dump(content))
    found = problems(path)
    assert set(found) == {"raw/T01/talus.nii.gz", "notes.txt", "gone.txt"}
    assert "checksum" in found["raw/T01/talus.nii.gz"]
    assert found["gone.txt"] == "missing"
    for bad in ({"../x": good}, {"x": "abc"}):
        content["cohorts"][0]["source"]["sha256"] = bad
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(AnkleError, match="sha256"):
            load_manifest(path)


def test_a_layout_is_scanned_when_no_subject_is_listed(tmp_path: Path) -> None:
    for code in ("T01", "E02"):
        save(tmp_path / f"scans/raw/{code}/{code}_static_3DT1.nii.gz", np.ones((2, 2, 2)), STATIC)
    text = (
        "version: 1\ncohorts:\n- name: mine\n  licence: none\n"
        "  source: {type: local, root: scans, layout: raw}\n"
    )
    (tmp_path / "m.yaml").write_text(text)
    cohort = load_manifest(tmp_path / "m.yaml").cohort()
    assert [subject.code for subject in cohort.subjects] == ["E02", "T01"]
    assert all(subject.static[0].is_file() for subject in cohort.subjects)


def test_a_manifest_made_from_a_folder_can_be_saved_anywhere(tmp_path: Path) -> None:
    scans = tmp_path / "my scans (2024)"
    save(scans / "raw/T01/T01_static_3DT1.nii.gz", np.ones((2, 2, 2)), STATIC)
    save(scans / "raw/T01/localizer.nii.gz", np.ones((2, 2, 2)), STATIC)
    manifest = manifest_from_folder(scans)
    path = save_manifest(tmp_path / "elsewhere/manifest.yaml", manifest)
    cohort = load_manifest(path).cohort("my-scans-2024")
    cohort = cohort.model_copy(update={"geometry": GEOMETRY})
    assert cohort.root == scans.resolve()
    assert cohort.notes == ["not recognised: raw/T01/localizer.nii.gz"]
    lacking = ["no mask of calcaneus and talus and tibia", "no sequence"]
    assert [finding.problem for finding in verify(cohort)] == lacking


# --- downloads ---

CONTENT = np.random.default_rng(1).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path but /missing; may break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.break_after = [len(CONTENT)] * 9  # for each coming request, bytes sent
        self.asked = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/file.nii.gz")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.break_after.pop(0)])

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


def remote(url: str, **changes: Any) -> Cohort:
    file = {"name": "file.nii.gz", "url": url, "sha256": DIGEST, "size": len(CONTENT)} | changes
    source = RemoteSource.model_validate({"type": "remote", "files": [file]})
    return Cohort(name="bones", licence="CC0-1.0", source=source)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_that_breaks_off_leaves_nothing_and_is_done_again(
    tmp_path: Path, server: Server
) -> None:
    server.break_after = [100_000, len(CONTENT)]
    bones = remote(server.url("file.nii.gz"))
    with pytest.raises(AnkleError, match=r"file\.nii\.gz: cannot be downloaded"):
        fetch(bones, tmp_path)
    assert files_of(tmp_path) == []
    assert fetch(bones, tmp_path)[0].read_bytes() == CONTENT


def test_a_file_is_downloaded_once(tmp_path: Path, server: Server) -> None:
    bones = remote(server.url("file.nii.gz"), name="masks/file.nii.gz")
    (path,) = fetch(bones, tmp_path)
    assert path == tmp_path / "masks/file.nii.gz"
    assert path.read_bytes() == CONTENT
    assert files_of(tmp_path) == ["file.nii.gz"]
    fetch(bones, tmp_path)
    assert server.asked == 1


def test_a_redirection_is_followed(tmp_path: Path, server: Server) -> None:
    (path,) = fetch(remote(server.url("moved")), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(AnkleError, match="checksum is not the manifest's"):
        fetch(remote(server.url("file.nii.gz")), tmp_path)
    assert files_of(tmp_path) == []


def test_a_file_that_has_changed_on_disk_is_fetched_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.nii.gz").write_bytes(b"old")
    (path,) = fetch(remote(server.url("file.nii.gz")), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_missing_address_gives_a_clear_error(tmp_path: Path, server: Server) -> None:
    with pytest.raises(AnkleError, match=r"404 .*check the address"):
        fetch(remote(server.url("missing")), tmp_path)
    assert files_of(tmp_path) == []


def test_no_server_gives_a_clear_error(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url("file.nii.gz")
    with pytest.raises(AnkleError, match="cannot be downloaded"):
        fetch(remote(url), tmp_path)
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../file.nii.gz", "/tmp/file.nii.gz", "a/../../b", "a\\b", "C:b", ""]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        remote("http://127.0.0.1/x", name=name)
    unchecked = RemoteFile.model_construct(
        name=Path(name), url="http://127.0.0.1/x", sha256=DIGEST, size=5, licence=None
    )
    source = RemoteSource.model_construct(type="remote", files=[unchecked], root=None)
    with pytest.raises(AnkleError, match="files must lie below"):
        fetch(Cohort.model_construct(name="x", source=source), tmp_path / "data")
    assert files_of(tmp_path) == []


def test_a_link_in_the_folder_does_not_lead_out(tmp_path: Path, server: Server) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "data/masks").symlink_to(tmp_path / "out")
    with pytest.raises(AnkleError, match="is a link that leads out"):
        fetch(remote(server.url("x"), name="masks/file.nii.gz"), tmp_path / "data")
    assert files_of(tmp_path / "out") == []


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://", "http:///x"]
)
def test_only_web_addresses_are_accepted(url: str) -> None:
    with pytest.raises(ValidationError):
        remote(url)


def test_from_the_manifest_to_verified_files(tmp_path: Path, server: Server) -> None:
    content = remote(server.url("file.nii.gz")).model_dump(mode="json")
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
        fetch(remote("http://127.0.0.1/x"))


# --- what a subject lacks ---


def test_too_few_and_too_many_files_are_found(tmp_path: Path) -> None:
    path = write_cohort(tmp_path)
    content = yaml.safe_load(path.read_text())
    first, second = content["cohorts"][0]["subjects"]
    first["static"] = []
    del first["masks"]["talus"], first["masks"]["tibia"], first["sequences"]
    second["static"] *= 2
    path.write_text(yaml.safe_dump(content))
    cohort = load_manifest(path).cohort()
    found = [(one.subject, one.file, one.problem) for one in verify(cohort)]
    assert found == [
        ("T01", "", "0 static scans, expected one"),
        ("T01", "", "no mask of talus and tibia"),
        ("T01", "", "no sequence"),
        ("E02", "", "2 static scans, expected one"),
    ]


def test_a_file_in_two_places_is_found(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, ("T01",))
    static = tmp_path / "raw/T01/static.nii.gz"
    image = nib.load(static)
    image.set_qform(STATIC, code=1)
    moved = STATIC.copy()
    moved[0, 3] += 12
    image.set_sform(moved, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, image.header), static)
    found = problems(path)
    assert found["raw/T01/static.nii.gz"].startswith("lies in two places, which are 12 mm apart")
