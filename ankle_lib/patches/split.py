"""Which subjects train, which validate and which test: decided here and nowhere else.

Frames, sequences and patches belong to a subject and follow it, so what is decided per subject
cannot leak from one part into another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Codes of the subjects in each part.

    Raises
    ------
    AnkleError
        If a subject is in two parts, or twice in one, or nobody trains.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a split that leaks."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        codes = [code for part in parts.values() for code in part]
        twice = sorted({code for code in codes if codes.count(code) > 1})
        if twice:
            where = "; ".join(f"{name}: {', '.join(part)}" for name, part in parts.items())
            raise AnkleError(f"{', '.join(twice)} would be in more than one place ({where})")
        if not self.train:
            raise AnkleError("no subject to train on: is the cohort empty?")

    def part(self, code: str) -> Part:
        """Return the part that a subject belongs to; unknown subjects are refused."""
        for name in ("train", "validation", "test"):
            if code in getattr(self, name):
                return name
        raise AnkleError(f"{code} is in no part of the split: add it, or leave the subject out")

    def pick(self, subjects: Iterable[CleanSubject], part: Part) -> list[CleanSubject]:
        """Return the subjects of one part, in the order of the split.

        Raises
        ------
        AnkleError
            If one of them is not among ``subjects``.
        """
        by_code = {subject.code: subject for subject in subjects}
        missing = [code for code in getattr(self, part) if code not in by_code]
        if missing:
            raise AnkleError(
                f"{', '.join(missing)} of the split's {part} part is not in the cohort"
            )
        return [by_code[code] for code in getattr(self, part)]

    def check(self, codes: Iterable[str], part: Part) -> None:
        """Refuse data of any subject outside ``part``, e.g. ``check(source.subjects, "train")``."""
        strangers = sorted(code for code in set(codes) if self.part(code) != part)
        if strangers:
            raise AnkleError(f"{', '.join(strangers)} must not be seen here: only the {part} part")


def report_split(subjects: Iterable[CleanSubject], *, tested: bool = False) -> Split:
    """Return the report's split: equinus tests, the last control validates, the others train.

    Chapter 6 of the report: six controls, the last control, and seven subjects with equinus.

    Parameters
    ----------
    subjects : iterable of CleanSubject
    tested : bool
        Refuse a cohort with nobody to test on.

    Raises
    ------
    AnkleError
        If there are fewer than two controls, or nobody to test on and ``tested``.
    """
    controls, test = _groups(subjects)
    if tested and not test:
        raise AnkleError(
            "there are only controls: networks are tested on the other group, so clean scans of it"
        )
    return Split(tuple(controls[:-1]), (controls[-1],), tuple(test))


def cross_validation(subjects: Iterable[CleanSubject]) -> list[Split]:
    """Return one split per control, in which this control validates (report, Fig. 6.10).

    Raises
    ------
    AnkleError
        If there are fewer than two controls.
    """
    controls, test = _groups(subjects)
    return [
        Split(tuple(code for code in controls if code != held_out), (held_out,), tuple(test))
        for held_out in controls
    ]


def _groups(subjects: Iterable[CleanSubject]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the sorted codes of controls and of everybody else."""
    people = sorted((subject.code, subject.group) for subject in subjects)
    controls = [code for code, group in people if group == "control"]
    if len(controls) < 2:
        raise AnkleError(
            f"{len(controls)} control subjects: one must train and one validate, so clean the "
            "scans of at least two"
        )
    return controls, [code for code, group in people if group != "control"]
