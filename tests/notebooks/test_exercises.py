"""Exercises: wrong answers are refused, and told what is wrong with them.

That every solution passes its check is seen where the chapters run: there a check that fails ends
the chapter, and here it is looked whether each check was met.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from ankle_lib.running.answers import WrongAnswer
from ankle_lib.volume import Volume
from tests.course import solved

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKS = {
    path.stem.removeprefix("chapter_").upper(): path
    for path in sorted((ROOT / "notebooks" / "checks").glob("chapter_*.py"))
}


@pytest.fixture(autouse=True)
def _as_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the checks as a kernel does whose working folder is that of the notebooks."""
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))


def check_of(chapter: str, number: int) -> Callable[..., None]:
    module = importlib.import_module(f"checks.chapter_{chapter.lower()}")
    return getattr(module, f"exercise_{number}")


def entropy_of(p: Any) -> Any:
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


# --- wrong answers ---

RANDOM = np.random.default_rng(0)
STATIC = Volume(np.zeros((20, 24, 30), np.float32), np.diag([0.5, 0.5, 2.0, 1.0]))
FILM = Volume(np.ones((10, 12, 5, 3), np.float32), np.diag([1.0, 1.0, 8.0, 1.0]))
CUBE = np.zeros(STATIC.shape, dtype=bool)
CUBE[4:15, 5:16, 6:19] = True
ANGLES = pd.DataFrame(
    [
        (group, child, angle)
        for group, child, ends in (
            ("control", "T01", (-30, 10)),
            ("control", "T02", (-4, 20)),
            ("control", "T03", (-20, 2)),
            ("equinus", "E01", (-50, -20)),
        )
        for angle in ends
    ],
    columns=["group", "subject", "dorsiflexion_deg"],
)
SIDES = pd.DataFrame(
    {
        "subject": ["T01", "T02", "T03"],
        "head, mm to the right": [9.0, -5.0, 12.0],
        "malleolus, mm to the right": [4.0, -7.0, 15.0],
    }
)
POSES = {
    (frame, bone): np.block(
        [[np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.zeros((3, 1))], [np.eye(4)[3:]]]
    )
    for frame in range(4)
    for bone, deg in (("tibia", 4 * frame + 3), ("talus", 13 * frame + 10))
    for c, s in [(np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg)))]
}
GATED = pd.DataFrame(
    [
        ("T01", run, dice, 0.4 + 0.4 * dice + shift)
        for run, shift, least in (("a", 0.0, 0.5), ("b", 0.05, 0.6), ("c", 0.0, 0.9))
        for dice in np.linspace(least, 0.98, 12)
    ],
    columns=["subject", "sequence", "dice", "correlation"],
)
METHODS = ("registration alone", "network alone", "network, then registration")
SCORES = pd.DataFrame(
    [
        (method, child, frame, bone, 0.9 + lift * sign + 0.004 * dip + 0.001 * n)
        for method, lift, worst in zip(METHODS, (0.0, -0.05, 0.02), (1, 2, 0), strict=True)
        for n, (child, sign) in enumerate((("E01", 1.0), ("E02", 0.2)))
        for frame in range(4)
        for bone in ("talus", "tibia")
        for dip in [-(3 - abs(frame - worst)) - (bone == "talus") * (frame == 3)]
    ],
    columns=["method", "subject", "frame", "bone", "dice"],
)
OF_CHILD = SCORES.pivot_table("dice", "subject", "method")
GAIN = OF_CHILD[METHODS[2]] - OF_CHILD[METHODS[0]]
TARGETS = torch.from_numpy(RANDOM.normal(size=(5, 1, 16, 16)).astype(np.float32))
PICTURE = ndimage.gaussian_filter(RANDOM.normal(size=(40, 36)), 2.0)
SHIFTS = np.linspace(-6, 6, 13)


def records(folder: Path) -> SimpleNamespace:
    """Return a cohort of two static scans, of which one has too large voxels."""
    from ankle_lib.volume import save

    paths = []
    for code, size in (("T01", (0.5, 0.5, 0.8)), ("T02", (0.5, 0.5, 0.6))):
        paths.append(folder / f"{code}.nii.gz")
        affine = np.array(
            [[0, 0, size[2], 0], [-size[0], 0, 0, 0], [0, size[1], 0, 0], [0] * 3 + [1]]
        )
        save(paths[-1], np.ones((6, 6, 6), np.float32), affine)
    subjects = [
        SimpleNamespace(code=path.name[:3], static=[path], files=lambda: ()) for path in paths
    ]
    geometry = SimpleNamespace(static_voxel_mm=(0.5, 0.5, 0.8), tolerance=0.05)
    return SimpleNamespace(subjects=subjects, geometry=geometry)


def lifted(points: Any, centre: Any, deg: float) -> Any:
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return (points - centre) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]) + centre


def mean_dice(found: Any, target: Any) -> float:
    return float(2 * (found & target).sum() / (found.sum() + target.sum()))


def tiles(image: Any, predict: Any, side: int, step: int) -> Any:
    """Lay tiles one after the other, and forget the rest."""
    total = np.zeros(image.shape)
    for row in range(0, image.shape[0] - side + 1, step):
        for column in range(0, image.shape[1] - side + 1, step):
            place = np.s_[row : row + side, column : column + side]
            total[place] = predict(image[place])
    return total


def shifted_alone(points: Any, there: Any) -> Any:
    pose = np.eye(4)
    pose[:3, 3] = (there - points).mean(axis=0)
    return pose


def mirrored_too(points: Any, there: Any) -> Any:
    one, two = points.mean(axis=0), there.mean(axis=0)
    u, _, vt = np.linalg.svd((points - one).T @ (there - two))
    pose = np.eye(4)
    pose[:3, :3] = vt.T @ u.T
    pose[:3, 3] = two - pose[:3, :3] @ one
    return pose


# chapter, exercise, wrong answers, what the message says
CT_BONES = CUBE
CT_IMAGE = np.where(CUBE, RANDOM.normal(320, 60, CUBE.shape), RANDOM.normal(120, 80, CUBE.shape))
BRANCHES = pd.DataFrame(
    [
        ("joint, own norms", "2 MR + 8 CT", 0, modality, child, 0.1, *dices)
        for modality, dices in (("mr", (0.9, 0.7)), ("ct", (0.8, 0.9)))
        for child in ("T36", "E36")
    ],
    columns=["arm", "regime", "seed", "modality", "subject", "entropy_mr", "dice_mr", "dice_ct"],
)

CARRIED = pd.DataFrame(
    [
        (constraint, child, dice)
        for constraint, of_child in {
            "none": (0.80, 0.70, 0.85, 0.60),
            "rigid": (0.81, 0.80, 0.84, 0.62),
            "rigid, joints kept": (0.88, 0.74, 0.90, 0.61),
        }.items()
        for child, dice in zip(("V01", "V02", "V03", "V04"), of_child, strict=True)
    ],
    columns=["constraint", "subject", "dice"],
)
LESIONS = pd.DataFrame(
    [
        (arm, size, found, part)
        for arm, of in (
            ("BasicUNet", (("below 1 ml", 0, 0.0), ("below 1 ml", 0, 0.0), ("below 1 ml", 0, 0.0),
                           ("below 1 ml", 1, 0.4), ("1 to 5 ml", 1, 0.8), ("1 to 5 ml", 1, 0.8))),
            ("SwinUNETR", (("below 1 ml", 1, 0.5), ("1 to 5 ml", 1, 0.9))),
        )
        for size, found, part in of
    ],
    columns=["arm", "size", "found", "found_part"],
)  # fmt: skip


def branch_of_means(mean: Any, kept: Any) -> int:
    return int(np.argmin([np.mean((mean - one) ** 2 / spread) for one, spread in kept]))


def shift_of_middles(fine: Any, seen: Any, n: int) -> int:
    seen_after = {s: np.roll(fine, s).reshape(-1, n)[:, n // 2] for s in range(-6, 7)}
    return min(seen_after, key=lambda shift: ((seen_after[shift] - seen) ** 2).sum())


def shift_of_slices(fine: Any, seen: Any, n: int) -> int:
    seen_after = {s: np.roll(fine, -s).reshape(-1, n).mean(1) for s in range(-6, 7)}
    return min(seen_after, key=lambda shift: ((seen_after[shift] - seen) ** 2).sum())


WRONG: list[tuple[str, int, tuple[Any, ...], str]] = [
    ("00", 1, (1.0, 4.0), "side of a pixel"),
    ("00", 1, (0.008, 4.0), "a thousand times too small"),
    ("00", 1, (8.0, 0.25), "the other way round"),
    ("00", 2, ("T01",), "plantar-flexes most"),
    ("00", 2, ("T03",), "toes up"),
    ("00", 2, ("E01",), "has equinus"),
    ("00", 3, ({"talus": 0.0},), "in the middle of each slice"),
    ("00", 3, ({"tibia": 0.5},), "its keys are"),
    ("00", 4, (lambda points, centre, deg: lifted(points, centre, -deg),), "the toes go down"),
    ("00", 4, (lambda points, centre, deg: lifted(points, 0 * centre, deg),), "about the origin;"),
    ("01", 1, (lambda head, tip: "left" if head > 0 else "right",), "talar head alone"),
    ("01", 1, (lambda head, tip: "left" if head + tip > 0 else "right",), "it guesses"),
    ("01", 2, (15.0,), "the last subject|the smaller distance|too large"),
    ("01", 2, (4.3e-3 - 0.0003,), "a thousand times too small"),
    ("01", 3, ({"T01": 0.0, "T02": 0.2},), "part of the expected size"),
    ("01", 3, ({"T01": 0.0, "T02": 25.0},), "a hundred times too large"),
    ("01", 4, (lambda affine, shape, axis: affine,), "mirror image"),
    ("01", 4, (lambda affine, shape, axis: affine @ flip_matrix(shape, axis, 0),), "off by one"),
    ("01", 5, (lambda mask, mm: mask,), "has not moved"),
    ("01", 5, (lambda mask, mm: Volume(np.roll(mask.data, 5, 0), mask.affine),), "array"),
    ("02", 1, (150,), "holds noise|agrees least"),
    ("02", 1, (601,), "not among"),
    ("02", 1, (600,), "too much tissue|agrees least"),
    ("02", 2, (lambda mask: mask,), "with a hole"),
    ("02", 2, (lambda mask: ndimage.binary_fill_holes(mask) & ~mask,), "holes alone"),
    ("02", 2, (lambda mask: ndimage.binary_fill_holes(mask, np.ones((3, 3))),), "corner"),
    ("02", 3, (dict.fromkeys(range(1, 6), 100.0),), "too large"),
    ("02", 3, ({1: 0.0},), "its keys are"),
    ("02", 4, (np.mean,), "mean of all values"),
    ("02", 4, (lambda values: np.ptp(values) / 2 + values.min(),), "middle of the range"),
    ("03", 1, (lambda pose, truth, points: np.linalg.norm(pose[:3, 3] - truth[:3, 3]),), "columns"),
    ("03", 1, (lambda pose, truth, points: 0.0,), "too small"),
    ("03", 2, ([0.0, 13.0, 26.0, 39.0],), "the tibia moves, too"),
    ("03", 2, ([7.0, 16.0, 25.0, 34.0],), "begin at frame 0"),
    ("03", 2, ([0.0, 9.0, 18.0],), "its shape is"),
    ("03", 3, ([0.74, 0.79, 0.64],), "could not be read"),
    ("03", 3, ([0.64],), "could not be read|shape"),
    ("03", 4, (FILM.data,), "nothing is lost"),
    ("03", 4, (FILM.data * np.arange(5)[:, None] != 2,), "numbers"),
    ("04", 1, (lambda image, mask: (image - image.mean()) / image.std(),), "whole image"),
    ("04", 1, (lambda image, mask: (image - image[mask].mean()) / image[mask].var(),), "variance"),
    ("04", 2, (19.2,), "corners lie farther"),
    ("04", 2, (32 * 1.4142 * 1.2,), "begin in the middle"),
    ("04", 3, (lambda foot, side, least: foot.mean(),), "with patches of 8 pixels"),
    ("04", 3, (lambda foot, side, least: share(foot, side, least).sum(),), "number"),
    ("04", 4, (lambda test, train, side: near(test, train, side, slices=False),), "other slices"),
    ("04", 4, (lambda test, train, side: near(test, train, side, each=True),), "a quarter"),
    ("05", 1, (mean_dice,), "one Dice of all pixels"),
    ("05", 1, (lambda found, target: 1.0,), "too large"),
    ("05", 2, (lambda f, mean, variance, training: batch_mode(f),), "the mistake of 2020"),
    ("05", 2, (lambda f, mean, variance, training: f,), "in training mode"),
    ("05", 3, (lambda p, t: 2 * ((p > 0.5) * t).sum() / (p.sum() + t.sum() + 1),), "of a"),
    ("05", 3, (lambda p, t: (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1),), "a loss is small"),
    ("05", 4, (lambda image, predict, side, step: image,), "depends on its border"),
    ("05", 4, (tiles,), "no multiples"),
    ("06", 1, ({1: 16, 2: 8, 4: 4, 8: 2}, {}), "along one side"),
    ("06", 1, ({1: 256, 2: 128, 4: 64, 8: 32}, {}), "both sides"),
    ("06", 1, ({1: 256, 2: 64, 4: 16, 8: 4}, {1: 1.0, 2: 0.9, 4: 0.9, 8: 0.9}), "2: too large"),
    ("06", 2, (lambda a, b, span: 10 * np.log(span**2 / ((a - b) ** 2).mean()),), "decimal"),
    ("06", 2, (lambda a, b, span: 20 * np.log10(span**2 / ((a - b) ** 2).mean()),), "not both"),
    ("06", 3, (lambda sharp, n: sharp[:, :, n // 2 :: n],), "middle slice alone"),
    ("06", 3, (lambda sharp, n: sharp.reshape(*sharp.shape[:2], n, -1).mean(2),), "lie apart"),
    ("06", 4, (lambda sharp, thick: sharp,), "nothing has changed"),
    (
        "06",
        4,
        (lambda sharp, thick: np.repeat(thick, sharp.shape[2] // thick.shape[2], 2),),
        "gone",
    ),
    ("07", 1, (lambda losses, known: losses.mean(),), "their loss means nothing"),
    ("07", 1, (lambda losses, known: (losses * known).mean(),), "learnt perfectly"),
    ("07", 2, (3,), "too large|best|single bone"),
    ("07", 2, (1,), "registration is worst"),
    ("07", 3, ((-GAIN).to_dict(),), "what each child loses"),
    ("07", 3, (dict.fromkeys(GAIN.index, GAIN.mean()),), "two means"),
    ("07", 4, (mirrored_too,), "mirrors the bone"),
    ("07", 4, (shifted_alone,), "does not turn it"),
    ("08", 1, (lambda volumes: 100 * np.var(volumes) / np.mean(volumes),), "variance"),
    ("08", 1, (lambda volumes: np.std(volumes) / np.mean(volumes),), "a hundred times too small"),
    ("08", 1, (lambda volumes: 100 * np.std(volumes, ddof=1) / np.mean(volumes),), "one less"),
    ("08", 2, ("V03",), "largest Dice"),
    ("08", 2, ("V02",), "not kept"),
    ("08", 2, ("V04",), "gains least"),
    ("08", 3, (lambda a, b: ndimage.distance_transform_cdt(~b, "chessboard")[a].min(),), "meet"),
    ("08", 3, (lambda a, b: np.ceil(ndimage.distance_transform_edt(~b)[a].min()) - 1,), "squares"),
    ("08", 4, (shift_of_middles,), "not the one in its middle"),
    ("08", 4, (shift_of_slices,), "the bone moves"),
    (
        "09",
        1,
        (
            lambda sensitivity, specificity, prevalence: (
                sensitivity / (sensitivity + 1 - specificity)
            ),
        ),
        "prevalence does not count",
    ),
    (
        "09",
        1,
        (lambda sensitivity, specificity, prevalence: sensitivity * prevalence,),
        "few|differ",
    ),
    ("09", 2, (0.06,), "gadoterate"),
    ("09", 2, (0.02,), "chronic lesion"),
    ("09", 3, (lambda draws: entropy_of(draws.mean(0)),), "not taken off"),
    ("09", 3, (lambda draws: entropy_of(draws).mean(0),), "aleatoric"),
    ("09", 4, (lambda first, second, both: np.array([first, second]) - 0.5,), "comes first"),
    ("09", 4, (lambda first, second, both: both - np.array([second, first]),), "comes second"),
    ("10", 1, (lambda attenuation, water: 1000 * attenuation / water,), "air -1000"),
    ("10", 1, (lambda attenuation, water: (attenuation - water) / water,), "a thousand|differ"),
    ("10", 2, (50,), "much that is none"),
    ("10", 2, (550,), "agree least"),
    ("10", 3, ({"mr": -0.2, "ct": -0.1},), "what it gains"),
    ("10", 3, ({"mr": 0.1, "ct": 0.2},), "exchanged"),
    ("10", 4, (lambda mean, variance, kept: branch_of_means(mean, kept),), "means alone"),
    ("10", 4, (lambda mean, variance, kept: 1,), "where the means tell"),
    ("11", 1, (lambda rows, columns: rows * columns,), "those are the places"),
    ("11", 1, (lambda rows, columns: rows * columns * (rows * columns - 1) // 2,), "asks itself"),
    ("11", 2, (0.25,), "was found"),
    ("11", 2, (0.5,), "all sizes"),
    ("11", 2, (0.9,), "of their voxels"),
    ("11", 3, (lambda low, high, margin: of_sides(low, high) or "undecided",), "matters|around 0"),
    ("11", 3, (lambda low, high, margin: said(low, high, margin, "equivalent"),), "no difference"),
    ("11", 4, (lambda q, k, v: gate(q, k, v, 1.0),), "root of the number"),
    ("11", 4, (lambda q, k, v: gate(q, k, v, q.shape[1] ** 0.5, last=lambda x: x),), "sigmoid"),
    (
        "A1",
        1,
        (lambda side, kernel, stride, padding: (side + 2 * padding - kernel) // stride,),
        "pl",
    ),
    (
        "A1",
        1,
        (lambda side, kernel, stride, padding: (side + padding - kernel) // stride + 1,),
        "both",
    ),
    ("A1", 2, (589824, 69888 + 128), "no biases"),
    ("A1", 2, (65536, 69632), "nine weights"),
    ("A1", 3, ({4: 6.0, 32: 6.0, 512: -6.0},), "4: too large|smallest"),
    ("A1", 3, ({4: 6, 32: 6, 512: 6},), "4: "),
    ("A1", 4, (lambda layers: 1 + sum(kernel - 1 for kernel, _ in layers),), "two pixels"),
    ("A1", 4, (lambda layers: int(np.prod([kernel for kernel, _ in layers])),), "not multiplied"),
]


def of_sides(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else ""


def said(low: float, high: float, margin: float, otherwise: str) -> str:
    inside = -margin < low and high < margin
    return "equivalent" if inside else of_sides(low, high) or otherwise


def gate(queries: Any, keys: Any, values: Any, scale: float, last: Any = None) -> Any:
    fits = queries @ keys.T / scale
    odds = np.exp(fits - fits.max(axis=1, keepdims=True))
    mean = odds / odds.sum(axis=1, keepdims=True) @ values
    return last(mean) if last else 1 / (1 + np.exp(-mean))


def flip_matrix(shape: Any, axis: int, last: int) -> Any:
    matrix = np.eye(4)
    matrix[axis, axis], matrix[axis, 3] = -1, shape[axis] + last
    return matrix


def share(foot: Any, side: int, least: float) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(foot, (side, side))
    return windows.mean(axis=(2, 3)) >= least - 1e-9


def near(test: Any, train: Any, side: int, *, slices: bool = True, each: bool = False) -> Any:
    shared = np.clip(1 - np.abs(test[:, None, 1:] - train[None, :, 1:]) / side, 0, None)
    half = (shared >= 0.5).all(axis=2) if each else shared.prod(axis=2) >= 0.5
    return (half & ((test[:, None, 0] == train[None, :, 0]) | (not slices))).any(axis=1)


def batch_mode(features: Any) -> Any:
    mean, variance = (fold(axis=(0, 2, 3), keepdims=True) for fold in (features.mean, features.var))
    return (features - mean) / np.sqrt(variance + 1e-5)


def given(chapter: str, number: int, folder: Path) -> dict[str, Any]:
    """Return what a notebook would give to a check."""
    first = Volume(RANDOM.normal(300, 40, (12, 12, 4)).astype(np.float32), FILM.affine)
    foot = np.zeros(first.shape, dtype=bool)
    foot[3:9, 3:9] = True
    first.data[foot] += 200
    first.data[~foot] -= 150
    return {
        ("00", 1): {"static": STATIC, "film": FILM},
        ("00", 2): {"angles": ANGLES},
        ("00", 3): {"outlines": {"talus": CUBE}, "static": STATIC, "film": FILM},
        ("01", 2): {"sides": SIDES},
        ("01", 3): {"records": records(folder)} if (chapter, number) == ("01", 3) else {},
        ("02", 1): {"thresholds": range(150, 601, 75), "frame": first, "true_foot": foot},
        ("02", 3): {"bone": CUBE, "voxel_size_mm": STATIC.voxel_size_mm},
        ("03", 2): {"poses": POSES, "n_frames": 4},
        ("03", 3): {"of_whole": GATED},
        ("03", 4): {"frames": FILM, "talus": np.ones(FILM.shape, dtype=bool)},
        ("04", 2): {"side_mm": 32.0},
        ("06", 1): {"targets": TARGETS},
        ("07", 2): {"scores": SCORES},
        ("07", 3): {"scores": SCORES},
        ("08", 2): {"scores": CARRIED},
        ("09", 2): {"concentrations": np.round(np.arange(0, 0.5, 0.005), 3)},
        ("10", 2): {"image": CT_IMAGE, "bones": CT_BONES, "levels": range(50, 600, 100)},
        ("10", 3): {"scores": BRANCHES},
        ("11", 2): {"lesions": LESIONS},
        ("A1", 3): {"image": PICTURE, "partner": PICTURE, "shifts_mm": SHIFTS, "pixel_mm": 1.0},
    }.get((chapter, number), {})


@pytest.mark.parametrize(
    ("chapter", "number", "answers", "words"),
    WRONG,
    ids=[f"{chapter}-{number}-{words}" for chapter, number, _, words in WRONG],
)
def test_a_wrong_answer_is_told_what_is_wrong(
    tmp_path: Path, chapter: str, number: int, answers: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(WrongAnswer, match=words) as wrong:
        check_of(chapter, number)(*answers, **given(chapter, number, tmp_path))
    told = str(wrong.value)
    assert told.startswith(f"Exercise {number}: ")
    assert "\n" not in told
    assert wrong.value._render_traceback_() == [f"Not yet. {told}"]  # all that a notebook shows


def test_every_exercise_has_two_wrong_answers() -> None:
    kinds: dict[tuple[str, int], set[str]] = {}
    for chapter, number, _, words in WRONG:
        kinds.setdefault((chapter, number), set()).add(words)
    exercises = {
        (chapter, int(number))
        for chapter, path in CHECKS.items()
        for number in re.findall(r"def exercise_(\d+)\(", path.read_text())
    }
    assert set(kinds) == exercises
    assert all(len(words) >= 2 for words in kinds.values())


@pytest.mark.parametrize("chapter", CHECKS)
def test_no_answer_is_no_wrong_answer(chapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    (notebook,) = (path for path in NOTEBOOKS if path.name.startswith(chapter))
    for number, (_, check) in enumerate(solved(notebook), start=1):
        (call,) = (node for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Call))
        keywords = dict.fromkeys(keyword.arg for keyword in call.keywords if keyword.arg)
        check_of(chapter, number)(*[...] * len(call.args), **keywords)
        assert capsys.readouterr().out == f"Exercise {number}: not answered yet\n"


# --- the notebooks ---


@pytest.mark.parametrize("chapter", CHECKS)
def test_a_chapter_has_exercises_of_rising_difficulty(chapter: str) -> None:
    (path,) = (path for path in NOTEBOOKS if path.name.startswith(chapter))
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    heads = re.findall(r"^### Exercise (\d) · (★+)\n\n.+", "\n".join(texts), re.MULTILINE)
    assert [int(number) for number, _ in heads] == list(range(1, len(heads) + 1))
    assert 4 <= len(heads) == len(solved(path)) <= 6
    stars = [len(one) for _, one in heads]
    assert stars == sorted(stars)
    assert {1, 2, 3} == set(stars)
    assert sum("<summary>Hint</summary>\n\n" in text for text in texts) == len(heads)
    assert sum(text.startswith("### Open project\n\n") for text in texts) == 1
    assert (
        3
        <= texts[-1].partition("**What you now know**\n")[2].partition("\n\n")[0].count("\n- ") + 1
        <= 5
    )
    for cell in cells:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.source.startswith("# Solution: ")
            assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_solution_passes_its_check(smoke_results: Path) -> None:
    for chapter in CHECKS:
        (path,) = smoke_results.glob(f"{chapter}_*/notebook.ipynb")
        for cell in nbformat.read(path, as_version=4).cells:
            number = re.fullmatch(r"exercise-(\d+)-check", cell.id)
            if number:
                shown = "".join(output.get("text", "") for output in cell.outputs)
                assert shown.startswith(f"Exercise {number[1]}: right. "), f"{path}: {shown}"
