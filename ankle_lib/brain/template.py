"""The mean brain: fractions of white matter, grey matter and fluid, as nilearn brings them.

The maps are the symmetric MNI ICBM152 templates of 2009 (Fonov et al., NeuroImage 2011,
doi:10.1016/j.neuroimage.2010.07.033), which nilearn depends on and brings along: nothing is copied
into this package. Left and right are exactly alike: whoever simulates a person must undo that.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import Matrix

WM, GM, CSF = 0, 1, 2
"""White matter, grey matter, cerebrospinal fluid: places in every array of fractions."""

DEEP_MM = 14
"""Ventricles lie so far inside the brain; what is nearer to its surface is a sulcus."""

FLUID = 0.6
"""Fraction of fluid from which on a voxel may belong to a ventricle."""

NOTICE = """\
Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological \
Institute, McGill University. Permission to use, copy, modify, and distribute this software and \
its documentation for any purpose and without fee is hereby granted, provided that the above \
copyright notice appear in all copies. The authors and McGill University make no representations \
about the suitability of this software for any purpose. It is provided "as is" without express or \
implied warranty. The authors are not responsible for any data loss, equipment damage, property \
loss, or injury to subjects or patients resulting from the use or misuse of this software package.
"""
"""Must be shown wherever the templates are used."""


@dataclass(frozen=True, eq=False)
class Template:
    """The mean brain on its own grid of 1 mm, axes right, anterior, superior.

    Attributes
    ----------
    fractions : (3, X, Y, Z) float32 array
        Of white matter, grey matter and fluid; their sum is 1 in the brain and 0 outside.
    ventricles : (X, Y, Z) bool array
    affine : (4, 4) array
        Voxel to MNI152 world, RAS, mm.
    """

    fractions: NDArray[np.float32]
    ventricles: NDArray[np.bool_]
    affine: Matrix


@functools.lru_cache(maxsize=1)
def read_template() -> Template:
    """Return the mean brain; takes some seconds once per process.

    Fluid is what the brain holds beside grey and white matter. The ventricles are the lateral
    ones: the two largest pieces of fluid deep inside the brain that lie on one side of it. (The
    largest piece of all is no ventricle: it joins the cisterns of the midline.)
    """
    # imported here: it takes seconds, and whoever only reads finished heads does without
    from nilearn import datasets

    grey, white, brain = (
        load(resolution=1)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    inside = np.asarray(brain.dataobj) > 0
    gm, wm = (np.asarray(one.dataobj, dtype=np.float32) * inside for one in (grey, white))
    total = np.maximum(gm + wm, 1)
    gm, wm = gm / total, wm / total
    csf = inside - gm - wm
    deep = ndimage.distance_transform_edt(inside) > DEEP_MM
    middle = inside.shape[0] // 2
    pieces, _ = ndimage.label((csf > FLUID) & deep)
    sizes = np.bincount(pieces.ravel())
    sizes[[0, *np.unique(pieces[middle])]] = 0
    ventricles = np.isin(pieces, np.argsort(sizes)[-2:])
    fractions = np.stack([wm, gm, csf]).astype(np.float32)
    return Template(fractions, ventricles, np.asarray(grey.affine, dtype=np.float64))
