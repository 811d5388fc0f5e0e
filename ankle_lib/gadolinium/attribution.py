"""Which voxels a lesion's logit hangs on, by Captum; decoys and controls to judge the answers by.

A network that segments has an answer in every voxel. What is explained is one number: the sum of
its logits over the lesion's outline.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Saliency
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ankle_lib.gadolinium.lesion_crops import LesionSet
from ankle_lib.gadolinium.lesion_networks import LesionNetwork

PATH_STEPS = 32
"""Of integrated gradients, from the empty image to the image."""

NOISY_COPIES, NOISE = 12, 0.1
"""Of SmoothGrad; the noise is that of logarithmic images."""

HALO_VOXELS = 2
"""What belongs to a lesion: its outline and so many voxels around."""

DECOY = (-0.3, 0.7, 0.55)
"""Logarithms in T1w, T2w and FLAIR of a typical active lesion, over what is about it."""

DECOY_RADIUS, DECOY_DISTANCE = 2, 5
"""In voxels; the distance is that from all lesions."""


def summed_logit(network: LesionNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of images (N, 3, 3, S, S) and outlines (N, 3, S, S): the sums (N,)."""

    def forward(images: Tensor, outlines: Tensor) -> Tensor:
        return (network(images, outlines)[:, 0] * outlines).sum((1, 2, 3))

    return forward


def integrated_gradients(network: LesionNetwork, images: Tensor, outlines: Tensor) -> Tensor:
    """Return what each voxel adds to the sum (N, 3, 3, S, S), against images of only the median."""
    method = IntegratedGradients(summed_logit(network))
    return method.attribute(
        images, additional_forward_args=outlines, n_steps=PATH_STEPS, internal_batch_size=64
    )


def smooth_gradients(network: LesionNetwork, images: Tensor, outlines: Tensor) -> Tensor:
    """Return absolute gradients (N, 3, 3, S, S), averaged over noisy copies (SmoothGrad)."""
    method = NoiseTunnel(Saliency(summed_logit(network)))
    return method.attribute(
        images, nt_samples=NOISY_COPIES, stdevs=NOISE, additional_forward_args=outlines
    )


def grad_cam(network: LesionNetwork, images: Tensor, outlines: Tensor) -> Tensor:
    """Return the weighted features (N, 1, 3, S, S) of the coarse level, brought to full size."""
    method = LayerGradCam(summed_logit(network), network.coarse)
    maps = method.attribute(images, additional_forward_args=outlines, relu_attributions=True)
    return LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "nearest")


METHODS: Mapping[str, Callable[[LesionNetwork, Tensor, Tensor], Tensor]] = {
    "integrated gradients": integrated_gradients,
    "SmoothGrad": smooth_gradients,
    "Grad-CAM": grad_cam,
}


def attribute(network: LesionNetwork, lesions: LesionSet, method: str) -> NDArray[np.float32]:
    """Return how much each voxel counts (N, 3, S, S): absolute values, summed over sequences."""
    images = torch.from_numpy(lesions.images)
    outlines = torch.from_numpy(lesions.outlines.astype(np.float32))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        found = METHODS[method](network, images, outlines)
    return found.detach().abs().sum(1).numpy().astype(np.float32)


def concentration(
    maps: NDArray[np.float32], regions: NDArray[np.bool_], brain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return how much more a region's pixels count than those of the brain about it (N,).

    1 is what a map without any knowledge has; NaN for a map of zeros, or without a region.
    """
    found = []
    for one, region, inside in zip(maps, regions, brain, strict=True):
        average = one[inside].mean()
        found.append(one[region].mean() / average if average > 0 and region.any() else np.nan)
    return np.array(found)


def with_halo(lesions: LesionSet) -> NDArray[np.bool_]:
    """Return the lesions with what belongs to them (N, 3, S, S)."""
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return np.stack([ndimage.binary_dilation(o, cross, HALO_VOXELS) for o in lesions.outlines])


def with_decoys(lesions: LesionSet, seed: int = 0) -> tuple[LesionSet, NDArray[np.bool_]]:
    """Put something that looks like an active lesion into one plane, away from all lesions.

    Returns
    -------
    LesionSet
        Only the lesions beside which there is room for one.
    decoys : (N, 3, S, S) bool array
    """
    rng = np.random.default_rng(seed)
    images, decoys, kept = lesions.images.copy(), [], []
    side = images.shape[-1]
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    cross = ndimage.generate_binary_structure(2, 1)[None]
    for number, (image, every) in enumerate(zip(images, lesions.all_lesions, strict=True)):
        free = np.stack([ndimage.distance_transform_edt(~one) for one in every]) > DECOY_DISTANCE
        inside = ndimage.binary_erosion(image.any(0), cross, DECOY_RADIUS)
        places = np.argwhere(free & inside & every.any((1, 2), keepdims=True))
        if not len(places):
            continue
        plane, *centre = places[rng.integers(len(places))]
        away = np.sqrt(((grid - np.array(centre)[:, None, None]) ** 2).sum(0))
        amount = np.zeros_like(image[0])
        amount[plane] = np.clip(DECOY_RADIUS + 0.5 - away, 0, 1)
        image[:] = image * (1 - amount) + np.array(DECOY, "f4")[:, None, None, None] * amount
        decoys.append(amount > 0.5)
        kept.append(number)
    chosen = replace(lesions, images=images).chosen(np.array(kept, dtype=int))
    return chosen, np.array(decoys, dtype=bool).reshape(-1, 3, side, side)
