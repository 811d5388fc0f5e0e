"""Simulated patients with multiple sclerosis: head, lesions, images before and after agent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ankle_lib.brain.acquisition import Scanner, acquire, bias_field
from ankle_lib.brain.heads import Head, Map, make_head
from ankle_lib.brain.lesions import Lesion, Shape, draw_lesions, parts_of, shape_of
from ankle_lib.brain.signals import SEQUENCES, mixed, signal, with_agent

POST = "T1w_post"
IMAGES = (*SEQUENCES, POST)


@dataclass(frozen=True)
class World:
    """What the simulated patients have in common.

    Attributes
    ----------
    voxel_mm : float
    forms : bool
        Whether lesions may be rings, arcs and hollow; else all are even.
    seed : int
    z_mm : two floats
        Lowest and highest slice.
    """

    voxel_mm: float
    forms: bool = True
    seed: int = 2020
    z_mm: tuple[float, float] = (-12.0, 54.0)


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated patient with all that only a simulation knows.

    ``images`` are as scanned; ``plain`` are the signals of the head without lesions, ``shading``
    what the coils make of them, gain included.
    """

    code: str
    head: Head
    scanner: Scanner
    lesions: list[Lesion]
    shapes: list[Shape]
    images: dict[str, Map]
    plain: dict[str, Map]
    shading: dict[str, Map]

    def outlines(self) -> NDArray[np.int16]:
        """Return a map (X, Y, Z): the number of the lesion that fills half of a voxel, from 1."""
        numbers = np.zeros(self.head.brain.shape, dtype=np.int16)
        for number, shape in enumerate(self.shapes, 1):
            part = numbers[shape.box]
            part[shape.core > min(0.5, 0.8 * float(shape.core.max()))] = number
        return numbers


def simulate_patient(world: World, code: str) -> Patient:
    """Simulate one patient; seed and code decide everything."""
    rng = np.random.default_rng([world.seed, *code.encode()])
    head = make_head(rng, world.voxel_mm, world.z_mm)
    scanner = Scanner.draw(rng)
    lesions = draw_lesions(head, rng, forms=world.forms)
    shapes = [shape_of(head, lesion, rng) for lesion in lesions]
    plain = {one: mixed(head.fractions, scanner.normal, one) for one in SEQUENCES}
    clean = {one: plain[one.removesuffix("_post")].copy() for one in IMAGES}
    for lesion, shape in zip(lesions, shapes, strict=True):
        _put(clean, lesion, shape)
    shading, images = {}, {}
    for one in IMAGES:  # the second T1w is scanned in the same session
        kind = one.removesuffix("_post")
        if one != POST:
            bias = bias_field(head.brain.shape, world.voxel_mm, rng)
            shading[one] = (bias * scanner.gains[one]).astype(np.float32)
        noisy = acquire(clean[one] * shading[kind], scanner.noise_level(kind), rng)
        images[one] = noisy * head.brain
    return Patient(code, head, scanner, lesions, shapes, images, plain, shading)


def _put(images: dict[str, Map], lesion: Lesion, shape: Shape) -> None:
    """Put a lesion into images without noise."""
    parts = parts_of(shape, lesion)
    left = 1 - sum(amount for amount, _ in parts)
    for name, image in images.items():
        region = image[shape.box] * left
        for place, (amount, tissue) in enumerate(parts):
            if name == POST and place == 0:
                tissue = with_agent(tissue, lesion.agent)
            region += amount * np.float32(signal(tissue, name.removesuffix("_post")))
        image[shape.box] = region
