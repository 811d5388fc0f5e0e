"""The explorer of patches, without a browser."""

from __future__ import annotations

import numpy as np
import torch

from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule, admissible_positions, box_sums
from ankle_lib.widgets.patch_explorer import PatchExplorer
from tests.widgets.drawn import count

KEPT, UNLIKE = (0x00, 0x9E, 0x73), (0xF0, 0xE4, 0x42)


RULE = PatchRule((12, 12), tries=100, min_fraction=0.5)


def item(name: str = "static", *, pair: bool = False) -> Item:
    random = np.random.default_rng(3)
    image = random.normal(size=(40, 50, 4))
    region = np.zeros(image.shape, dtype=bool)
    region[5:30, 8:35, 1:3] = True
    region[5:30, 8:20, 1] = False  # slice 2 has more of it
    if not pair:
        return Item("T01", name, image, region, {"talus": region})
    target = image.copy()
    target[:, 20:] = random.normal(size=target[:, 20:].shape)
    return Item("T01", name, image, region, target=target, bone="talus")


def test_what_is_shown_is_what_the_extraction_keeps() -> None:
    explorer = PatchExplorer([item()], RULE)
    assert explorer.slice.value == 2
    region = torch.from_numpy(np.moveaxis(item().region, 2, 0).copy())
    kept = admissible_positions(region, RULE)[2].numpy()
    assert f"{kept.mean():.1%} of all positions are kept" in explorer.count.value
    green = count(explorer.panel, (0, 158, 115), 90)
    explorer.fraction.value = 0.9
    fewer = box_sums(region, RULE.size)[2].numpy() >= 0.9 * 144 - 1e-6
    assert f"{fewer.mean():.1%} of all positions" in explorer.count.value
    assert 0 < count(explorer.panel, (0, 158, 115), 90) < green
    explorer.slice.value = 0
    assert "The region is empty in this slice" in explorer.message.value
    assert "0.0% of all" in explorer.count.value


def test_a_click_says_why() -> None:
    explorer = PatchExplorer([item()], RULE)
    canvas = explorer.panel.canvas
    canvas._handle_custom_msg({"kind": "click", "x": 15.5 / 40, "y": 1 - 20.5 / 50}, [])
    assert explorer.verdict.value == "patch at 9, 14: 100% of it in the region: kept"
    canvas._handle_custom_msg({"kind": "click", "x": 0.999, "y": 0.001}, [])
    assert explorer.verdict.value == (
        "patch at 28, 38: 0% of it in the region, 50% are needed: rejected"
    )
    before = canvas.picture
    explorer.tries.value = 20
    assert canvas.picture != before
    canvas._handle_custom_msg({"kind": "move", "x": 0.5, "y": 0.5}, [])
    assert explorer.verdict.value.startswith("patch at 28, 38")


def test_pairs_are_judged_by_their_likeness() -> None:
    rules = {"talus": PatchRule((12, 12), tries=100, min_fraction=0.5, min_correlation=0.6)}
    explorer = PatchExplorer([item(pair=True)], rules)
    assert explorer.judge(9, 8).endswith("correlation with its target 1.00: kept")
    verdict = explorer.judge(9, 22)
    assert "more than 0.60 is needed: rejected" in verdict
    assert count(explorer.panel, UNLIKE, 130) > 100
    explorer.correlation.value = 0.0
    assert "kept" in explorer.judge(9, 8)
    share = float(explorer.count.value.split("%")[0])
    explorer.correlation.value = 0.9
    assert float(explorer.count.value.split("%")[0]) < share


def test_images_without_patches_are_a_sentence() -> None:
    assert "no image" in PatchExplorer([], RULE).message.value
    assert "no rule for patches" in PatchExplorer([item()], {"tibia": RULE}).message.value
    large = PatchRule((64, 64), tries=5, min_fraction=0.5)
    view = PatchExplorer([item()], large)
    assert "Patches of 64 × 64 pixels are larger than the slices of 40 × 50" in view.message.value
    view.panel.canvas._handle_custom_msg({"kind": "click", "x": 0.5, "y": 0.5}, [])
    broken = item()
    broken.image[3, 3, 2] = np.nan
    assert (
        "not numbers but NaN or infinite: shown black (1)"
        in PatchExplorer([broken], RULE).message.value
    )
    pair = item(pair=True)
    assert pair.target is not None
    pair.target[3, 3, 2] = np.nan
    said = PatchExplorer([pair], RULE).message.sentences
    assert said == (
        "In the target, voxels are not numbers but NaN or infinite: compared as 0 (1).",
    )
    nothing = Item("T01", "static", np.zeros((40, 50, 0)), np.zeros((40, 50, 0), dtype=bool))
    assert "has no voxels to take patches from" in PatchExplorer([nothing], RULE).message.value
