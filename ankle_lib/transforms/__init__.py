"""Rigid poses in world mm, and their exchange with other programs.

``poses`` is the arithmetic, ``flirt`` and ``itk`` translate single poses for FSL, SimpleITK, ANTs
and 3D Slicer, ``pose_list`` reads and writes ``transforms.json``.
"""

from ankle_lib.transforms.flirt import Grid, from_flirt, read_flirt, to_flirt, write_flirt
from ankle_lib.transforms.itk import from_itk, read_itk, to_itk, write_itk
from ankle_lib.transforms.pose_list import (
    CONVENTION,
    FramePose,
    read_transforms,
    write_transforms,
)
from ankle_lib.transforms.poses import (
    Matrix,
    apply,
    compose,
    invert,
    is_rigid,
    nearest_rigid,
    rigid,
    rotation_angle_deg,
)

__all__ = [
    "CONVENTION",
    "FramePose",
    "Grid",
    "Matrix",
    "apply",
    "compose",
    "from_flirt",
    "from_itk",
    "invert",
    "is_rigid",
    "nearest_rigid",
    "read_flirt",
    "read_itk",
    "read_transforms",
    "rigid",
    "rotation_angle_deg",
    "to_flirt",
    "to_itk",
    "write_flirt",
    "write_itk",
    "write_transforms",
]
