"""Which cohorts there are, where their files lie, and whether they are intact.

``schema`` holds the records, ``document`` reads and checks a manifest, ``layouts`` recognises the
files in a folder, ``downloads`` fetches public sources.
"""

from ankle_lib.manifest.document import (
    Finding,
    Manifest,
    load_manifest,
    manifest_from_folder,
    save_manifest,
    verify,
)
from ankle_lib.manifest.downloads import fetch
from ankle_lib.manifest.layouts import CleanSubject, read_clean_cohort
from ankle_lib.manifest.schema import (
    Cohort,
    Geometry,
    LocalSource,
    PhantomSource,
    RemoteFile,
    RemoteSource,
    Sequence,
    Subject,
)

__all__ = [
    "CleanSubject",
    "Cohort",
    "Finding",
    "Geometry",
    "LocalSource",
    "Manifest",
    "PhantomSource",
    "RemoteFile",
    "RemoteSource",
    "Sequence",
    "Subject",
    "fetch",
    "load_manifest",
    "manifest_from_folder",
    "read_clean_cohort",
    "save_manifest",
    "verify",
]
