from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import dynamic_items, reconstruction_items, static_items, zscore
from ankle_lib.patches.rules import (
    PatchRule,
)
from ankle_lib.patches.source import PatchSource
from ankle_lib.patches.split import Split
from ankle_lib.presets import BONES
from ankle_lib.volume import load, save
from tests.patches.toy_items import PSR, generator, subject


def test_zscore_is_standard_inside_the_mask() -> None:
    random = np.random.default_rng(0)
    data, mask = random.gamma(3.0, 200.0, (9, 8, 7)), random.random((9, 8, 7)) < 0.4
    result = zscore(data.astype(np.int16), mask)
    assert result.dtype == np.float32
    assert result[mask].mean() == pytest.approx(0, abs=1e-5)
    assert result[mask].std() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(result.ravel(), data.ravel())[0, 1] > 0.99999


def test_zscore_refuses_what_it_cannot_scale() -> None:
    data, mask = np.ones((3, 3, 3)), np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(AnkleError, match="constant inside the mask"):
        zscore(data, mask)
    with pytest.raises(AnkleError, match="mask is empty"):
        zscore(data, ~mask)
    with pytest.raises(AnkleError, match="not finite"):
        zscore(np.where(np.arange(27).reshape(3, 3, 3) == 5, np.nan, 1.0), mask)


@dataclass(frozen=True)
class Registered:
    subject: str
    sequence: str
    frame: int
    bone: str
    mask: Path
    moved_static: Path


@dataclass(frozen=True)
class Results:
    subjects: list[CleanSubject]
    masked: Path
    accepted: list[Registered]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Write two subjects of two frames; the tibia of frame 1 was not accepted."""
    random, shape = np.random.default_rng(0), (24, 24, 3)
    people, accepted = [], []

    def image(name: str) -> Path:
        return save(tmp_path / name, random.integers(1, 900, shape).astype(np.int16), PSR)

    def mask(name: str) -> Path:
        inside = np.zeros(shape, dtype=np.uint8)
        inside[4:20, 4:20] = 1
        return save(tmp_path / name, inside, PSR)

    for code in ("T01", "E01"):
        frames = [image(f"{code}_{n}.nii.gz") for n in range(2)]
        masks = {bone: mask(f"{code}_{bone}.nii.gz") for bone in BONES}
        static = image(f"{code}.nii.gz")
        people.append(
            subject(code, static=static, masks=masks, sequences={"active_run-01": frames})
        )
        for name in ("static", *(f"task-active_run-01_frame-{n:02d}" for n in range(2))):
            mask(f"masked/sub-{code}/sub-{code}_{name}_desc-foot_mask.nii.gz")
        for n, bone in itertools.product(range(2), BONES):
            if (n, bone) != (1, "tibia"):
                moved = image(f"{code}_{n}_{bone}_moved.nii.gz")
                accepted.append(Registered(code, "active_run-01", n, bone, masks[bone], moved))
    return Results(people, tmp_path / "masked", accepted)


def test_items_are_read_from_the_chapters_folders(results: Results) -> None:
    static = list(static_items(results.subjects, results.masked))
    assert [one.subject for one in static] == ["T01", "E01"]
    assert set(static[0].labels) == set(BONES)
    assert static[0].image[static[0].region].std() == pytest.approx(1, abs=1e-4)
    dynamic = list(dynamic_items(results.subjects, results.masked, results.accepted))
    assert [one.name for one in dynamic] == ["active_run-01 frame 0", "active_run-01 frame 1"] * 2
    assert [sorted(one.labels) for one in dynamic[:2]] == [sorted(BONES), sorted(BONES[:2])]
    pairs = list(reconstruction_items(results.subjects[:1], results.accepted))
    assert [one.bone for one in pairs] == [*BONES, *BONES[:2]]
    assert all(one.target is not None for one in pairs)


def test_frames_and_sequences_follow_their_subject(results: Results) -> None:
    split = Split(("T01",), test=("E01",))
    train, test = split.pick(results.subjects, "train"), split.pick(results.subjects, "test")
    rule = PatchRule((8, 8), 20, 0.75)
    for read in (
        lambda people: dynamic_items(people, results.masked, results.accepted),
        lambda people: reconstruction_items(people, results.accepted),
        lambda people: static_items(people, results.masked),
    ):
        sources = [PatchSource(read(people), rule) for people in (train, test)]
        assert [source.subjects for source in sources] == [("T01",), ("E01",)]
        drawn = {source.describe(row)[:3] for source in sources[:1] for row in places(source)}
        assert drawn == {"T01"}


def places(source: PatchSource) -> list[list[int]]:
    return source.draw(100, generator()).where.tolist()


def test_files_that_do_not_belong_together_are_named(results: Results, tmp_path: Path) -> None:
    other = save(tmp_path / "other.nii.gz", np.ones((5, 5, 5), dtype=np.uint8), np.eye(4))
    wrong = dataclasses.replace(results.accepted[0], mask=other)
    with pytest.raises(AnkleError, match=r"other\.nii\.gz: not on the grid"):
        list(dynamic_items(results.subjects, results.masked, [wrong]))
    late = dataclasses.replace(results.accepted[0], frame=7)
    with pytest.raises(AnkleError, match="T01 has no frame 7"):
        list(dynamic_items(results.subjects, results.masked, [late]))
    save(results.subjects[0].static, np.full((24, 24, 3), 7.0), PSR)
    with pytest.raises(AnkleError, match=r"T01\.nii\.gz: the image is constant"):
        list(static_items(results.subjects, results.masked))


def test_a_rounded_affine_is_the_same_grid(results: Results) -> None:
    near = PSR.copy()
    near[:3, 3] += 3.5e-3
    mask = load(results.accepted[0].mask)
    save(results.accepted[0].mask, mask.data, near)
    assert len(list(dynamic_items(results.subjects, results.masked, results.accepted))) == 4
