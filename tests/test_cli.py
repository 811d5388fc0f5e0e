from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ankle_lib import cli
from ankle_lib.files import AnkleError
from ankle_lib.running import course as courses
from tests.course import two_chapters, write_notebook

COMMAND = [sys.executable, "-c", "from ankle_lib.cli import main; main()"]


def ankle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command."""
    monkeypatch.setattr(sys, "argv", ["ankle", *arguments])
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: ankle(monkeypatch, capsys, *map(str, arguments))


def test_the_script_is_declared() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ankle": "ankle_lib.cli:main"}


def test_help_names_the_commands_without_waiting_for_torch() -> None:
    code = "import sys; from ankle_lib import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "data" in done.stdout


def test_options_reach_the_run(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        courses, "run", lambda preset, **options: asked.update(options, preset=preset)
    )
    status, _, _ = command(
        *("run", "--preset", "smoke", "--from", "01", "--cohort", "mine", "--results", "out"),
        *("--device", "cpu", "--force", "-p", "radius_mm=2.5", "-p", "fast=true", "-p", "name=x"),
        *("--check", "tables"),
    )
    assert status == 0
    assert asked == {
        "preset": "smoke",
        "part": "all",
        "only": None,
        "start": "01",
        "cohort": "mine",
        "results": Path("out"),
        "device": "cpu",
        "force": True,
        "parameters": {"radius_mm": 2.5, "fast": True, "name": "x"},
        "reference": Path("tables"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--cohort", "toy", "--preset", "huge"],
            "there is no preset 'huge': choose one of smoke",
        ),
        (["run", "-p", "radius"], "'radius' is not NAME=VALUE"),
        (["run", "--check", "nowhere", "--cohort", "toy"], "nowhere holds no tables"),
        (["run", "-p", "radius={"], "the value cannot be read"),
        (["run", "--cohort", "nobody"], "there is no cohort 'nobody'"),
        (["data", "verify", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["data", "manifest", "nowhere", "-o", "x.yaml"], "nowhere"),
        (["data", "simulate", "--preset", "huge", "--out", "x"], "there is no preset 'huge'"),
        (["data", "fetch", "nobody"], "there is no cohort 'nobody'"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(two_chapters(tmp_path))
    status, out, errors = command(*arguments)
    assert status == 1
    assert message in errors
    assert errors.startswith("ankle: ")
    assert errors.count("\n") == 1
    assert out == ""


def test_runs_are_compared(command: Any, tmp_path: Path) -> None:
    for run, dice in (("old", 0.95), ("same", 0.952), ("worse", 0.93)):
        place = tmp_path / run / "05_first" / "tables" / "scores.csv"
        place.parent.mkdir(parents=True)
        place.write_text(f"bone,dice\ntalus,{dice}\n")
    status, out, _ = command("compare", tmp_path / "old", tmp_path / "same")
    assert status == 0
    assert out.splitlines()[-1] == "1 tables compared, 1 changes, 0 of them too large"
    page = tmp_path / "page.html"
    status, out, errors = command("compare", tmp_path / "old", tmp_path / "worse", "--page", page)
    assert status == 1
    assert "dice: by up to 0.02 (0.01), bone talus: 0.95 -> 0.93" in out
    assert errors.count("\n") == 1
    assert page.is_file()


def test_students_get_notebooks_of_their_own(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_chapters(tmp_path))
    status, out, _ = command("course", "exercises", "mine")
    assert status == 0
    assert [Path(line).name for line in out.splitlines()] == ["01_first.ipynb", "02_second.ipynb"]
    status, _, errors = command("course", "exercises", "mine")
    assert status == 1
    assert errors.startswith("ankle: ")
    assert errors.count("\n") == 1


def test_a_wrong_option_is_status_2(command: Any) -> None:
    assert command("run", "--wrong")[0] == 2


def test_a_failed_chapter_is_status_1(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_chapters(tmp_path)
    write_notebook(root / "notebooks" / "01_first.ipynb", "1 / 0")
    monkeypatch.chdir(root)
    status, out, errors = command("run", "--preset", "smoke", "--cohort", "toy")
    assert status == 1
    assert "ankle: 01_first failed: In [3]: ZeroDivisionError: division by zero; see " in errors
    assert "Traceback" not in errors
    assert "failed" in out


def test_verify_lists_what_it_finds(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_chapters(tmp_path)
    monkeypatch.chdir(root)
    (root / "scans" / "static.txt").unlink()
    status, out, errors = command("data", "verify")
    assert status == 1
    assert "toy, T01: static.txt: missing" in out
    assert "toy, T01: no mask of calcaneus and talus and tibia" in out
    assert errors.endswith("findings as listed: 3\n")


def test_simulate_passes_its_options(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def simulate(preset: Any, out: Path, *, seed: int, device: str) -> Path:
        asked.append((preset.name, out, seed, device))
        return out / "manifest.yaml"

    monkeypatch.setattr("ankle_lib.phantom.simulate.simulate", simulate)
    options = ("--preset", "smoke", "--out", tmp_path, "--seed", "5", "--device", "cpu")
    status, out, _ = command("data", "simulate", *options)
    assert status == 0
    assert out.strip() == str(tmp_path / "manifest.yaml")
    assert asked == [("smoke", tmp_path, 5, "cpu")]


def test_a_manifest_of_a_folder_can_be_verified(command: Any, tmp_path: Path) -> None:
    import numpy as np

    from ankle_lib import volume

    scans = tmp_path / "lab" / "sourcedata" / "sub_T01"
    affine = np.array(
        [[0, 0, 0.8, 0], [-0.28, 0, 0, 0], [0, 0.28, 0, 0], [0, 0, 0, 1]]  # axes P, S, R
    )
    volume.save(scans / "sub_T01_static_3DT1.nii.gz", np.ones((8, 8, 4), np.int16), affine)

    manifest = tmp_path / "mine.yaml"
    status, out, _ = command("data", "manifest", tmp_path / "lab", "-o", manifest)
    assert status == 0
    assert "1 subjects" in out
    assert manifest.exists()
    status, out, errors = command("data", "verify", manifest)
    assert status == 1
    assert out.splitlines() == [
        "lab, T01: no mask of calcaneus and talus and tibia",
        "lab, T01: no sequence",
    ]
    subject = tmp_path / "lab" / "derivatives" / "sub_T01"
    for bone in ("calcaneus", "talus", "tibia"):
        stem = subject / f"sub_T01_static_3DT1_segment_{bone}"
        volume.save(f"{stem}.nii.gz", np.ones((8, 8, 4), np.uint8), affine)
        volume.save(f"{stem}_binarized.nii.gz", np.ones((8, 8, 4), np.uint8), affine)
    film = np.ones((8, 8, 4, 15), np.int16), affine @ np.diag([2, 2, 10, 1])
    volume.save(scans / "sub_T01_MovieClear_active.nii.gz", *film)
    (scans / "notes.nii.gz").touch()
    status, out, _ = command("data", "manifest", tmp_path / "lab", "-o", manifest)
    assert "not recognised: sourcedata/sub_T01/notes.nii.gz" in out
    assert "T01: sub_T01_static_3DT1_segment_talus_binarized.nii.gz is used, not " in out
    status, out, errors = command("data", "verify", manifest)
    assert (status, errors) == (0, "")
    assert "nothing to report" in out


def own_scans(
    folder: Path, n_frames: int = 2, bones: tuple[str, ...] = ("calcaneus", "talus")
) -> list[str]:
    """Options of `ankle register` for a foot in files of its own."""
    from ankle_lib.volume import save
    from tests.toy_ankle import toy_ankle

    ankle = toy_ankle()
    options = ["--static", save(folder / "static.nii", ankle.static.data, ankle.static.affine)]
    movie = ankle.sequence
    options += ["--dynamic", save(folder / "movie.nii", movie.data[..., :n_frames], movie.affine)]
    for bone in bones:
        mask = ankle.masks[bone]
        path = save(folder / f"{bone}.nii", mask.data, mask.affine)
        options += ["--mask", f"{bone}={path}"]
    return [*map(str, options), "--device", "cpu"]


def test_register_needs_no_cohort(command: Any, tmp_path: Path) -> None:
    from ankle_lib.pose_files import read_transforms

    options, out = own_scans(tmp_path), tmp_path / "out"
    status, shown, errors = command("register", *options, "--out", out, "--no-high-resolution")
    assert status == 0, errors
    assert "talus: 2 of 2 frames accepted, correlation " in shown
    assert shown.endswith(f"{out}\n")
    assert len(read_transforms(out / "transforms.json")) == 6
    assert (out / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "high_resolution").exists()
    record = json.loads((out / "register.json").read_text())
    assert record["engine"] == "torch"
    assert set(record["masks"]) == {"calcaneus", "talus"}
    kept = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {name for name in kept if not name.startswith(".")} == {
        *record["files"],
        "register.json",
    }

    before = (out / "transforms.json").read_bytes()
    fewer = own_scans(tmp_path, n_frames=1, bones=("talus",))
    status, shown, errors = command("register", *fewer, "--out", out, "--gate", "1")
    assert status == 1  # done, but nothing is good enough; the new result says so
    assert "no registration can be believed: see " in errors
    assert "0 of 1 frames accepted" in shown
    assert (out / "transforms.json").read_bytes() != before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--mask", "talus"], "--mask 'talus' is not BONE=FILE"),
        (["--mask", "talus=again.nii"], "--mask talus is given twice"),
        (["--mask", "fibula=fibula.nii"], "there is no bone 'fibula'"),
        (["--engine", "guess"], "there is no engine 'guess'"),
        (["--device", "abacus"], "there is no device 'abacus'"),
        (["--dynamic", "none.nii"], "none.nii: no such file"),
    ],
)
def test_register_refuses_in_one_line(
    command: Any, tmp_path: Path, changed: list[str], message: str
) -> None:
    out = tmp_path / "out"
    status, shown, errors = command("register", *own_scans(tmp_path), "--out", out, *changed)
    assert status == 1
    lines = [line for line in errors.splitlines() if line.startswith("ankle: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert shown == ""
    assert not out.exists() or all(path.name.startswith(".") for path in out.iterdir())


def test_register_leaves_other_folders_alone(command: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    status, _, errors = command("register", *own_scans(tmp_path), "--out", out)
    assert status == 1
    assert "is not empty and holds no result" in errors
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def own_static_scan(folder: Path) -> list[Path | str]:
    """Arguments of `ankle segment` for a foot in a file of its own, and a network that knows it."""
    from ankle_lib.volume import save
    from tests.toy_ankle import oblique_affine
    from tests.toy_segmenter import INPUT, SHAPE, VOXEL_MM, by_hand, rendered, written

    scan = rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM))
    network = by_hand(scan, (700, 1000, 1300, 1600, 1900))
    path = save(folder / "scan.nii.gz", scan.data, scan.affine)
    checkpoint = written(network, folder / "final.ckpt", {"input": INPUT})
    return [path, "--checkpoint", checkpoint, "--device", "cpu"]


def test_segment_needs_no_cohort(command: Any, tmp_path: Path) -> None:
    import numpy as np

    from ankle_lib.volume import load
    from ankle_lib.weights.shipped import named

    out = tmp_path / "new" / "seg.nii.gz"
    arguments = (*own_static_scan(tmp_path), "--out", out, "--side", "right")
    status, shown, errors = command("segment", *arguments)
    assert (status, errors) == (0, "")
    scan, labels = load(tmp_path / "scan.nii.gz"), load(out)
    volumes = np.bincount(labels.data.ravel())[1:] * np.prod(scan.voxel_size_mm) / 1000
    assert shown.splitlines() == [
        f"calcaneus: {volumes[0]:.1f} cm3",
        f"talus: {volumes[1]:.1f} cm3",
        f"tibia: {volumes[2]:.1f} cm3",
        "a left foot, by the shape of its bones",
        f"network: {named(tmp_path / 'final.ckpt')}",
        "note: the bones are those of a left foot, not of a right one: is the image mirrored?",
        str(out),
        str(out.with_name("seg_labels.txt")),
        str(out.with_name("seg_confidence.csv")),
        str(out.with_name("seg_overlay.png")),
    ]
    assert labels.shape == scan.shape
    assert (labels.affine == scan.affine).all()
    assert set(labels.data.flat) == {0, 1, 2, 3}
    before = out.read_bytes()
    assert command("segment", *arguments)[0] == 0  # its own result is replaced
    assert out.read_bytes() == before


def test_segment_takes_the_network_of_the_package(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ankle_lib.volume import load
    from ankle_lib.weights import shipped

    scan, _, checkpoint, *_ = own_static_scan(tmp_path)
    monkeypatch.setattr(shipped, "SHIPPED", Path(checkpoint).parent)
    monkeypatch.setattr(shipped, "STATIC", Path(checkpoint).name)
    shipped.write_checksum(Path(checkpoint))
    status, shown, errors = command("segment", scan, "--out", tmp_path / "seg.nii")
    assert (status, errors) == (0, "")
    assert "network: final.ckpt (of the package, sha256 " in shown
    assert load(tmp_path / "seg.nii").data.max() == 3
    shipped.checksum_file(Path(checkpoint)).write_text("0000  final.ckpt\n")
    status, shown, errors = command("segment", scan, "--out", tmp_path / "other.nii")
    assert (status, shown) == (1, "")
    assert "final.ckpt: the package's network is missing or another file" in errors


def test_segment_says_so_when_a_bone_is_missing(command: Any, tmp_path: Path) -> None:
    import torch

    from ankle_lib.learning.checkpoints import load_checkpoint
    from tests.toy_segmenter import INPUT, written

    scan, _, checkpoint, *_ = own_static_scan(tmp_path)
    network = load_checkpoint(checkpoint).network
    with torch.no_grad():
        network.last.bias[1:] = -100
    written(network, Path(checkpoint), {"input": INPUT})
    out = tmp_path / "seg.nii"
    status, shown, errors = command("segment", scan, "--checkpoint", checkpoint, "--out", out)
    assert status == 1  # not all that was asked for; what was found is written all the same
    assert "note: no talus was found\n" in shown
    assert errors == f"ankle: {scan}: no talus and no tibia found: see {tmp_path}/seg_overlay.png\n"
    assert out.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--side", "both"], "there is no side 'both': choose one of auto, left, right"),
        (["--device", "abacus"], "there is no device 'abacus'"),
        (["--checkpoint", "none.ckpt"], "none.ckpt: there is no such checkpoint"),
        (["--checkpoint", "scan.nii.gz"], "scan.nii.gz: no checkpoint"),
        (["--out", "seg.png"], "seg.png: labels are written as NIfTI"),
        (["--out", "scan.nii.gz"], "scan.nii.gz: is what is read"),
        (["--out", "."], "is a folder"),
    ],
)
def test_segment_refuses_in_one_line(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = own_static_scan(Path())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, shown, errors = command("segment", *arguments, "--out", "seg.nii.gz", *changed)
    assert (status, shown) == (1, "")
    assert errors.startswith("ankle: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("image", ["none.nii.gz", "final.ckpt"])
def test_segment_refuses_other_images(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _, *options = own_static_scan(Path())
    status, _, errors = command("segment", image, *options, "--out", "seg.nii.gz")
    assert status == 1
    assert errors.startswith(f"ankle: {image}: ")
    assert not list(tmp_path.glob("*seg*"))


def test_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AnkleError("no")

    monkeypatch.setattr(courses, "run", fails)
    monkeypatch.setattr(sys, "argv", ["ankle", "run"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e0", 1.0), ("1e-3", 0.001), ("2.5", 2.5), ("3", 3), ("-4", -4), ("010", 10), ("true", True),
     ("[1, 2]", [1, 2]), ("'1e3'", "1e3"), ("nan", "nan"), ("9" * 400, int("9" * 400))],
)  # fmt: skip
def test_numbers_are_read_as_numbers(text: str, value: Any) -> None:
    found = cli._parameters([f"sigma={text}"])["sigma"]
    assert found == value
    assert type(found) is type(value)


def test_a_bad_frame_is_a_rejected_frame(command: Any, tmp_path: Path) -> None:
    import numpy as np

    from ankle_lib.pose_files import read_transforms
    from ankle_lib.volume import load, save

    options, out = own_scans(tmp_path, n_frames=3, bones=("talus",)), tmp_path / "out"
    movie = load(tmp_path / "movie.nii")
    data = movie.data.copy()
    data[..., 2] = np.nan
    save(tmp_path / "movie.nii", data, movie.affine)
    status, shown, errors = command("register", *options, "--out", out, "--no-high-resolution")
    assert status == 0, errors
    assert "talus: 2 of 3 frames accepted" in shown
    assert "rejected: frame 2" in shown
    assert "movie.nii, frame 2: " in shown
    poses = read_transforms(out / "transforms.json")
    assert [(p.frame, p.bone) for p in poses] == [
        (n, b) for b in ("whole", "talus") for n in range(3)
    ]
    assert [p.accepted for p in poses if p.bone == "talus"] == [True, True, False]
    assert poses[-1].correlation is None
    assert not (out / "masks" / "frame-02_label-talus_mask.nii.gz").exists()
