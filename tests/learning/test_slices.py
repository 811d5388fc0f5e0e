from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.learning import networks, slices
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.prediction import labels_from
from ankle_lib.learning.slices import whole_slices

SHAPE = (45, 38, 6)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in bfloat16, so that answers can be compared digit by digit."""
    monkeypatch.setattr(networks, "is_fast_in_bfloat16", lambda kind: False)


@pytest.fixture
def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def network() -> SliceNetwork:
    return used("unet", out_channels=3, depth=3, width=4)


def used(name: str, **arguments: object) -> SliceNetwork:
    """A network whose answers vary, and whose statistics are not those of any test image."""
    torch.manual_seed(0)
    network = build(name, **arguments)
    for _ in range(30):
        network.train()(0.5 + 1.5 * torch.randn(2, network.in_channels, 32, 32))
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= 10
    return network


def slice_by_slice(network: nn.Module, image: NDArray) -> NDArray:
    """The obvious way, without gradients."""
    with torch.no_grad():
        maps = [network(torch.tensor(image[None, None, :, :, k]))[0] for k in range(image.shape[2])]
    return torch.stack(maps, dim=-1).numpy()


class Pointwise(nn.Module):
    """Two channels that only depend on the pixel; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(tuple(images.shape))
        return torch.cat([torch.sigmoid(images * self.scale), torch.sigmoid(-images)], dim=1)

    def __deepcopy__(self, memo: dict) -> Pointwise:
        return self  # so that the calls are seen


# --- whole slices --------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [None, 1, 4, 100])
def test_whole_slices_equal_the_obvious_way(
    network: SliceNetwork,
    image: NDArray,
    at_once: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if at_once:
        monkeypatch.setattr(slices, "_slices_at_once", lambda *_: at_once)
    found = whole_slices(network, image)
    expected = slice_by_slice(copy.deepcopy(network).eval(), image)
    assert found.shape == (3, *SHAPE)
    assert found.dtype == np.float16
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("at_once", [1, 4])
def test_slices_beside_are_seen_too(
    image: NDArray, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = (-2, 0, 1)
    monkeypatch.setattr(slices, "_slices_at_once", lambda *_: at_once)
    network = used("unet", depth=2, width=4, in_channels=3)
    found = whole_slices(network, image, context=context)
    for k in range(image.shape[2]):
        seen = [image[:, :, min(max(k + one, 0), image.shape[2] - 1)] for one in context]
        with torch.inference_mode():
            wanted = network.eval()(torch.from_numpy(np.stack(seen)[None]))[0]
        np.testing.assert_allclose(found[..., k], wanted.numpy(), atol=1e-3)


def test_in_bfloat16_the_labels_are_nearly_the_same(
    network: SliceNetwork, image: NDArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = whole_slices(network, image)
    monkeypatch.setattr(networks, "is_fast_in_bfloat16", lambda kind: True)
    fast = whole_slices(network, image)
    assert fast.dtype == exact.dtype
    assert 0 < np.abs(fast - exact).max() < 0.2
    threshold = float(np.median(exact.max(axis=0)))
    assert (labels_from(fast, threshold) != labels_from(exact, threshold)).mean() < 0.03


def test_the_memory_order_of_the_image_does_not_matter(
    network: SliceNetwork, image: NDArray
) -> None:
    fortran = np.asfortranarray(image.astype(np.float64))
    np.testing.assert_array_equal(whole_slices(network, fortran), whole_slices(network, image))


def test_intensities_keep_their_precision(image: NDArray) -> None:
    network = used("resnet-basic", head="intensity", depth=2, width=4)
    found = whole_slices(network, image)
    assert found.dtype == np.float32
    expected = slice_by_slice(network.eval(), image)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("as_2020", [True, False])
def test_the_network_is_left_as_it_was(
    network: SliceNetwork, image: NDArray, training: bool, as_2020: bool
) -> None:
    network.train(training)
    network.last.eval()  # a mode of its own
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    strides = [parameter.stride() for parameter in network.parameters()]
    whole_slices(network, image, batchnorm_training=as_2020)
    whole_slices(network, image, tile=16, batchnorm_training=as_2020)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.stride() for parameter in network.parameters()] == strides
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_batch_normalisation_as_in_2020(network: SliceNetwork, image: NDArray) -> None:
    image[10:] *= 0.01  # mostly air
    as_coded = whole_slices(network, image, batchnorm_training=True)
    expected = slice_by_slice(copy.deepcopy(network).train(), image)
    np.testing.assert_allclose(as_coded, expected, atol=1e-3)
    corrected = whole_slices(network, image)
    assert np.abs(as_coded - corrected).max() > 0.1
    # slices do not know of each other
    alone = whole_slices(network, image[:, :, 2:3], batchnorm_training=True)
    np.testing.assert_array_equal(alone[..., 0], as_coded[..., 2])


# --- only where the foot is ----------------------------------------------------------------------


def test_slices_without_foot_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_slices_at_once", lambda *_: 2)
    image = np.zeros((200, 120, 9), np.float32)
    foot = np.zeros(image.shape, bool)
    foot[90:100, 50:60, 2:4] = True
    foot[10, 10, 7] = True
    network = Pointwise()
    maps = whole_slices(network, image, foot=foot)
    assert [call[0] for call in network.calls] == [2, 1]
    height, width = network.calls[0][2:]
    assert height < 100
    assert height % 16 == width % 16 == 0
    assert (maps[0] > 0).any(axis=(0, 1)).tolist() == [k in (2, 3, 7) for k in range(9)]
    assert (maps[:, foot] == 0.5).all()
    assert maps[0, 150, 100, 3] == 0


@given(
    first=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    second=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    at_once=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_every_voxel_of_the_foot_gets_its_own_value(
    first: tuple[int, int], second: tuple[int, int], at_once: int
) -> None:
    image = np.random.default_rng(1).normal(size=(100, 100, 3)).astype(np.float32)
    foot = np.zeros(image.shape, bool)
    foot[(*first, 0)] = foot[(*second, 2)] = True
    with mock.patch.object(slices, "_slices_at_once", return_value=at_once):
        maps = whole_slices(Pointwise(), image, foot=foot)
    np.testing.assert_allclose(maps[0][foot], 1 / (1 + np.exp(-image[foot])), atol=1e-3)


def test_a_network_that_sees_less_than_the_margin_does_not_notice_the_box() -> None:
    image = np.random.default_rng(0).normal(size=(160, 150, 2)).astype(np.float32)
    foot = np.zeros(image.shape, bool)
    foot[70:90, 60:80] = True
    network = used("fcn", depth=4, width=2)
    cut, whole = whole_slices(network, image, foot=foot), whole_slices(network, image)
    np.testing.assert_allclose(cut[0][foot], whole[0][foot], atol=1e-3)


# --- tiles ---------------------------------------------------------------------------------------


def test_tiles_equal_monais_slices(network: SliceNetwork) -> None:
    from monai.inferers import SliceInferer

    image = np.random.default_rng(0).normal(size=(70, 48, 3)).astype(np.float32)
    found = whole_slices(network, image, tile=32)
    inferer = SliceInferer(
        roi_size=(32, 32), spatial_dim=2, sw_batch_size=1, overlap=0.5, mode="gaussian"
    )
    with torch.no_grad():
        expected = inferer(torch.from_numpy(image[None, None]), network.eval())
    assert isinstance(expected, Tensor)
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-3)
    assert np.abs(found - whole_slices(network, image)).max() > 0.01


@pytest.mark.parametrize("size", [16, 40, 64])
def test_averaging_tiles_changes_nothing_where_they_agree(size: int, image: NDArray) -> None:
    maps = whole_slices(Pointwise(), image, tile=size)
    np.testing.assert_allclose(maps[0], 1 / (1 + np.exp(-image)), atol=1e-3)


def test_tiles_within_the_foots_box() -> None:
    image = np.random.default_rng(0).normal(size=(200, 200, 3)).astype(np.float32)
    foot = np.zeros(image.shape, bool)
    foot[80:120, 90:110, 1] = True
    network = Pointwise()
    maps = whole_slices(network, image, tile=32, foot=foot)
    assert sum(call[0] for call in network.calls) < 60
    np.testing.assert_allclose(maps[0][foot], 1 / (1 + np.exp(-image[foot])), atol=1e-3)
    assert not maps[..., [0, 2]].any()


def test_tiles_as_in_2020_have_their_own_statistics(network: SliceNetwork, image: NDArray) -> None:
    found = whole_slices(network, image[:16, :16], tile=16, batchnorm_training=True)
    expected = slice_by_slice(network.train(), image[:16, :16])
    np.testing.assert_allclose(found, expected, atol=1e-3)


# --- refusals ------------------------------------------------------------------------------------


def test_unusable_images(network: SliceNetwork, image: NDArray) -> None:
    with pytest.raises(AnkleError, match="three axes"):
        whole_slices(network, image[..., None])
    with pytest.raises(AnkleError, match="the foot mask has shape"):
        whole_slices(network, image, foot=np.ones(SHAPE[:2], bool))
    with pytest.raises(AnkleError, match="foot mask is empty"):
        whole_slices(network, image, foot=np.zeros(SHAPE, bool))
    image[1, 2, 3] = np.nan
    with pytest.raises(AnkleError, match="not finite"):
        whole_slices(network, image)
