"""The library on a GPU that is not there: nothing lies on the wrong device, and little waits."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import patch_source
from ankle_lib.learning.training import train
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.source import Augmentation
from ankle_lib.phantom import simulate
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.reconstruction import sharp_scenes
from ankle_lib.reconstruction.moving_foot import _doubled
from ankle_lib.reconstruction.sharp_scenes import SceneSource
from ankle_lib.registration import every_sequence
from ankle_lib.registration.engines import Resolution, Settings, register
from ankle_lib.registration.every_sequence import register_cohort
from tests import gpu_paths
from tests.pretended_gpu import Mistake, PretendedGpu, pretended_gpu
from tests.reconstruction.toy_scene import toy_scene
from tests.registration.scene import scene, turned
from tests.toy_scans import toy_scan

GPU = "cuda"
SOURCES = Path(__file__).parents[1] / "ankle_lib"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    # other threads and processes would know nothing of it
    monkeypatch.setattr(joblib, "cpu_count", lambda *_, **__: 1)
    with pretended_gpu() as pretended:
        yield pretended


# --- it sees what it is for ---

MISTAKES: dict[str, Callable[[], Any]] = {
    "a sum of both devices": lambda: torch.ones(3, device=GPU) + torch.ones(3),
    "parts of both devices": lambda: torch.cat([torch.ones(3, device=GPU), torch.ones(3)]),
    "a network that was left": lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, device=GPU)),
    "an image that was left": lambda: torch.nn.Linear(2, 2).to(GPU)(torch.ones(1, 2)),
    "an index of the GPU": lambda: torch.ones(3)[torch.zeros(1, dtype=torch.long, device=GPU)],
    "values put to the GPU": lambda: torch.ones(3, device=GPU).__setitem__(
        torch.tensor([True, False, True], device=GPU), torch.zeros(2)
    ),
    "the other generator": lambda: torch.rand(2, generator=torch.Generator(), device=GPU),
    "the GPU's generator": lambda: torch.rand(2, generator=torch.Generator(GPU)),
    "numpy": lambda: torch.ones(3).to(GPU).numpy(),
    "numpy, of a view": lambda: np.asarray(torch.ones(3, 3, device=GPU)[0].flip(0)),
    "a copy that forgot": lambda: torch.ones(2, device=GPU).cpu() + torch.ones(2).cuda(),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_seen(gpu: PretendedGpu, mistake: str) -> None:
    with pytest.raises(Mistake):
        MISTAKES[mistake]()


WAITING: dict[str, Callable[[torch.Tensor], Any]] = {
    "a number": lambda there: there[0].item(),
    "a condition": lambda there: bool((there > 0).all()),
    "a list": lambda there: there.tolist(),
    "a copy": lambda there: there.cpu().numpy(),
    "a size": lambda there: there[there > 0],
    "places": lambda there: torch.nonzero(there),
    "a solution": lambda there: torch.linalg.solve(torch.eye(3, device=GPU), there),
}


@pytest.mark.parametrize("way", WAITING)
def test_planted_waits_are_counted(gpu: PretendedGpu, way: str) -> None:
    there = torch.ones(3, device=GPU)
    assert not gpu.waits
    WAITING[way](there)
    assert gpu.waits.total() >= 1


def test_what_is_right_is_neither_refused_nor_waited_for(gpu: PretendedGpu) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).to(GPU)
    images = torch.ones(1, 1, 5, 5).to(GPU)
    generator = torch.Generator(GPU).manual_seed(0)
    places = torch.randint(3, (2,), generator=generator, device=GPU)
    (network(images).mean() * 2.0 + images[..., 0, 0][0, places % 1].sum()).backward()
    assert network[0].weight.grad.device.type == "cuda"
    assert gpu.copies.total() == 2 + 5 + 1  # weights, biases and what is normalised; the images
    assert 10 < gpu.launches.total() < 60
    assert not gpu.waits
    assert (torch.ones(2) + torch.ones(2, device=GPU).cpu()).numpy().tolist() == [2, 2]


def test_a_scan_is_doubled_on_the_gpu_as_on_a_cpu(gpu: PretendedGpu) -> None:
    image = np.random.default_rng(0).normal(800, 200, (7, 12, 5))
    there = _doubled(image, GPU)
    assert there.device.type == "cuda"
    np.testing.assert_allclose(there.cpu().numpy(), _doubled(image).numpy(), rtol=1e-5)


# --- steps of trainings ---

CEILINGS = {("unet", "adam"): 560, ("unet", "muon"): 1150, ("resnet-basic", "adam"): 620}
"""Kernels per step: a network, its loss, both ways, the optimiser, and what draws the patches."""


def counted(gpu: PretendedGpu, work: Callable[[int], Any], first: int, then: int) -> list[float]:
    """Launches, copies and waits per step: those of a longer training less those of a shorter."""
    totals = []
    for steps in (first, then):
        before = [one.total() for one in (gpu.launches, gpu.copies, gpu.waits)]
        work(steps)
        after = [one.total() for one in (gpu.launches, gpu.copies, gpu.waits)]
        totals.append(np.subtract(after, before))
    return ((totals[1] - totals[0]) / (then - first)).tolist()


@pytest.mark.parametrize(("network", "optimizer"), CEILINGS)
def test_a_step_launches_little_and_waits_for_nothing(
    gpu: PretendedGpu, tmp_path: Path, network: str, optimizer: str
) -> None:
    source = patch_source([toy_scan("T01")], BONES, 16, 0.5, GPU)
    changes = Augmentation(rotation_deg=90, scale=1.2, gain=0.1, gamma=0.1, noise=0.1)

    def work(steps: int) -> None:
        stage = Stage(16, steps, 2, schedule="cosine")
        recipe = Recipe((stage,), network=network, optimizer=optimizer, epochs=1)

        def draw(n: int, generator: torch.Generator) -> Any:
            return source.draw(n, generator, changes)

        train(recipe.fresh(), recipe, draw, tmp_path / str(steps), device=GPU)

    launches, copies, waits = counted(gpu, work, 2, 6)
    assert 0.6 * CEILINGS[network, optimizer] < launches < CEILINGS[network, optimizer]
    assert copies <= 0
    assert waits <= 0.5  # the last look at the losses: four more numbers in one list


def test_a_step_on_scenes_waits_for_nothing(gpu: PretendedGpu) -> None:
    source = SceneSource([toy_scene("T01"), toy_scene("T02", 1)], 16, device=GPU)
    generator = torch.Generator(GPU)
    launches, copies, waits = counted(
        gpu, lambda n: [source.draw(8, generator) for _ in range(n)], 1, 3
    )
    assert launches < 60
    assert (copies, waits) == (0, 0)


def test_a_registration_waits_seldom(gpu: PretendedGpu) -> None:
    seen = scene([turned(angle) for angle in (0, 4)])
    settings = Settings(resolutions=(Resolution(3.0, (3.0, 3.0), 3, 8),), retry=False)
    found = register(
        seen.frames, seen.static, {"talus": seen.weights}, settings=settings, device=GPU
    )
    assert not found.failed.any()
    assert gpu.launches.total() < 20_000
    assert gpu.waits.total() < 1_000


# --- the other cores ---


class AskedError(Exception):
    """What was asked of `run_all`."""


def test_work_for_a_gpu_is_spread_over_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(function: Any, tasks: Any, **options: Any) -> None:
        raise AskedError(options)

    nothing = tmp_path / "nothing"
    person = CleanSubject("T01", "control", None, nothing, {}, {"active_run-01": []})
    calls: tuple[tuple[Any, Callable[[], Any]], ...] = (
        (every_sequence, lambda: register_cohort([person], nothing, masked=nothing, device=GPU)),
        (simulate, lambda: simulate.simulate(PRESETS["paper"], nothing, device=GPU)),
        (sharp_scenes, lambda: sharp_scenes.read_scenes([person], [], nothing, device=GPU)),
    )
    for module, call in calls:
        monkeypatch.setattr(module, "run_all", stop)
        with pytest.raises(AskedError) as caught:
            call()
        (options,) = caught.value.args
        assert options["device"] == GPU
        assert options.get("n_jobs") != 1


# --- every path that takes a device ---

HANDED_ON = {
    # thin covers, which only hand it on to what is run here
    *("foot.register.register_files", "foot.reconstruct.reconstruct_file"),
    *(
        "foot.whole.foot_files",
        "foot.segment.segment_file",
        "registration.every_sequence.experiment",
    ),
    *("dynamic.trainings.read_dynamic_study", "segmentation.study.read_study"),
    "learning.networks.fast_autocast",
}


def public_with_device() -> set[str]:
    """Public functions and methods of the rooms that compute, with an argument ``device``."""
    rooms = {"dynamic", "foot", "learning", "modalities", "patches", "phantom", "reconstruction"}
    rooms |= {"gadolinium", "registration", "segmentation", "small_data", "stroke"}
    found = set()
    for path in (path for path in SOURCES.glob("*/*.py") if path.parent.name in rooms):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        owners = [("", tree), *((f"{one.name}.", one) for one in classes)]
        for owner, node in owners:
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and not owner.startswith("_"):
                    names = [a.arg for a in (*one.args.args, *one.args.kwonlyargs)]
                    if "device" in names and (one.name == "__init__" or one.name[0] != "_"):
                        found.add(f"{module}.{owner}{one.name}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_path_that_takes_a_device_runs_on_a_gpu(gpu: PretendedGpu, tmp_path: Path) -> None:
    for path in gpu_paths.PATHS:
        folder = tmp_path / path.__name__
        folder.mkdir()
        before = gpu.launches.total()
        path(folder)
        assert gpu.launches.total() > before, f"{path.__name__} computed nothing on the GPU"
    missing = public_with_device() - HANDED_ON - gpu.entered
    assert not missing, f"run these in tests/gpu_paths.py: {sorted(missing)}"
