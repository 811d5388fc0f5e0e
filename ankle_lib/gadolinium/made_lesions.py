"""Training lesions that nobody scanned: pasted from one brain into another, or painted.

All of them give planes with outlines and a class, like those of patients. A generator learns the
look of a lesion of either class inside a given outline, and around it; where the lesion lies, and
its outline, it takes from the patients.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.gadolinium.lesion_crops import LesionSet

CARVE_VOXELS = (0.5, 2.5)
"""A pasted lesion brings so much of what is around it."""

FAR = 1e6
"""Planes are so far from each other that distances are those within one."""

LATENT = 6
"""Numbers that a generator draws for each lesion."""

REACH_VOXELS = 2
"""A generator paints the lesion and so much around it."""

RATE = 3e-3

GAN_BETAS = (0.5, 0.999)
"""Of Adam, where painter and judge learn against each other."""


def paste(lesions: LesionSet, count: int, seed: int = 0) -> LesionSet:
    """Return lesions cut out of some planes and put in place of a smaller lesion of another's.

    After CarveMix (Zhang et al. 2023, doi:10.1016/j.neuroimage.2023.119957); as many of them are
    active as of the patients' lesions.
    """
    rng = np.random.default_rng(seed)
    source = rng.integers(len(lesions), size=count)
    host = _smaller_hosts(lesions, source, rng)
    images, every = lesions.images[host].copy(), lesions.all_lesions[host].copy()
    enhancement = lesions.enhancement[host].copy()
    for number, one in enumerate(source):
        away = ndimage.distance_transform_edt(~lesions.outlines[one], sampling=(FAR, 1, 1))
        carved = away <= rng.uniform(*CARVE_VOXELS)
        images[number][:, carved] = lesions.images[one][:, carved]
        enhancement[number][carved] = lesions.enhancement[one][carved]
        every[number] = (every[number] & ~carved) | lesions.outlines[one]
    made = lesions.chosen(source)
    return replace(made, images=images, all_lesions=every, enhancement=enhancement)


def _smaller_hosts(
    lesions: LesionSet, source: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return for each lesion one that is not larger, so that it is covered."""
    order = np.argsort(lesions.outlines.sum((1, 2, 3)), kind="stable")
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    return order[(rng.uniform(size=len(source)) * (rank[source] + 1)).astype(int)]


class Painter(nn.Module):
    """Paints a lesion into images: from the host, the outline, the class and random numbers."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(5 + LATENT, width), nn.LeakyReLU(0.2),
            _conv(width, width), nn.LeakyReLU(0.2),
            nn.Conv3d(width, 3, 1),
        )  # fmt: skip

    def forward(self, host: Tensor, outline: Tensor, active: Tensor, latent: Tensor) -> Tensor:
        """Return images (N, 3, 3, S, S); outside of the lesion and its surroundings the host's."""
        shape = outline.shape[1:]
        numbers = torch.cat([active[:, None], latent], 1)[:, :, None, None, None]
        known = [host, outline[:, None], numbers.expand(-1, -1, *shape)]
        near = _near(outline)
        return host * (1 - near) + near * self.layers(torch.cat(known, 1))


class Reader(nn.Module):
    """Looks at a lesion and tells ``count`` numbers of it."""

    def __init__(self, count: int, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(5, width), nn.LeakyReLU(0.2),
            _conv(width, width), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.last = nn.Linear(width, count)

    def forward(self, images: Tensor, outline: Tensor, active: Tensor) -> Tensor:
        """Return numbers (N, count): means over the lesion and its surroundings, mixed."""
        label = active[:, None, None, None, None].expand(-1, 1, *outline.shape[1:])
        features = self.layers(torch.cat([images, outline[:, None], label], 1))
        near = _near(outline)
        return self.last((features * near).sum((2, 3, 4)) / near.sum((2, 3, 4)).clamp(min=1))


def _conv(channels: int, out: int) -> nn.Module:
    return nn.Conv3d(channels, out, (1, 3, 3), padding=(0, 1, 1))


def _near(outline: Tensor) -> Tensor:
    size = (1, 2 * REACH_VOXELS + 1, 2 * REACH_VOXELS + 1)
    return functional.max_pool3d(outline[:, None], size, 1, (0, REACH_VOXELS, REACH_VOXELS))


def train_vae(lesions: LesionSet, steps: int, seed: int = 0) -> Painter:
    """Train a conditional variational auto-encoder (Sohn et al. 2015) on lesions."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        painter, encoder = Painter(), Reader(2 * LATENT)  # means and ln variances
        optimizer = torch.optim.Adam([*painter.parameters(), *encoder.parameters()], RATE)
        for _ in range(steps):
            images, outline, active = _batch(lesions)
            mean, log_variance = encoder(images, outline, active).chunk(2, 1)
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            near = _near(outline)
            # the host is the image without its lesion: of that nothing may be seen
            painted = painter(images * (1 - near), outline, active, latent)
            # the noise of logarithmic images is about 0.05, which weighs an error against the prior
            error = (((painted - images) * near) ** 2).sum((1, 2, 3, 4)) / near.sum((1, 2, 3, 4))
            divergence = (log_variance.exp() + mean**2 - 1 - log_variance).sum(1) / 2
            loss = (error / (2 * 0.05**2) + 0.1 * divergence).mean()
            _step(optimizer, loss)
    return painter.eval()


def train_gan(lesions: LesionSet, steps: int, seed: int = 0) -> Painter:
    """Train a conditional GAN on lesions: a judge learns to tell painted lesions from real ones.

    The judge has an answer for each class, and that of the lesion's class counts. Errors are
    squared, which keeps both steady (least-squares GAN, Mao et al. 2017, arXiv:1611.04076).
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        painter, judge = Painter(), Reader(2)
        of_painter, of_judge = (
            torch.optim.Adam(one.parameters(), RATE, GAN_BETAS) for one in (painter, judge)
        )
        for _ in range(steps):
            images, outline, active = _batch(lesions)
            latent = torch.randn(len(images), LATENT)
            painted = painter(images * (1 - _near(outline)), outline, active, latent)
            real, made = (
                _belief(judge, one, outline, active) for one in (images, painted.detach())
            )
            _step(of_judge, ((real - 1) ** 2 + made**2).mean())
            _step(of_painter, ((_belief(judge, painted, outline, active) - 1) ** 2).mean())
    return painter.eval()


def _belief(judge: Reader, images: Tensor, outline: Tensor, active: Tensor) -> Tensor:
    return judge(images, outline, active).gather(1, active.long()[:, None])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _batch(lesions: LesionSet, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    chosen = torch.randint(len(lesions), (size,)).numpy()
    # half of them active, if there are any: else the rarer class is hardly learnt
    rare = np.flatnonzero(lesions.active)
    if len(rare):
        half = torch.randint(len(rare), (size // 2,)).numpy()
        chosen[: size // 2] = rare[half]
    images, outline = (
        torch.from_numpy(array[chosen]).float() for array in (lesions.images, lesions.outlines)
    )
    return images, outline, torch.from_numpy(lesions.active[chosen]).float()


def generate(painter: Painter, lesions: LesionSet, count: int, seed: int = 0) -> LesionSet:
    """Return lesions that a generator painted over the lesions that were there."""
    rng = np.random.default_rng(seed)
    source = rng.integers(len(lesions), size=count)
    made = lesions.chosen(source)
    active = rng.permutation(made.active)
    images = []
    with torch.inference_mode():
        for first in range(0, count, 64):
            part = slice(first, first + 64)
            host, outline = torch.from_numpy(made.images[part]), made.outlines[part]
            mask = torch.from_numpy(outline).float()
            latent = torch.from_numpy(rng.standard_normal((len(host), LATENT)).astype("f4"))
            label = torch.from_numpy(active[part].astype("f4"))
            images.append(painter(host * (1 - _near(mask)), mask, label, latent).numpy())
    return replace(made, table=made.table.assign(active=active), images=np.concatenate(images))
