from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.networks import SliceNetwork, build

ARGUMENTS = {"out_channels": 3, "depth": 3, "width": 4}
LABELS = ("calcaneus", "talus", "tibia")


@pytest.fixture
def network() -> SliceNetwork:
    torch.manual_seed(0)
    made = build("unet", **ARGUMENTS)
    made(torch.randn(2, 1, 16, 16))  # running statistics other than the initial ones
    return made


def saved(path: Path, network: SliceNetwork, **changes: Any) -> Path:
    return save_checkpoint(path, network, **{"labels": LABELS} | changes)


def rewritten(path: Path, **changes: Any) -> Path:
    """The checkpoint with other entries, written without any check."""
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


# --- there and back ------------------------------------------------------------------------------


def test_a_loaded_network_gives_the_same_result(network: SliceNetwork, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "best.pt", network))
    assert (checkpoint.network.name, checkpoint.labels) == ("unet", LABELS)
    assert checkpoint.network.arguments == {"head": "probability", "in_channels": 1, **ARGUMENTS}
    assert not checkpoint.network.training
    inputs = torch.randn(1, 1, 19, 24)
    with torch.inference_mode():
        assert torch.equal(checkpoint.network(inputs), network.eval()(inputs))
    assert all(parameter.requires_grad for parameter in checkpoint.network.parameters())


def test_training_goes_on_from_its_state(network: SliceNetwork, tmp_path: Path) -> None:
    def step(net: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        torch.manual_seed(3)
        optimiser.zero_grad()
        net.train()(torch.randn(2, 1, 16, 16)).square().mean().backward()
        optimiser.step()

    adam = torch.optim.Adam(network.parameters(), 1e-3)
    step(network, adam)
    state = {
        "epoch": 4,
        "best": (0.91, None),
        "optimiser": adam.state_dict(),
        "random": torch.get_rng_state(),
    }
    checkpoint = load_checkpoint(saved(tmp_path / "last.pt", network, training=state))
    assert checkpoint.training["epoch"] == 4
    assert checkpoint.training["best"] == (0.91, None)
    assert torch.equal(checkpoint.training["random"], state["random"])
    resumed = torch.optim.Adam(checkpoint.network.parameters(), 1e-3)
    resumed.load_state_dict(checkpoint.training["optimiser"])
    step(network, adam)
    step(checkpoint.network, resumed)
    for ours, theirs in zip(
        checkpoint.network.state_dict().values(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_equal_content_gives_equal_bytes(network: SliceNetwork, tmp_path: Path) -> None:
    first = saved(tmp_path / "a.pt", network).read_bytes()
    assert saved(tmp_path / "b.pt", network).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_a_view_is_saved_alone(network: SliceNetwork, tmp_path: Path) -> None:
    view = torch.zeros(10_000_000)[:3]
    path = saved(tmp_path / "small.pt", network, training={"view": view})
    assert path.stat().st_size < 1_000_000


# --- what is not written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"loss": np.float64(0.1)}}, "more than tensors, numbers and text"),
        ({"training": {"a": [1, {"b": Path("x")}]}}, "more than tensors, numbers and text"),
        ({"labels": ("talus",)}, "1 labels for 3 channels"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    network: SliceNetwork, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / "best.pt", network)
    before = path.read_bytes()
    with pytest.raises(AnkleError, match=message):
        saved(path, network, **changes)
    assert path.read_bytes() == before


def test_a_network_that_was_changed_is_not_written(network: SliceNetwork, tmp_path: Path) -> None:
    network.bottom = torch.nn.Identity()
    with pytest.raises(AnkleError, match="those of another network"):
        saved(tmp_path / "best.pt", network)


def test_a_diverged_network_is_not_written(network: SliceNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan
    with pytest.raises(AnkleError, match="not finite"):
        saved(tmp_path / "best.pt", network)
    assert not list(tmp_path.iterdir())


# --- what is not read ----------------------------------------------------------------------------


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["whole", "nested", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(network: SliceNetwork, tmp_path: Path, where: str) -> None:
    trap, path = tmp_path / "trap", saved(tmp_path / "best.pt", network)
    if where == "whole":
        torch.save(Malicious(trap), path)
    elif where == "nested":
        rewritten(path, training={"state": Malicious(trap)})
    else:
        path.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(AnkleError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    if where != "plain pickle":  # the trap works where a reader is less careful
        torch.load(path, weights_only=False)
        assert trap.exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated(network: SliceNetwork, tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path / "best.pt", network)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(AnkleError, match="cut short"):
        load_checkpoint(path)


def test_a_flipped_bit_is_found(network: SliceNetwork, tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt", network)
    content = bytearray(path.read_bytes())
    refused = 0
    for position in range(100, len(content), len(content) // 40):
        damaged = content.copy()
        damaged[position] ^= 4
        path.write_bytes(damaged)
        try:
            weights = load_checkpoint(path).network.state_dict()
        except AnkleError:
            refused += 1
        else:  # some bytes of an archive mean nothing, such as padding
            for key, weight in network.state_dict().items():
                assert torch.equal(weights[key], weight)
    assert refused >= 20


def test_compressed_archives_are_foreign(network: SliceNetwork, tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt", network)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    with pytest.raises(AnkleError, match="no checkpoint"):
        load_checkpoint(bomb)


def test_other_files_are_foreign(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(AnkleError, match="there is no such checkpoint"):
        load_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(AnkleError, match="no checkpoint"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "x")
    with pytest.raises(AnkleError, match="is damaged"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(AnkleError, match="not a checkpoint of ankle_lib"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(AnkleError, match="not a checkpoint of ankle_lib"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "update ankle_lib"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"name": "vgg"}, "there is no network 'vgg'"),
        ({"name": ["unet"]}, "name: Input should be a valid string"),
        ({"arguments": {"width": 10**9}}, "width: .*found 1000000000"),
        ({"arguments": {1: 2}}, "arguments.1.*valid string"),
        ({"arguments": ARGUMENTS | {"depth": 4}}, "those of another network"),
        ({"arguments": ARGUMENTS | {"width": 8}}, "the network needs"),
        ({"labels": ["talus"]}, "1 labels for 3 channels"),
        ({"labels": [1, 2, 3]}, "labels.0.: Input should be a valid string"),
        ({"weights": [1]}, "weights: Input should be a valid dictionary"),
        ({"training": None}, "training: Input should be a valid dictionary"),
    ],
)
def test_content_that_does_not_fit(
    network: SliceNetwork, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = rewritten(saved(tmp_path / "best.pt", network), **changes)
    with pytest.raises(AnkleError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: torch.zeros(3, 3), "the network needs"),
        (lambda w: w.double(), "torch.float64"),
        (lambda w: torch.full_like(w, torch.inf), "not finite"),
        (lambda w: w.to_sparse(), "no plain tensor"),
        (lambda w: w.to("meta"), "no plain tensor"),
        (lambda w: 3.0, "no plain tensor"),
    ],
)
def test_weights_that_do_not_fit(
    network: SliceNetwork, tmp_path: Path, change: Any, message: str
) -> None:
    weights = dict(network.state_dict())
    key = next(key for key, weight in weights.items() if weight.ndim == 4)
    weights[key] = change(weights[key])
    path = rewritten(saved(tmp_path / "best.pt", network), weights=weights)
    with pytest.raises(AnkleError, match=message):
        load_checkpoint(path)
