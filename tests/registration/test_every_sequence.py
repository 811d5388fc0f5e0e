"""A cohort of one subject: what the chapter writes, and what later chapters get to read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ankle_lib import cache
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.pose_files import read_transforms
from ankle_lib.presets import LABELS
from ankle_lib.quality.gate import fit_gate
from ankle_lib.quality.review_sheet import ReviewSheet, frame_path, read_registered
from ankle_lib.registration import every_sequence
from ankle_lib.registration.engines import Resolution, Settings
from ankle_lib.registration.every_sequence import (
    COLUMNS,
    Variant,
    experiment,
    judge,
    register_cohort,
    sequence_images,
)
from ankle_lib.registration.moving import moved_mask
from ankle_lib.registration.truth import truth_files
from ankle_lib.volume import Volume, load, save
from tests.registration.scene import scene, turned

VARIANT = Variant(
    settings=Settings(resolutions=(Resolution(3.0, (3.0, 3.0), 3, 8),)),
    radius_voxels={"talus": 0},
)
SEQUENCE = "active_run-01"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[CleanSubject, Path]:
    """Write one subject with the talus alone, its foot mask and its truth."""
    root = tmp_path_factory.mktemp("cohort")
    seen = scene([turned(angle) for angle in (0, 6, 9)])
    static = save(root / "static.nii.gz", seen.static.data, seen.static.affine)
    mask = save(root / "talus.nii.gz", seen.bone, seen.static.affine)
    frames = [
        save(root / f"{n}.nii.gz", seen.frames.data[..., n], seen.frames.affine) for n in range(3)
    ]
    subject = CleanSubject("T01", "control", "right", static, {"talus": mask}, {SEQUENCE: frames})
    foot = root / "02" / "sub-T01" / "sub-T01_static_desc-foot_mask.nii.gz"
    save(foot, seen.static.data > 450, seen.static.affine)
    bone = Volume(seen.bone, seen.static.affine)
    labels = np.stack(
        [moved_mask(bone, t, seen.frames.shape, seen.frames.affine).data for t in seen.truth], -1
    )
    truth = root / "truth" / "T01"
    save(truth / f"{SEQUENCE}_dseg.nii.gz", labels * LABELS["talus"], seen.frames.affine)
    poses = [{"frame": n, "poses": {"talus": t.tolist()}} for n, t in enumerate(seen.truth)]
    (truth / f"{SEQUENCE}.json").write_text(json.dumps({"frames": poses}))
    return subject, root


@pytest.fixture(scope="module")
def registered(cohort: tuple[CleanSubject, Path]) -> tuple[pd.DataFrame, Path]:
    subject, root = cohort
    out = root / "03"
    table = register_cohort(
        [subject], out, masked=root / "02", truth=root / "truth", variant=VARIANT, n_jobs=1,
    )  # fmt: skip
    gates = {step: fit_gate([0.9], [0.9]) for step in ("whole", "bone")}
    return judge(table, gates, out), out


def test_the_table(registered: tuple[pd.DataFrame, Path]) -> None:
    table, out = registered
    assert tuple(table.columns) == COLUMNS
    assert sorted(table["bone"].unique()) == ["talus", "whole"]
    assert len(table) == 6
    bones = table[table["bone"] == "talus"]
    assert (bones["tre_mm"] < 0.5).all()
    assert (bones["dice"] > 0.9).all()
    assert bones["accepted"].all()
    turned_by = np.hypot(bones["rotation_lr_deg"], bones["rotation_ap_deg"])
    both = np.hypot(turned_by, bones["rotation_si_deg"])
    np.testing.assert_allclose(both, bones["rotation_error_deg"])
    written = pd.read_csv(out / "tables" / "registration.csv")
    np.testing.assert_allclose(written["tre_mm"], table["tre_mm"], rtol=1e-4)
    gate = pd.read_csv(out / "tables" / "gate.csv")
    assert list(gate.columns[:2]) == ["dice_threshold", "correlation_threshold"]


def test_the_files(
    registered: tuple[pd.DataFrame, Path], cohort: tuple[CleanSubject, Path]
) -> None:
    _, out = registered
    frames, static, masks = sequence_images(cohort[0], SEQUENCE)
    mask = load(frame_path(out, "T01", SEQUENCE, 2, "talus"))
    image = load(frame_path(out, "T01", SEQUENCE, 2, "talus", image=True))
    for volume in (mask, image):
        np.testing.assert_allclose(volume.affine, frames.affine, atol=1e-4)
    inside = mask.data > 0
    assert np.corrcoef(image.data[inside], frames.data[inside, 2])[0, 1] > 0.9
    poses = read_transforms(out / "sub-T01" / f"sub-T01_task-{SEQUENCE}_transforms.json")
    assert {(p.frame, p.bone) for p in poses} == {
        (f, b) for f in range(3) for b in ("whole", "talus")
    }
    assert set(masks) == {"talus"}
    assert static.data.ndim == 3


def test_only_accepted_registrations_are_handed_on(
    registered: tuple[pd.DataFrame, Path],
) -> None:
    table, out = registered
    assert [r.frame for r in read_registered(out)] == [0, 1, 2]
    sheet = ReviewSheet(out / "qc_sheet.csv")
    sheet.judge("T01", SEQUENCE, 1, "talus", "rejected", "Ada")
    sheet.judge("T01", SEQUENCE, 2, "talus", "unsure", "Ada")
    assert [r.frame for r in read_registered(out)] == [0]
    gates = {step: fit_gate([0.9], [0.9]) for step in ("whole", "bone")}
    judge(table, gates, out)  # a later run of the chapter: what Ada said stays
    assert [r.frame for r in read_registered(out)] == [0]


def test_a_gate_rejects(registered: tuple[pd.DataFrame, Path], tmp_path: Path) -> None:
    table, out = registered
    (tmp_path / "sub-T01").symlink_to(out / "sub-T01")
    strict = dataclasses.replace(fit_gate([0.9], [0.9]), correlation_threshold=0.9999)
    judged = judge(table, {"whole": strict, "bone": strict}, tmp_path)
    assert not judged["accepted"].any()
    assert (judged["reason"] == "correlation below the gate").all()
    assert read_registered(tmp_path) == []


@pytest.fixture
def again(
    registered: tuple[pd.DataFrame, Path],
    cohort: tuple[CleanSubject, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., pd.DataFrame]]:
    """Register the finished cohort again, where no registration is allowed."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("registered again")

    def run(variant: Variant = VARIANT) -> pd.DataFrame:
        subject, root = cohort
        record.write_bytes(before)  # work that fails leaves none
        return register_cohort(
            [subject], registered[1], masked=root / "02", truth=root / "truth", variant=variant,
            n_jobs=1,
        )  # fmt: skip

    record = registered[1] / ".records" / f"T01_{SEQUENCE}.json"
    before = record.read_bytes()
    monkeypatch.setattr(every_sequence, "register", never)
    yield run
    record.write_bytes(before)


def test_finished_sequences_are_not_done_again(
    registered: tuple[pd.DataFrame, Path], again: Callable[..., pd.DataFrame]
) -> None:
    pd.testing.assert_frame_equal(again()[["tre_mm", "dice"]], registered[0][["tre_mm", "dice"]])


def test_other_settings_are_registered_again(again: Callable[..., pd.DataFrame]) -> None:
    settings = dataclasses.replace(VARIANT.settings, largest_cost=0.7)
    for change in ({"sigma_voxels": 2.0}, {"settings": settings}):
        with pytest.raises(AssertionError, match="registered again"):
            again(dataclasses.replace(VARIANT, **change))


def test_another_truth_is_measured_again(
    cohort: tuple[CleanSubject, Path], again: Callable[..., pd.DataFrame]
) -> None:
    poses, labels = truth_files(cohort[1] / "truth", "T01", SEQUENCE)
    before = poses.read_bytes(), labels.read_bytes()
    poses.write_bytes(before[0] + b" ")
    with pytest.raises(AssertionError, match="registered again"):
        again()
    poses.write_bytes(before[0])
    save(labels, load(labels).data[::-1], load(labels).affine)
    with pytest.raises(AssertionError, match="registered again"):
        again()
    labels.write_bytes(before[1])
    again()  # the old truth, the old answer


@pytest.mark.parametrize(
    "module", ["registration.every_sequence", "registration.engines", "registration.truth",
               "registration.similarity", "masking.mask_images", "metrics"],
)  # fmt: skip
def test_changed_code_is_run_again(
    again: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    source = cache._source

    def changed(name: str) -> tuple[str, frozenset[str]]:
        digest, used = source(name)
        return digest + "x" * (name == f"ankle_lib.{module}"), used

    monkeypatch.setattr(cache, "_source", changed)
    with pytest.raises(AssertionError, match="registered again"):
        again()


def test_an_experiment_writes_nothing_and_can_start_off_the_truth(
    cohort: tuple[CleanSubject, Path],
) -> None:
    subject, root = cohort
    before = sorted(root.rglob("*"))
    lost = dataclasses.replace(VARIANT.settings, start_angles_deg=(0.0,), retry=False)
    table = experiment(
        [subject],
        {
            "good": dataclasses.replace(VARIANT, start_error=(3.0, 1.0)),
            "lost": dataclasses.replace(VARIANT, settings=lost, start_error=(60.0, 25.0)),
        },
        masked=root / "02", truth=root / "truth", n_jobs=1,
    )  # fmt: skip
    assert sorted(root.rglob("*")) == before
    worst = table.groupby("variant")["tre_mm"].max()
    assert worst["good"] < 0.5 < 5 < worst["lost"]


def test_a_finished_comparison_is_read(
    cohort: tuple[CleanSubject, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, root = cohort
    soft, softer, hard = (dataclasses.replace(VARIANT, sigma_voxels=s) for s in (1.0, 2.0, 0.5))

    def compare(**variants: Variant) -> pd.DataFrame:
        return experiment([subject], variants, masked=root / "02", n_jobs=1, out=tmp_path)

    first = compare(a=soft, b=softer)
    monkeypatch.setattr(every_sequence, "register", None)
    second = compare(b=softer, a=soft)
    for name in "ab":
        rows = [table[table["variant"] == name].reset_index(drop=True) for table in (first, second)]
        pd.testing.assert_frame_equal(*rows)
    with pytest.raises(TypeError):  # another variant is registered
        compare(a=hard)


def test_without_truth_the_columns_are_empty(cohort: tuple[CleanSubject, Path]) -> None:
    subject, root = cohort
    table = experiment([subject], {"a": VARIANT}, masked=root / "02", n_jobs=1)
    assert table[["dice", "tre_mm", "rotation_error_deg"]].isna().all(axis=None)
    assert table["correlation"].notna().all()
