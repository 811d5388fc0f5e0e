"""Where public data sets of heads keep the images of a patient, by role.

Each layout is a table of patterns. A pattern says of a file's path, relative to the root, what it
is; its groups together are the patient's code. More data sets are more entries.
"""

import re
from pathlib import Path
from typing import cast

from ankle_lib.files import NIFTI_SUFFIXES, AnkleError
from ankle_lib.manifest.schema import Layout, Subject

_PATIENT = r"(?:.*/)?(Center_\d+)/(Patient_\d+)/"
_VISIT = r"(?:.*/)?(training\d+)/(?:preprocessed|masks)/\1_(\d+)_"
_FLAIR_SPACE = r"(?:.*/)?cross_sectional/coregistered/(patient\d+)/(?:patient\d+_)?"
_SESSION = (
    r"(?:(?!derivatives/).+/)?sub-([A-Za-z0-9]+)/(ses-[A-Za-z0-9]+)/anat/sub-\1_\2_(?:space-\w+?_)?"
)
_END = r"\.nii(?:\.gz)?"

LAYOUTS: dict[str, dict[str, str]] = {
    "msseg2016": {
        "T1w": rf"{_PATIENT}Preprocessed_Data/(?:3D)?T1_preprocessed{_END}",
        "T2w": rf"{_PATIENT}Preprocessed_Data/T2_preprocessed{_END}",
        "PDw": rf"{_PATIENT}Preprocessed_Data/DP_preprocessed{_END}",
        "FLAIR": rf"{_PATIENT}Preprocessed_Data/(?:3D)?FLAIR_preprocessed{_END}",
        "T1w_post": rf"{_PATIENT}Preprocessed_Data/GADO_preprocessed{_END}",
        "lesions": rf"{_PATIENT}Masks/Consensus{_END}",
        "brain": rf"{_PATIENT}Masks/Brain_Mask{_END}",
    },
    "isbi2015": {
        "T1w": rf"{_VISIT}mprage_pp{_END}",
        "T2w": rf"{_VISIT}t2_pp{_END}",
        "PDw": rf"{_VISIT}pd_pp{_END}",
        "FLAIR": rf"{_VISIT}flair_pp{_END}",
        "lesions": rf"{_VISIT}mask1{_END}",
    },
    "open_ms_data": {
        "T1w": rf"{_FLAIR_SPACE}T1W{_END}",
        "T2w": rf"{_FLAIR_SPACE}T2W{_END}",
        "FLAIR": rf"{_FLAIR_SPACE}FLAIR{_END}",
        "T1w_post": rf"{_FLAIR_SPACE}T1WKS{_END}",
        "lesions": rf"{_FLAIR_SPACE}consensus_gt{_END}",
        "brain": rf"{_FLAIR_SPACE}brainmask{_END}",
    },
    "atlas": {
        "T1w": rf"{_SESSION}T1w{_END}",
        "lesions": rf"{_SESSION}label-L_desc-T1lesion_mask{_END}",
    },
}
"""By the name of the layout: for each role a pattern of its path.

- ``msseg2016``: MS lesion segmentation challenge of 2016, as shared on Shanoir; before and after
  contrast agent, without skull.
- ``isbi2015``: longitudinal challenge of 2015; each visit is a subject; nothing after contrast
  agent; of the two readers' masks the first.
- ``open_ms_data``: 3D-MR-MS of Ljubljana; before and after contrast agent, with skull and a mask
  of the brain.
- ``atlas``: ATLAS R2.0, chronic strokes in MNI space, in any folder but ``derivatives``; each
  session is a subject; those who are to be predicted have no mask.
"""


def detect(root: Path) -> Layout | None:
    """Return the layout that a file below ``root`` matches, or None."""
    names = [path.relative_to(root).as_posix() for path in _files(root)]
    for layout, roles in LAYOUTS.items():
        if any(re.fullmatch(roles["T1w"], name) for name in names):
            return cast(Layout, layout)
    return None


def scan(root: Path, layout: Layout) -> tuple[list[Subject], list[str]]:
    """Return the patients below ``root``, and the names of images that no pattern matches.

    Raises
    ------
    AnkleError
        If there is no patient, or a patient has two files of one role.
    """
    found: dict[str, dict[str, Path]] = {}
    others = []
    for path in _files(root):
        name = path.relative_to(root)
        for role, pattern in LAYOUTS[layout].items():
            match = re.fullmatch(pattern, name.as_posix())
            if match:
                code = re.sub(r"[^A-Za-z0-9]", "", "".join(match.groups()))
                images = found.setdefault(code, {})
                if role in images:
                    raise AnkleError(f"{code} has two {role}: {images[role]} and {name}")
                images[role] = name
                break
        else:
            others.append(name.as_posix())
    if not found:
        wanted = LAYOUTS[layout]["T1w"]
        raise AnkleError(f"{root}: no patient found with the layout {layout!r}: no path {wanted}")
    return [Subject(code=code, images=images) for code, images in sorted(found.items())], others


def _files(root: Path) -> list[Path]:
    """Return the images below a folder; links that lead out of it are not followed."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.name.endswith(NIFTI_SUFFIXES)
        and path.is_file()
        and path.resolve().is_relative_to(root.resolve())
    )
