"""Rigid poses in world mm, and their exchange with other programs.

``poses`` is the arithmetic, ``flirt`` and ``itk`` translate single poses for FSL, SimpleITK, ANTs
and 3D Slicer, ``pose_list`` reads and writes ``transforms.json``.
"""

from ankle_lib.transforms.pose_list import read_transforms
from ankle_lib.transforms.poses import compose, invert, rigid, rotation_angle_deg
