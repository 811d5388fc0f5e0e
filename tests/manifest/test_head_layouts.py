"""Public data sets of heads, as toy trees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.manifest import head_layouts
from ankle_lib.manifest.document import load_manifest, manifest_from_folder, verify
from ankle_lib.manifest.layouts import scan_folder
from ankle_lib.volume import save

TREES = {
    "msseg2016": {
        f"Training/Center_01/Patient_0{n}/{name}.nii.gz": role
        for n in (1, 2)
        for name, role in {
            "Preprocessed_Data/T1_preprocessed": "T1w",
            "Preprocessed_Data/T2_preprocessed": "T2w",
            "Preprocessed_Data/FLAIR_preprocessed": "FLAIR",
            "Preprocessed_Data/GADO_preprocessed": "T1w_post",
            "Masks/Consensus": "lesions",
        }.items()
    },
    "isbi2015": {
        f"training/training01/{name}.nii": role
        for name, role in {
            "preprocessed/training01_02_mprage_pp": "T1w",
            "preprocessed/training01_02_t2_pp": "T2w",
            "preprocessed/training01_02_flair_pp": "FLAIR",
            "masks/training01_02_mask1": "lesions",
        }.items()
    },
    "open_ms_data": {
        f"cross_sectional/coregistered/patient07/{name}.nii.gz": role
        for name, role in {
            "T1W": "T1w",
            "T1WKS": "T1w_post",
            "T2W": "T2w",
            "FLAIR": "FLAIR",
            "consensus_gt": "lesions",
            "brainmask": "brain",
        }.items()
    },
    "atlas": {
        f"Training/R00{n}/sub-r00{n}s001/ses-1/anat/sub-r00{n}s001_ses-1_{space}{name}.nii.gz": role
        for n, space in ((1, "space-MNI152NLin2009aSym_"), (2, ""))
        for name, role in {"T1w": "T1w", "label-L_desc-T1lesion_mask": "lesions"}.items()
    },
}
CODES = {
    "msseg2016": ["Center01Patient01", "Center01Patient02"],
    "isbi2015": ["training0102"],
    "open_ms_data": ["patient07"],
    "atlas": ["r001s001ses1", "r002s001ses1"],
}


def write_tree(root: Path, layout: str) -> Path:
    for name in TREES[layout]:
        save(root / name, np.ones((4, 4, 4), dtype=np.float32), np.eye(4))
    return root


@pytest.mark.parametrize("layout", TREES)
def test_a_data_set_is_recognised_and_read(tmp_path: Path, layout: str) -> None:
    root = write_tree(tmp_path / "set", layout)
    save(root / "notes" / "extra.nii.gz", np.ones((4, 4, 4)), np.eye(4))
    found = scan_folder(root)
    assert found.layout == layout
    assert [subject.code for subject in found.subjects] == CODES[layout]
    assert found.unrecognised == ["notes/extra.nii.gz"]
    for subject in found.subjects:
        assert set(subject.images) == set(TREES[layout].values())
        for role, path in subject.images.items():
            assert TREES[layout][path.as_posix()] == role
    cohort = manifest_from_folder(root).cohort()
    assert all(path.is_file() for one in cohort.subjects for path in one.images.values())
    assert verify(cohort) == []


def test_a_head_is_verified(tmp_path: Path) -> None:
    root = write_tree(tmp_path, "open_ms_data")
    folder = root / "cross_sectional" / "coregistered" / "patient07"
    save(folder / "FLAIR.nii.gz", np.ones((5, 4, 4)), np.eye(4))
    problems = [one.problem for one in verify(manifest_from_folder(root).cohort())]
    assert problems == [
        "shape (5, 4, 4), its T1w has (4, 4, 4): all images of a head are on one grid"
    ]


def test_two_files_of_one_role_are_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, "open_ms_data")
    folder = root / "cross_sectional" / "coregistered" / "patient07"
    save(folder / "patient07_FLAIR.nii.gz", np.ones((4, 4, 4)), np.eye(4))
    with pytest.raises(AnkleError, match="patient07 has two FLAIR"):
        scan_folder(root)
    with pytest.raises(AnkleError, match="no patient found with the layout 'isbi2015'"):
        head_layouts.scan(root, "isbi2015")


def test_data_that_one_has_to_ask_for_may_be_missing(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        "version: 1\ncohorts:\n- name: heads\n  licence: on request\n"
        "  source: {type: local, root: heads, layout: isbi2015, ask_at: 'https://a.example'}\n",
        encoding="utf-8",
    )
    loaded = load_manifest(manifest)
    assert loaded.waits("heads") == "https://a.example"
    with pytest.raises(AnkleError, match=r"get its files at https://a\.example"):
        loaded.cohort("heads")
    write_tree(tmp_path / "heads", "isbi2015")
    assert loaded.waits("heads") is None
    assert [one.code for one in loaded.cohort("heads").subjects] == ["training0102"]


def test_the_repository_names_the_data_sets() -> None:
    manifest = load_manifest(Path(__file__).parents[2] / "data_manifest.yaml")
    named = {one.name: one for one in manifest.cohorts}
    assert set(head_layouts.LAYOUTS) <= set(named)
    assert all(named[layout].source.layout == layout for layout in TREES)  # type: ignore[union-attr]
