"""What could tell who was scanned, or where: texts in headers, names of files, folders.

Nothing of it is copied: images are written with a header of their own. It is told all the same,
because the files themselves may be passed on.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ankle_lib.files import NIFTI_SUFFIXES, AnkleError
from ankle_lib.volume import read_header

LONGEST = 1_000_000
"""Bytes of a text file that are looked at."""
SHOWN = 40

_TECHNICAL = re.compile(
    r"(\w{1,10}=[-+\d.:eE]+[;, ]*)+|\d+\.\d+(\.\d+)?(:\w+)?|"
    r"(FSL|SPM|spm|AFNI|ANTs|NiBabel|nibabel|FreeSurfer|dcm2niix|"
    r"Philips|Siemens|SIEMENS|GE MEDICAL|MRtrix|ITK|Elastix|Time=).*",
    re.DOTALL,
)
"""What converters write into headers: times of the sequence, and their own names."""
_PERSON = re.compile(
    r"\^|(?<!\d)(19|20)\d\d[-_]?(0[1-9]|1[0-2])[-_]?([0-2]\d|3[01])(?!\d)|"
    r"(?<![A-Za-z])([A-Z][a-z]{2,}|[A-Z]{3,})[_ ,]+([A-Z][a-z]{2,}|[A-Z]{3,})(?![A-Za-z0-9])"
)
"""A name as in DICOM, a date, or two words that begin with capitals."""
_FIELDS = re.compile(
    r"(Patient|Physician|Operator|Performing|Institution|Birth|Accession)\w*|\w*(name|birth)\w*",
    re.IGNORECASE,
)
"""Of sidecars and tables; a name of a program or a sequence is none of a person."""
_HARMLESS = re.compile(
    r"\w*(Sequence|Series|Protocol|Manufacturer\w*|Software|Pulse|Coil|Task|Station|Model|Scan)"
    r"\w*name|name|datasetname|conversionsoftware|PatientPosition",
    re.IGNORECASE,
)


def header_texts(path: Path) -> dict[str, str]:
    """Return the texts of a NIfTI header that are no converter's, by field; see `Header.texts`."""
    texts = read_header(path).texts
    return {field: text for field, text in texts.items() if not _TECHNICAL.fullmatch(text)}


def header_note(path: Path) -> str:
    """Say which fields of a header hold free text, without repeating it; empty if none does."""
    fields = ", ".join(header_texts(path))
    return fields and f"{path}: the header holds free text ({fields}), which no result will hold"


def told_by(path: Path) -> list[str]:
    """Return what a file tells about who was scanned: a phrase for each place.

    Parameters
    ----------
    path : Path
        Of any kind; looked at are headers of NIfTI files, fields of JSON sidecars, columns of
        tables, and the name itself.
    """
    is_person = _PERSON.search(path.name.partition(".")[0])
    found = [f"its name looks like a person or a date: {path.name}"] if is_person else []
    try:
        if path.name.endswith(NIFTI_SUFFIXES):
            texts = header_texts(path).items()
            return found + [f"header, {field}: {text[:SHOWN]!r}" for field, text in texts]
        if path.suffix in (".json", ".tsv", ".csv"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(LONGEST)
            is_json = path.suffix == ".json"
            names = json.loads(text) if is_json else re.split(r"[\t,;]", text.partition("\n")[0])
            found += [f"field {n.strip()}" for n in names if isinstance(n, str) and _is_personal(n)]
    except (AnkleError, OSError, ValueError, RecursionError):
        pass  # files that cannot be read are for others to tell
    return found


def without_folders(text: str, names: Mapping[Path, str]) -> str:
    """Return a text in which folders of this machine have other names.

    Parameters
    ----------
    text : str
        Also JSON, in which paths are escaped.
    names : mapping of Path to str
        What to write for a folder; the home folder becomes ``~`` in any case.
    """
    shown = {str(folder): name for folder, name in names.items()} | {str(Path.home()): "~"}
    for folder, name in sorted(shown.items(), key=lambda item: -len(item[0])):
        if len(Path(folder).parts) > 1:
            for one, other in ((folder, name), (json.dumps(folder)[1:-1], json.dumps(name)[1:-1])):
                written = other.replace("\\", r"\\")
                text = re.sub(rf"{re.escape(one)}(?![\w.-])", written, text)
    return text


def _is_personal(field: str) -> bool:
    name = field.strip().strip('"')
    return bool(_FIELDS.fullmatch(name)) and not _HARMLESS.fullmatch(name)
