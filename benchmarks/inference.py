"""Compare the segmentation of a whole static scan with MONAI's sliding window at its defaults.

The same network segments the same scan in three ways, each in a process of its own:

    python benchmarks/inference.py [--scan STATIC.nii.gz] [--checkpoint FILE] [--device cpu]
                                   [--slices N] [--threads 2]

- ``whole slices``: `ankle_lib.learning.slices.whole_slices` within the foot's box,
- ``tiles``: the same in overlapping tiles with Gaussian weights,
- ``MONAI``: `monai.inferers.sliding_window_inference` on the whole slices with tiles of the same
  size and its defaults: overlap 0.25, constant weights.

A network that sees several slices at a time gets those beside each, one by one.

Without a scan, a foot of ellipsoids stands on the report's grid of 576×576×110. With ``--slices``
only that many slices from the middle are segmented, and nothing is marked. Printed are seconds
without loading, seconds of CPU (for a machine that others use too), the process's peak memory
meanwhile, and the part of the foot's voxels with the same label as MONAI's. Exit status 1 if whole
slices of a whole scan take longer than 60 s (2 s on a GPU) or more than 4 GB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.prediction import labels_from
from ankle_lib.learning.slices import whole_slices
from ankle_lib.masking.foot import CODE_STATIC_THRESHOLD, foot_mask
from ankle_lib.volume import load

SHAPE = (576, 576, 110)
VOXEL_MM = (0.28, 0.28, 0.8)
TILE = 128
MARK_S = {"cpu": 60.0, "cuda": 2.0}
MARK_GB = 4.0
METHODS = ("whole slices", "tiles", "MONAI")


def main() -> int:
    """Run every method in a fresh process and print the table; 1 if a mark fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, help="a static scan with axes P, S, R")
    parser.add_argument("--checkpoint", type=Path, help="default: a U-Net with fresh weights")
    parser.add_argument("--device", default="cpu", choices=sorted(MARK_S))
    parser.add_argument("--slices", type=int, help="only so many from the middle")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = {}
    for method in METHODS:
        with context.Pool(1) as pool:
            results[method] = pool.apply(measure, (method, arguments))
    reference, foot = results["MONAI"][3:]
    print(f"{reference.shape} voxels, {foot.mean():.0%} foot, {arguments.threads} threads")
    for method, (seconds, cpu, peak_gb, labels, _) in results.items():
        agreement = (labels == reference)[foot].mean()
        print(
            f"{method:13} {seconds:7.1f} s {cpu:7.1f} CPU s {peak_gb:6.2f} GB   "
            f"like MONAI: {agreement:.4f}"
        )
    if arguments.slices is not None:
        return 0
    seconds, _, peak_gb = results["whole slices"][:3]
    mark_s = MARK_S[arguments.device]
    passed = bool(seconds <= mark_s and peak_gb <= MARK_GB)
    print(f"marks {mark_s:g} s and {MARK_GB:g} GB: {'pass' if passed else 'FAIL'}")
    return 0 if passed else 1


def measure(
    method: str, arguments: argparse.Namespace
) -> tuple[float, float, float, NDArray[np.uint8], NDArray[np.bool_]]:
    """Return seconds, CPU seconds, peak GB, labels, and the foot; in a process of its own."""
    torch.set_num_threads(arguments.threads)
    image, foot = scan(arguments.scan, arguments.slices)
    network = model(arguments.checkpoint).to(arguments.device)
    context = slices_seen(network)
    # imported before the clock starts
    from monai.inferers import sliding_window_inference

    def segment() -> NDArray[np.uint8]:
        if method == "MONAI":
            return labels_from(monai_defaults(sliding_window_inference, network, image, context))
        tile = TILE if method == "tiles" else None
        return labels_from(whole_slices(network, image, context=context, foot=foot, tile=tile))

    return *watched(segment), foot


def watched(
    work: Callable[[], NDArray[np.uint8]],
) -> tuple[float, float, float, NDArray[np.uint8]]:
    """Return seconds, CPU seconds, the largest memory in GB seen every 10 ms, and the answer."""
    process, finished, peak = psutil.Process(), threading.Event(), [0]

    def look() -> None:
        while not finished.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        answer = work()
    finally:
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        finished.set()
        watcher.join()
    return seconds, cpu, peak[0] / 1e9, answer


def slices_seen(network: SliceNetwork) -> range:
    """Return the slices that a network sees at a time, from the one that it labels."""
    half = network.in_channels // 2
    return range(-half, network.in_channels - half)


def monai_defaults(
    sliding_window_inference, network: SliceNetwork, image: NDArray, context: Sequence[int]
) -> NDArray:
    """Return probabilities (channels, I, J, K) of all slices."""
    device = next(network.parameters()).device
    n_slices = image.shape[2]
    seen = np.clip(np.arange(n_slices)[:, None] + np.asarray(context), 0, n_slices - 1)
    stack = np.moveaxis(image[:, :, seen], (2, 3), (0, 1))
    slices = torch.from_numpy(np.ascontiguousarray(stack)).to(device)
    with torch.inference_mode():
        outputs = sliding_window_inference(slices, (TILE, TILE), 4, network.eval())
    return np.moveaxis(outputs.cpu().numpy(), 0, -1)


def model(checkpoint: Path | None) -> SliceNetwork:
    """Return the trained network, or one that answers at random but not evenly."""
    if checkpoint is not None:
        return load_checkpoint(checkpoint).network
    torch.manual_seed(0)
    return build("unet", out_channels=3)


def scan(path: Path | None, n_slices: int | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the normalised image and its foot."""
    image = simulated() if path is None else load(path).data
    if n_slices is not None:
        first = max((image.shape[2] - n_slices) // 2, 0)
        image = image[:, :, first : first + n_slices]
    foot = foot_mask(image, CODE_STATIC_THRESHOLD)
    mean, sd = float(image[foot].mean()), float(image[foot].std())
    return ((image - mean) / sd).astype(np.float32), foot


def simulated() -> NDArray[np.float32]:
    """Return a shank and a foot of ellipsoids in noise."""
    random = np.random.default_rng(0)
    image = np.abs(random.normal(0, 40, SHAPE)).astype(np.float32)
    centre = [voxel * length / 2 for voxel, length in zip(VOXEL_MM, SHAPE, strict=True)]
    axes = [np.arange(n) * v - c for n, v, c in zip(SHAPE, VOXEL_MM, centre, strict=True)]
    posterior, superior, right = np.meshgrid(*axes, indexing="ij", sparse=True)
    shank = (posterior / 35) ** 2 + ((superior - 40) / 90) ** 2 + (right / 33) ** 2 < 1
    foot = (posterior / 75) ** 2 + ((superior + 30) / 32) ** 2 + (right / 35) ** 2 < 1
    image[shank | foot] += 600
    return image


if __name__ == "__main__":
    sys.exit(main())
