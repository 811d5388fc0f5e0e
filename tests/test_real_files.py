"""What real files do: public reports of people who do this job, each tried here.

`REAL_FILES.md` is made from the tables below: ``python -m tests.test_real_files``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib import cli
from ankle_lib.cleaning.laterality import wrong_way_up
from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import Scans, read_scans
from ankle_lib.geometry import rigid, same_grid
from ankle_lib.manifest.layouts import scan_folder
from ankle_lib.running.execution import plain
from ankle_lib.volume import Volume, load, read_header, resample, save
from tests.toy_ankle import ToyAnkle, toy_ankle

TABLE = Path(__file__).with_name("REAL_FILES.md")
TURNED = rigid([0, 0, 10], [12, 0, 0])


@dataclass(frozen=True)
class Report:
    """A public report, what of it is tried, and what happens here."""

    source: str
    case: str
    outcome: str
    check: Callable[[Path, ToyAnkle], None]


REPORTS: list[Report] = []


def report(source: str, case: str, outcome: str) -> Callable[[Callable], Callable]:
    """Add a function to the table that tries a report and checks the outcome."""

    def add(check: Callable[[Path, ToyAnkle], None]) -> Callable[[Path, ToyAnkle], None]:
        REPORTS.append(Report(f"https://github.com/{source}", case, outcome, check))
        return check

    return add


def files(folder: Path, ankle: ToyAnkle, **changed: Volume) -> dict[str, Path]:
    """Write the files of a foot, some of them changed."""
    volumes = {"static": ankle.static, "dynamic": ankle.sequence, **ankle.masks, **changed}
    return {name: save(folder / f"{name}.nii", v.data, v.affine) for name, v in volumes.items()}


def read(paths: dict[str, Path], *bones: str) -> Scans:
    return read_scans(paths["static"], [paths["dynamic"]], {bone: paths[bone] for bone in bones})


def with_forms(path: Path, qform: tuple[NDArray, int], sform: tuple[NDArray, int]) -> Path:
    """Write both affines of a header, as other programs do."""
    image = nib.load(path)
    header = image.header.copy()
    header.set_qform(*qform)
    header.set_sform(*sform)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, header), path)
    return path


@report(
    "nipreps/fmriprep/issues/819",
    "qform and sform of the anatomical scan disagree; one tool follows the one, another the other",
    "refused; the message tells both codes, the distance, and how to copy one over the other",
)
def two_places(folder: Path, ankle: ToyAnkle) -> None:
    paths, own = files(folder, ankle), ankle.static.affine
    with_forms(paths["static"], (own, 1), (TURNED @ own, 2))
    with pytest.raises(AnkleError, match=r"two places, .* \(code 1\) .* \(code 2\) .*fslorient"):
        read(paths, "talus")


@report(
    "ANTsX/ANTs/issues/1804",
    "only the offsets of qform and sform differ",
    "refused, the distance is told",
)
def two_offsets(folder: Path, ankle: ToyAnkle) -> None:
    paths, own = files(folder, ankle), ankle.static.affine
    with_forms(paths["static"], (own, 1), (rigid([0, 0, 0], [0, 3, 4]) @ own, 1))
    with pytest.raises(AnkleError, match="which are 5 mm apart"):
        load(paths["static"])


@report(
    "simnibs/simnibs/issues/110",
    "a qform of code 0 (unknown) lies elsewhere than the sform",
    "the sform alone counts, nothing is refused",
)
def unknown_qform(folder: Path, ankle: ToyAnkle) -> None:
    paths, own = files(folder, ankle), ankle.static.affine
    with_forms(paths["static"], (TURNED @ own, 0), (own, 1))
    np.testing.assert_allclose(load(paths["static"]).affine, own, atol=1e-4)


@report(
    "spinalcordtoolbox/spinalcordtoolbox/issues/2106",
    "a segmentation keeps the qform of its scan and gets another sform",
    "recognised by the one that is the static scan's",
)
def mask_in_two_places(folder: Path, ankle: ToyAnkle) -> None:
    paths, own = files(folder, ankle), ankle.static.affine
    with_forms(paths["talus"], (own, 1), (TURNED @ own, 1))
    scans = read(paths, "talus")
    np.testing.assert_array_equal(scans.masks["talus"], ankle.masks["talus"].data > 0)
    assert scans.notes == ()


@report(
    "spinalcordtoolbox/spinalcordtoolbox/issues/4689",
    "a sheared sform is written beside the nearest qform, which lies elsewhere",
    "files written here have no qform then, and are read again",
)
def sheared(folder: Path, ankle: ToyAnkle) -> None:
    affine = ankle.static.affine @ np.array(
        [[1, 0.05, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )
    path = save(folder / "sheared.nii", ankle.static.data, affine)
    assert read_header(path).qform_code == 0
    np.testing.assert_allclose(load(path).affine, affine, atol=1e-4)


@report(
    "rordenlab/dcm2niix/issues/267",
    "an sform of zeros is marked as valid",
    "refused: the sform gives voxels of 0 mm",
)
def sform_of_zeros(folder: Path, ankle: ToyAnkle) -> None:
    path = files(folder, ankle)["static"]
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(content)
    with pytest.raises(AnkleError, match="sform gives voxels of 0 x 0 x 0 mm"):
        load(path)


@report(
    "ANTsX/ANTs/issues/826",
    "qform and sform have code 0, and registration goes astray",
    "refused: where left and right are is not known; the message says how to save it again",
)
def no_form(folder: Path, ankle: ToyAnkle) -> None:
    paths, own = files(folder, ankle), ankle.static.affine
    with_forms(paths["talus"], (own, 0), (own, 0))
    with pytest.raises(AnkleError, match="save it again with the affine of the scan"):
        read(paths, "talus")


@report(
    "scipy/scipy/issues/20038",
    "an upscaled image has a black border",
    "voxels reach to their faces: labels on a grid twice as fine keep every voxel",
)
def black_border(folder: Path, ankle: ToyAnkle) -> None:
    ones = Volume(np.ones((5, 6, 7), np.uint8), ankle.static.affine)
    half = ones.affine @ np.diag([0.5, 0.5, 0.5, 1])
    half[:3, 3] -= half[:3, :3] @ np.full(3, 0.5)
    assert resample(ones, (10, 12, 14), half, order=0).data.all()


@report(
    "TorchIO-project/torchio/issues/987",
    "image and label differ by 0.0003 mm in their origins",
    "one grid, as everywhere where corners are less than a tenth of a voxel apart",
)
def rounded_origin(folder: Path, ankle: ToyAnkle) -> None:
    near = ankle.masks["talus"].affine.copy()
    near[:3, 3] += 3e-4
    assert same_grid(ankle.static.grid, (ankle.static.shape, near))
    moved = Volume(ankle.masks["talus"].data, near)
    assert read(files(folder, ankle, talus=moved), "talus").notes == ()


@report(
    "Slicer/Slicer/issues/6102",
    "a segmentation is saved cropped to another extent than the scan's",
    "brought to the scan's grid without loss, and noted",
)
def cropped_mask(folder: Path, ankle: ToyAnkle) -> None:
    mask = ankle.masks["talus"]
    first = np.argwhere(mask.data).min(axis=0)
    affine = mask.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    i, j, k = first
    scans = read(files(folder, ankle, talus=Volume(mask.data[i:, j:, k:], affine)), "talus")
    np.testing.assert_array_equal(scans.masks["talus"], mask.data > 0)
    assert "was brought from its own grid" in scans.notes[0]


@report(
    "nipy/nibabel/issues/1001",
    "labels that were saved with a slope several times are no whole numbers any more",
    "taken as the labels that they were",
)
def drifting_labels(folder: Path, ankle: ToyAnkle) -> None:
    bones = ankle.masks
    labels = np.maximum(1.0006 * bones["calcaneus"].data, 1.9994 * bones["talus"].data)
    place = ankle.static.affine
    both = Volume(labels.astype(np.float32), place)
    scans = read(files(folder, ankle, calcaneus=both, talus=both), "calcaneus", "talus")
    np.testing.assert_array_equal(scans.masks["talus"], np.rint(labels) == 2)


@report(
    "MIC-DKFZ/nnUNet/issues/1777",
    "a mask holds 0 and 255",
    "taken",
)
def mask_of_255(folder: Path, ankle: ToyAnkle) -> None:
    mask = Volume(ankle.masks["talus"].data * np.uint8(255), ankle.static.affine)
    scans = read(files(folder, ankle, talus=mask), "talus")
    np.testing.assert_array_equal(scans.masks["talus"], mask.data > 0)


@report(
    "MIC-DKFZ/nnUNet/issues/2404",
    "a mask holds all values from 0 to 255: its edges were smoothed",
    "cut at half of the largest value, which is said",
)
def grey_mask(folder: Path, ankle: ToyAnkle) -> None:
    soft = ndimage.gaussian_filter(255.0 * ankle.masks["talus"].data, 1.0)
    soft = np.rint(255 * soft / soft.max()).astype(np.uint8)
    scans = read(files(folder, ankle, talus=Volume(soft, ankle.static.affine)), "talus")
    np.testing.assert_array_equal(scans.masks["talus"], soft > 127)
    assert "was binarised at 127.5" in scans.notes[0]


@report(
    "MIC-DKFZ/nnUNet/issues/1007",
    "a scan with values from -1024 on is given for a mask",
    "refused by its values",
)
def scan_for_mask(folder: Path, ankle: ToyAnkle) -> None:
    scan = Volume(ankle.static.data - np.int16(1024), ankle.static.affine)
    with pytest.raises(AnkleError, match=r"has the values -1024, .*: is it a scan"):
        read(files(folder, ankle, talus=scan), "talus")


@report(
    "MIC-DKFZ/nnUNet/issues/2500",
    "labels are 2, 3, 4, 5 where others were expected",
    "refused with the labels found; the one that is meant is named behind a colon",
)
def other_labels(folder: Path, ankle: ToyAnkle) -> None:
    labels = np.maximum(2 * ankle.masks["tibia"].data, 5 * ankle.masks["talus"].data)
    paths = files(folder, ankle, talus=Volume(labels, ankle.static.affine))
    with pytest.raises(AnkleError, match=r"has the labels 2, 5 beside 0: name .* as in --mask"):
        read(paths, "talus")
    paths["talus"] = Path(f"{paths['talus']}:5")
    np.testing.assert_array_equal(read(paths, "talus").masks["talus"], labels == 5)


@report(
    "rordenlab/dcm2niix/issues/515",
    "a series was stopped early: its last frame is incomplete",
    "a frame of zeros or without numbers is a rejected frame, and noted",
)
def stopped_early(folder: Path, ankle: ToyAnkle) -> None:
    data = ankle.sequence.data.copy()
    data[..., -1] = 0
    scans = read(files(folder, ankle, dynamic=Volume(data, ankle.sequence.affine)), "talus")
    assert scans.bad_frames == (2,)
    assert "frame 2: every voxel is 0" in scans.notes[0]


@report(
    "dgobbi/vtk-dicom/issues/173",
    "NIfTI does not tell padding from measured values",
    "a constant far from all other values is not measured: it becomes 0, which is said",
)
def padding(folder: Path, ankle: ToyAnkle) -> None:
    data = ankle.sequence.data.copy()
    data[:6] = -2000
    scans = read(files(folder, ankle, dynamic=Volume(data, ankle.sequence.affine)), "talus")
    assert not scans.frames.data[:6].any()
    assert "all -2000, were not measured" in scans.notes[0]


@report(
    "wasserth/TotalSegmentator/issues/229",
    "scans lie the wrong way round in their world, and segmentations fail",
    "told by the bones: the sole lies above, or the toes point backwards",
)
def upside_down(folder: Path, ankle: ToyAnkle) -> None:
    masks = {bone: mask.data > 0 for bone, mask in ankle.masks.items()}
    assert wrong_way_up(masks, ankle.static.affine) == ""
    assert "the sole lies above" in wrong_way_up(
        masks, np.diag([-1, 1, -1, 1]) @ ankle.static.affine
    )


@report(
    "nipy/nibabel/issues/1412",
    "a converted 4D file has time as its first axis",
    "refused: time seems to be first, and how to move it",
)
def time_first(folder: Path, ankle: ToyAnkle) -> None:
    series = Volume(np.moveaxis(ankle.sequence.data, 3, 0), ankle.sequence.affine)
    with pytest.raises(AnkleError, match=r"time seems to be the first axis.*moveaxis"):
        read(files(folder, ankle, dynamic=series), "talus")


@report(
    "nipreps/fmriprep/issues/286",
    "the T1-weighted scans of two sessions are taken for one subject's",
    "each session is a subject of its own",
)
def two_sessions(folder: Path, ankle: ToyAnkle) -> None:
    for session in ("retest", "test"):
        place = folder / f"sub-02/ses-{session}/anat/sub-02_ses-{session}_T1w.nii"
        place.parent.mkdir(parents=True)
        place.touch()
    found = {one.code: len(one.static) for one in scan_folder(folder).subjects}
    assert found == {"02sesretest": 1, "02sestest": 1}


@report(
    "nteract/papermill/issues/300",
    "braces in a path are filled in as a template",
    "paths are taken as they are",
)
def braces(folder: Path, ankle: ToyAnkle) -> None:
    for name in ("my {y}", "{preset}", "a}b{c", "{{}}"):
        assert plain(folder / name).format(preset="smoke") == str(folder / name)


@report(
    "calliope-project/calliope/issues/57",
    "1e3 in YAML is a text",
    "read as the number that it is",
)
def scientific(folder: Path, ankle: ToyAnkle) -> None:
    assert cli._parameters(["sigma=1e3", "steps=12"]) == {"sigma": 1000.0, "steps": 12}


KINDS = {
    "two affines in one header": (
        "refused, with the distance; a mask is known by either of its grids",
        "foot/test_reading.py::test_a_file_that_lies_in_two_places_is_refused",
    ),
    "resampling loses the border": (
        "nothing is lost on the same or a shifted lattice",
        "test_volume.py::test_nothing_is_lost_on_the_same_or_a_shifted_lattice",
    ),
    "scale from an outlier": (
        "one voxel costs no grey levels; what is judged is what is written",
        "foot/test_reconstruct.py::test_one_voxel_does_not_cost_the_grey_levels",
    ),
    "intensities assumed to be positive": (
        "an offset is taken off and noted",
        "foot/test_reconstruct.py::test_an_offset_changes_nothing",
    ),
    "padding as measurement": (
        "an isolated extreme constant counts as not measured, and is noted",
        "foot/test_reading.py::test_padding_and_offsets_change_nothing",
    ),
    "sessions and feet merged": (
        "each is a subject; what cannot be placed is listed with the reason",
        "manifest/test_layouts.py::test_sessions_and_feet_are_not_merged",
    ),
    "own output refused": (
        "labels of `ankle segment` and soft masks are masks; labels and thresholds are told",
        "foot/test_reading.py::test_labels_of_segment_are_masks",
    ),
    "plausibility that refuses good data": (
        "large static voxels are a note, a bad frame is a rejected frame",
        "test_cli.py::test_a_bad_frame_is_a_rejected_frame",
    ),
    "retry judged only against other frames": (
        "a frame alone is found as well as in its series",
        "foot/test_register.py::test_a_frame_alone_is_found_as_in_its_series",
    ),
    "masks are mirror images of the scan's bones": (
        "refused, with what to do",
        "foot/test_reading.py::test_what_cannot_be_registered_is_refused_in_one_line",
    ),
    "the static scan is a mirror image of the frames": (
        "no pose is believed, and the message says why",
        "foot/test_register.py::test_a_mirrored_static_scan_is_named",
    ),
    "paths as templates, numbers as text": (
        "any path is a path, any number a number",
        "running/test_execution.py::test_braces_in_a_path_are_no_template",
    ),
    "patient position wrong in the header": (
        "told by the bones; the network tries half a turn; scans that disagree are refused",
        "foot/test_segment.py::test_a_foot_that_the_header_turns_is_known_and_told",
    ),
    "views": (
        "one sentence; one tolerance for grids everywhere",
        "widgets/test_viewers.py::test_masks_without_names_are_a_sentence",
    ),
    "messages that mislead": (
        "other formats and orders of axes are called by their names",
        "test_volume.py::test_other_formats_are_called_by_their_names",
    ),
}
"""Kind of fault: what happens now, and a test of it."""


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


@pytest.mark.parametrize("one", REPORTS, ids=lambda one: one.check.__name__)
def test_a_public_report_is_no_fault_here(one: Report, tmp_path: Path, ankle: ToyAnkle) -> None:
    one.check(tmp_path, ankle)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_test(kind: str) -> None:
    place, _, name = KINDS[kind][1].partition("::")
    text = (TABLE.parent / place).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)


def table() -> str:
    """Return the tables as Markdown."""
    lines = [
        "# What real files do",
        "",
        "Made by `python -m tests.test_real_files`; the tests of that module try every line.",
        "",
        "| kind of fault | what happens now | test |",
        "|---|---|---|",
        *(f"| {kind} | {now} | `{test}` |" for kind, (now, test) in KINDS.items()),
        "",
        "| public report | case | outcome |",
        "|---|---|---|",
        *(f"| <{one.source}> | {one.case} | {one.outcome} |" for one in REPORTS),
        "",
    ]
    return "\n".join(lines)


def test_the_table_is_that_of_the_tests() -> None:
    assert len({one.source for one in REPORTS}) >= 12
    assert TABLE.read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
