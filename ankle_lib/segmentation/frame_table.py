"""How far to trust the bones of each frame, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

COLUMNS = ("frame", "bone", "confidence", "volume_cm3", "note")

EXPECTED_CM3 = {"calcaneus": (22.0, 85.0), "talus": (12.0, 45.0), "tibia": (15.0, 150.0)}
"""From half of the children's mean volume (44.8, 24.0, 30.3 cm3: LaTIM's mean shape) to 1.3 times
the largest adult's (65, 34); of the tibia as much is seen as the field of view holds."""

LOW_CONFIDENCE = 0.85
"""On frames of the phantom's validation subject, as they are, of other looks and with noise added
until nothing was found, this marks 97 of 102 bones with a Dice below 0.8, and 8 of 105 others."""
FAR_FROM_MEDIAN = 0.2
"""A bone's volume in a frame, against its median: through 8 mm slices the true volumes of the
phantom's bones stay within 6 %."""
FEWEST_FRAMES = 3
"""Frames whose median says which of them is odd."""

MISSING, UNSURE = "not found", "low confidence"
IMPLAUSIBLE, ODD = "implausible volume", "unusual volume"


@dataclass(frozen=True)
class Frame:
    """What was found in one frame."""

    confidence: Mapping[str, float]
    """Bone to expected Dice, see `labelling.Labelled`."""
    volumes_cm3: Mapping[str, float]
    problem: str = ""
    """Why nothing was looked for."""


def frame_table(frames: Sequence[Frame], bones: Iterable[str]) -> pd.DataFrame:
    """Return a row for each frame and bone.

    Returns
    -------
    DataFrame
        Columns frame (from 0), bone, confidence (0 to 1), volume_cm3, and note: empty, or what is
        wrong: the bone was not found, its confidence is below 0.85, its volume is that of nobody
        (implausible), or differs by more than 20 % from its median over the frames (unusual).
    """
    rows = [
        (number, bone, frame.confidence.get(bone, 0.0), frame.volumes_cm3.get(bone, 0.0))
        for number, frame in enumerate(frames)
        for bone in bones
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS[:-1]))
    found = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"]
    usual = found.median().where(found.size() >= FEWEST_FRAMES)
    notes = []
    for number, bone, confidence, volume in rows:
        if volume == 0:
            problem = frames[number].problem
            notes.append(f"{MISSING}: {problem}" if problem else MISSING)
            continue
        problems = {
            UNSURE: confidence < LOW_CONFIDENCE,
            IMPLAUSIBLE: not EXPECTED_CM3[bone][0] <= volume <= EXPECTED_CM3[bone][1],
            ODD: abs(volume / usual[bone] - 1) > FAR_FROM_MEDIAN,  # not where there is no median
        }
        notes.append("; ".join(problem for problem, there in problems.items() if there))
    return table.assign(note=notes)


def frame_notes(table: pd.DataFrame) -> list[str]:
    """Return what a `frame_table` says, a sentence for each bone and problem.

    Bones that are in no frame, and volumes that are implausible, are said elsewhere: of all frames
    together.
    """
    n_frames, notes = table["frame"].nunique(), []
    for bone, rows in table.groupby("bone", sort=False):
        for problem in (MISSING, UNSURE, ODD):
            frames = list(rows.loc[rows["note"].str.contains(problem), "frame"])
            if frames and not (problem == MISSING and len(frames) == n_frames):
                where = f" in {listed(frames)}" if n_frames > 1 else ""
                notes.append(f"the {bone}: {problem}{where}: look at the picture")
    return notes


def summary(table: pd.DataFrame) -> list[str]:
    """Return volume and confidence of each bone, of a series the median over its frames."""
    lines = []
    for bone, rows in table.groupby("bone", sort=False):
        found = rows[rows["volume_cm3"] > 0]
        if len(rows) == 1:
            lines.append(f"{bone}: {rows['volume_cm3'].iloc[0]:.1f} cm3")
        elif found.empty:
            lines.append(f"{bone}: in none of {len(rows)} frames")
        else:
            confidence = found["confidence"]
            lines.append(
                f"{bone}: {found['volume_cm3'].median():.1f} cm3 in {len(found)} of {len(rows)} "
                f"frames, confidence {confidence.median():.2f}, at least {confidence.min():.2f} "
                f"(frame {found.loc[confidence.idxmin(), 'frame']})"
            )
    return lines


def listed(frames: Sequence[int], most: int = 8) -> str:
    """Return e.g. ``frame 3``, ``frames 3, 4`` or ``frames 3, 4, 5, … (40 in all)``."""
    if len(frames) == 1:
        return f"frame {frames[0]}"
    shown = ", ".join(map(str, frames[:most]))
    return f"frames {shown}" + (f", … ({len(frames)} in all)" if len(frames) > most else "")
