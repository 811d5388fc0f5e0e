"""What the review board looks at: a frame and the moved mask of a bone on its grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.quality.registered import frame_path
from ankle_lib.volume import Volume, load
from ankle_lib.widgets.inputs import check_grid, image_3d
from ankle_lib.widgets.review_rows import RowKey

View = Callable[[str, str, int, str], tuple[Volume, Volume]]
"""Maps subject, sequence, frame, bone to the frame's image and the moved mask on its grid."""


def registered_view(subjects: Sequence[CleanSubject], folder: Path) -> View:
    """Return the view of a registration folder for `ReviewBoard`.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `manifest.read_clean_cohort`: where the frames are.
    folder : Path
        Where the registration chapter wrote the moved masks.
    """
    people = {subject.code: subject for subject in subjects}

    def view(subject: str, sequence: str, frame: int, bone: str) -> tuple[Volume, Volume]:
        try:
            image = people[subject].sequences[sequence][frame]
        except (KeyError, IndexError):
            raise AnkleError(f"the cohort has no frame {frame} of {subject} {sequence}") from None
        return load(image), load(frame_path(folder, subject, sequence, frame, bone))

    return view


def look(view: View, key: RowKey) -> tuple[Volume, Volume]:
    """Return frame and mask of a registration, 3D, axes P, S, R; the mask may be empty.

    Raises
    ------
    AnkleError, OSError
        If there are none, they are not 3D, or the mask is on another grid than the frame.
    """
    frame, mask = view(*key)
    frame, mask = image_3d(frame, "frame"), image_3d(mask, "mask")
    check_grid(mask, frame, "The mask", "the frame")
    return frame, mask
