"""Which cohorts there are, where their files lie, and whether they are intact.

``schema`` holds the records, ``document`` reads and checks a manifest, ``layouts`` recognises the
files in a folder, ``downloads`` fetches public sources.
"""

from ankle_lib.manifest.document import Manifest, manifest_from_folder
from ankle_lib.manifest.layouts import read_clean_cohort
from ankle_lib.manifest.schema import Geometry
