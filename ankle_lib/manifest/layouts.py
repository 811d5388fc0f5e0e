"""Find the files of a cohort in a folder: a lab's layout, a BIDS tree, the phantom's raw layout.

========  ====================================================================================
layout    files
========  ====================================================================================
lab       ``sourcedata/<sub>/<sub>_static_3DT1[_flipCorrected].nii.gz``,
          ``sourcedata/<sub>/*MovieClear*.nii.gz`` (4D),
          ``derivatives/<sub>/<sub>_static_3DT1_segment_<bone>[variant].nii.gz``
raw       the same files, all of them in ``raw/<code>/``
bids      ``sub-<code>/[ses-*/]anat/*_T1w.nii.gz``, ``sub-<code>/[ses-*/]{func,dyn}/*.nii.gz``
          (4D), ``derivatives/**/sub-<code>*_label-<bone>*_mask.nii.gz``, ``participants.tsv``;
          each session and each foot becomes a subject, as in ``01ses02hemiL``
========  ====================================================================================

Public data sets of heads have layouts of their own, see `manifest.head_layouts`.

A lab leaves several versions of one file. The most processed one is used: flip-corrected before
flipped before neither, and among these binarised before not. What was chosen over what is noted
on the subject.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ankle_lib.files import NIFTI_SUFFIXES, AnkleError
from ankle_lib.manifest import head_layouts
from ankle_lib.manifest.schema import Kind, Layout, Sequence, Side, Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import read_header

MAX_LISTED = 20
_VARIANT = re.compile(r"_(flipcorrected|flipped|binarized|binarised)(?=_|$)", re.IGNORECASE)
_GROUPS = {"T": "control", "E": "equinus"}
"""First letter of a lab code: T for typically developing, E for equinus."""
LEADS_OUT = "a link that leads out of the folder, or nowhere: copy the file"
_ENTITY = re.compile(r"(?:(?<=[/_])|^)([a-z]+)-([A-Za-z0-9]+)")
_REPEATED = {"sub", "run", "task", "label", "desc", "space"}
"""Entities that name no foot."""
_SIDES: dict[str, Side] = {"l": "left", "r": "right"}


@dataclass(frozen=True)
class Scan:
    """Result of :func:`scan_folder`.

    ``unrecognised`` are image files that no rule matched, or that could not be placed, which is
    then said behind the name.
    """

    layout: Layout
    subjects: list[Subject]
    unrecognised: list[str]

    def notes(self) -> list[str]:
        """Return one line per unrecognised file, shortened to the first twenty."""
        lines = [f"not recognised: {name}" for name in self.unrecognised[:MAX_LISTED]]
        hidden = len(self.unrecognised) - len(lines)
        return [*lines, f"not recognised: {hidden} more files"] if hidden else lines


@dataclass(frozen=True)
class CleanSubject:
    """One subject of a clean cohort; all paths are absolute.

    ``sequences`` maps a sequence's name (``active_run-01``) to its frames in order.
    """

    code: str
    group: str
    side: Side | None
    static: Path
    masks: dict[str, Path]
    sequences: dict[str, list[Path]]


def scan_folder(folder: str | os.PathLike[str], layout: Layout | None = None) -> Scan:
    """List the subjects found in ``folder``; paths are relative to it.

    Parameters
    ----------
    folder : path
    layout : {"lab", "bids", "raw"}, optional
        Recognised from the folder if not given.

    Raises
    ------
    AnkleError
        If there is no such folder, no known layout, or no subject in it.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise AnkleError(f"{folder}: no such folder")
    layout = layout or detect_layout(root)
    if layout in head_layouts.LAYOUTS:
        heads, others = head_layouts.scan(root, layout)
        return Scan(layout, heads, others)
    # a simulated cohort has its truth beside raw/, which is not for the chapters to list
    found = _images(root, below=root / "raw" if layout == "raw" else root)
    images = [path for path in found if inside(root, path) and not path.is_dir()]
    has_people = layout == "bids" and (root / "participants.tsv").is_file()
    people = _participants(root) if has_people else {}
    subjects, used = [], set[Path]()
    reasons = {path: LEADS_OUT for path in found if not inside(root, path)}
    for name in _folders(root, layout):
        own = [path for path in images if _belongs(root, path, name, layout)]
        if own or layout == "bids":
            roles = {path: _role(root, path, name, layout) for path in own}
            code, feet = _code(name), {"": {path: role for path, role in roles.items() if role}}
            if layout == "bids":
                feet, unplaced = _feet(root, feet[""])
                reasons |= unplaced
            for foot, files in feet.items():
                used.update(files)
                subjects.append(_subject(root, code, foot, files, people))
    if not subjects:
        raise AnkleError(f"{folder}: no subject found with the layout {layout!r}")
    rest = {path: path.relative_to(root).as_posix() for path in found if path not in used}
    named = [f"{name} ({reasons[p]})" if p in reasons else name for p, name in rest.items()]
    return Scan(layout, subjects, named)


def detect_layout(root: Path) -> Layout:
    """Return the layout of ``root`` ("raw", "bids" or "lab") or raise :class:`AnkleError`."""
    if any(path.is_dir() for path in root.glob("raw/*")):
        return "raw"
    if any(path.is_dir() for path in root.glob("sub-*")):
        return "bids"
    if any(path.is_dir() for path in root.glob("sourcedata/*")):
        return "lab"
    if found := head_layouts.detect(root):
        return found
    raise AnkleError(
        f"{root}: not a known layout: expected folders sourcedata/<sub> (lab), sub-<code> (BIDS) "
        "or raw/<code>; write the subjects into a manifest by hand"
    )


def read_clean_cohort(folder: str | os.PathLike[str]) -> list[CleanSubject]:
    """Index what the chapter on data cleaning wrote, in the order of its ``participants.tsv``.

    Raises
    ------
    AnkleError
        If the folder has no ``participants.tsv``, or a subject listed there lacks its static scan,
        one of the three masks, or a frame between the first and last of a sequence.
    """
    root = Path(folder).resolve()
    people = _participants(root)
    if not people:
        raise AnkleError(f"{folder}: no subject in participants.tsv: run chapter 01 first")
    return [_clean_subject(root, code, group, side) for code, (group, side) in people.items()]


def _folders(root: Path, layout: Layout) -> list[str]:
    """Return the names of the subjects' folders."""
    places = {"lab": ("sourcedata/*", "derivatives/*"), "raw": ("raw/*",), "bids": ("sub-*",)}
    found = (path for place in places[layout] for path in root.glob(place))
    return sorted({path.name for path in found if path.is_dir()})


def _belongs(root: Path, path: Path, name: str, layout: Layout) -> bool:
    """Tell whether an image is one of the subject with the folder ``name``."""
    if layout == "bids":
        return path.name.startswith(f"{name}_")
    return path.parent.name == name and len(path.relative_to(root).parts) == 3


def _role(root: Path, path: Path, name: str, layout: Layout) -> str | None:
    """Return what an image of the subject ``name`` is: a bone, static, series, or unknown."""
    stem = _stem(path).lower()
    if layout == "bids":
        label = re.search(r"_label-([a-z]+)_(?:.*_)?mask$", stem)
        if label and label[1] in BONES and "_frame-" not in stem:
            return label[1]
        if not path.is_relative_to(root / name):
            return None
        if path.parent.name == "anat" and stem.endswith("_t1w"):
            return "static"
        return "series" if path.parent.name in ("func", "dyn") and _is_series(path) else None
    if "segment" in stem:
        segment = re.search(r"segment_([a-z]+)(?=_|$)", stem)
        return segment[1] if segment and segment[1] in BONES else None
    return "series" if "movieclear" in stem else "static" if "static" in stem else None


def _feet(root: Path, roles: dict[Path, str]) -> tuple[dict[str, dict[Path, str]], dict[Path, str]]:
    """Part the files of a subject into sessions and feet, by the entities that they share.

    A session is one always. Another entity, such as ``hemi-L``, parts the files if the static
    scans differ in it and masks or sequences have it too.

    Returns
    -------
    feet : mapping
        What tells a foot from the others, as in ``ses02hemiL`` ("" where there is one), to its
        files and what they are.
    unplaced : mapping
        Files of which it is not known to which foot they belong, and why.
    """
    parts = {path: dict(_ENTITY.findall(path.relative_to(root).as_posix())) for path in roles}

    def values(key: str, static: bool) -> set[str]:
        return {
            parts[path][key]
            for path, role in roles.items()
            if (role == "static") is static and key in parts[path]
        }

    keys = []
    for key in dict.fromkeys(["ses", *sorted({key for one in parts.values() for key in one})]):
        of_static, of_others = values(key, True), values(key, False)
        shared = len(of_static) > 1 and of_static & of_others and key not in _REPEATED
        if shared or (key == "ses" and len(of_static | of_others) > 1):
            keys.append(key)
    feet: dict[str, dict[Path, str]] = {}
    unplaced = {}
    for path, role in roles.items():
        own = {key: parts[path].get(key) for key in keys}
        lost = [key for key, value in own.items() if value is None]
        lost += [k for k, v in own.items() if v and k != "ses" and v not in values(k, True)]
        if lost:
            known = ", ".join(sorted(values(lost[0], True)))
            unplaced[path] = f"{lost[0]} is one of {known} for others: which does it belong to?"
        else:
            name = "".join(f"{key}{value}" for key, value in own.items())
            feet.setdefault(name, {})[path] = role
    return feet or {"": {}}, unplaced


def _subject(
    root: Path,
    code: str,
    foot: str,
    roles: dict[Path, str],
    people: dict[str, tuple[str, Side | None]],
) -> Subject:
    """Describe one foot of the subject ``code`` by its images and what each of them is."""
    notes: list[str] = []

    def of(role: str) -> list[Path]:
        return [path for path, own in roles.items() if own == role]

    group, side = people.get(code, (_group(code), None))
    told = re.search(r"hemi(l|r)|(left|right)", foot.lower())
    return Subject(
        code=code + foot,
        group=group,
        side=_SIDES[(told[1] or told[2])[0]] if told else side,
        static=[path.relative_to(root) for path in _best_variants(of("static"), notes)],
        sequences=_sequences(root, _best_variants(of("series"), notes)),
        masks={b: _preferred(of(b), notes).relative_to(root) for b in BONES if of(b)},
        notes=notes,
    )


def _images(root: Path, below: Path) -> list[Path]:
    return sorted(
        (
            path
            for path in below.rglob("*")
            if path.name.endswith(NIFTI_SUFFIXES) and not path.name.startswith(".")
        ),
        key=lambda path: _natural(path.relative_to(root).as_posix()),
    )


def inside(root: Path, path: Path) -> bool:
    """Tell whether ``path`` lies below ``root``, also after following symbolic links."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False


def _best_variants(paths: Iterable[Path], notes: list[str]) -> list[Path]:
    """Keep the most processed version of each file and note what it was preferred to."""
    versions: dict[str, list[Path]] = {}
    for path in paths:
        versions.setdefault(_VARIANT.sub("", _stem(path)), []).append(path)
    return [_preferred(group, notes) for group in versions.values()]


def _preferred(paths: list[Path], notes: list[str]) -> Path:
    best, *others = sorted(paths, key=_processing, reverse=True)
    if others:
        names = ", ".join(sorted(path.name for path in others))
        notes.append(f"{best.name} is used, not {names}")
    return best


def _processing(path: Path) -> tuple[int, int, str]:
    words = {word.lower() for word in _VARIANT.findall(_stem(path))}
    flip = 2 if "flipcorrected" in words else 1 if "flipped" in words else 0
    return flip, len(words & {"binarized", "binarised"}), path.as_posix()


def _is_series(path: Path) -> bool:
    """Tell whether a file is 4D; one that cannot be read is kept, for the cleaning to report."""
    try:
        return read_header(path).n_frames > 1
    except AnkleError:
        return True


def _sequences(root: Path, paths: list[Path]) -> list[Sequence]:
    """Name sequences ``<kind>_run-<number>``: the number in the file's name, or else the next."""
    numbers = {path: re.search(r"run-?0*(\d+)", path.name.lower()) for path in paths}
    named = {path: (_kind(path), int(n[1]) if n else None) for path, n in numbers.items()}
    unique = len(set(named.values())) == len(paths) and all(n for _, n in named.values())
    sequences: list[Sequence] = []
    for path, (kind, number) in named.items():
        count = 1 + sum(sequence.kind == kind for sequence in sequences)
        name = f"{kind}_run-{number if unique else count:02d}"
        sequences.append(Sequence(name=name, kind=kind, path=path.relative_to(root)))
    return sequences


def _kind(path: Path) -> Kind:
    name = path.name.lower()
    return "passive" if "passive" in name else "active" if "active" in name else "unknown"


def _participants(root: Path) -> dict[str, tuple[str, Side | None]]:
    """Read ``participants.tsv`` into {code: (group, side)}."""
    path = root / "participants.tsv"
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise AnkleError(f"{path}: no such file: run chapter 01 first") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AnkleError(f"{path}: cannot be read as a table: {reason}") from None
    if "participant_id" not in table:
        raise AnkleError(f"{path}: columns {list(table)} lack participant_id")
    people: dict[str, tuple[str, Side | None]] = {}
    for row in table.to_dict("records"):
        code = _code(row["participant_id"])
        group = re.sub(r"[^a-z0-9]+", "_", row.get("group", "").lower()).strip("_")
        side = row.get("side", "").strip().lower()[:1]
        people[code] = (_group(code) if group in ("", "n_a") else group, _SIDES.get(side))
    return people


def _clean_subject(root: Path, code: str, group: str, side: Side | None) -> CleanSubject:
    folder = root / f"sub-{code}"
    static = folder / f"sub-{code}_static.nii.gz"
    masks = {bone: folder / f"sub-{code}_static_label-{bone}_mask.nii.gz" for bone in BONES}
    missing = [path.name for path in (static, *masks.values()) if not path.is_file()]
    if missing:
        raise AnkleError(f"{folder}: lacks {', '.join(missing)}: run chapter 01 again")
    sequences: dict[str, list[Path]] = {}
    frames = folder.glob(f"sub-{code}_task-*_frame-*.nii.gz")
    for path in sorted(frames, key=lambda path: _natural(path.name)):
        name, _, frame = _stem(path).partition("_task-")[2].rpartition("_frame-")
        sequence = sequences.setdefault(name, [])
        if frame != f"{len(sequence):02d}":
            raise AnkleError(f"{folder}: {name} lacks frame {len(sequence)}: run chapter 01 again")
        sequence.append(path)
    return CleanSubject(code, group, side, static, masks, sequences)


def _code(name: str) -> str:
    """Return the subject's code: ``sub_T01`` and ``sub-T01`` are T01."""
    code = re.sub(r"[^A-Za-z0-9]", "", re.sub(r"^sub[-_]", "", name.strip()))
    if not code:
        raise AnkleError(f"{name!r} is no name of a subject: expected letters and digits")
    return code


def _group(code: str) -> str:
    return _GROUPS.get(code[:1].upper(), "unknown")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _natural(text: str) -> list[tuple[int, str]]:
    """Key that sorts run 2 before run 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
