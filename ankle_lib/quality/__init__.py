"""Which registrations are good enough: the correlation gate, the review sheet, what may go on.

``gate`` finds the correlation that stands for enough overlap, ``sheet`` keeps the gate's and
people's verdicts in one file (``sheet_file``), ``registered`` gives later chapters what was
accepted, nothing else.
"""

from ankle_lib.quality.gate import (
    BONE_CORRELATION,
    CODE_CORRELATION,
    REPORT_CORRELATION,
    REPORT_DICE,
    Gate,
    fit_gate,
)
from ankle_lib.quality.registered import RegisteredFrame, frame_path, read_registered
from ankle_lib.quality.sheet import ReviewSheet, accepted
from ankle_lib.quality.sheet_file import AUTOMATIC, COLUMNS, KEY, SHEET_NAME, VERDICTS

__all__ = [
    "AUTOMATIC",
    "BONE_CORRELATION",
    "CODE_CORRELATION",
    "COLUMNS",
    "KEY",
    "REPORT_CORRELATION",
    "REPORT_DICE",
    "SHEET_NAME",
    "VERDICTS",
    "Gate",
    "RegisteredFrame",
    "ReviewSheet",
    "accepted",
    "fit_gate",
    "frame_path",
    "read_registered",
]
