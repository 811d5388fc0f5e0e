"""Which registrations are good enough: the correlation gate, the review sheet, what may go on.

``gate`` finds the correlation that stands for enough overlap, ``review_sheet`` keeps the gate's and
people's verdicts in one file, ``registered`` gives later chapters what was
accepted, nothing else.
"""

from ankle_lib.quality.gate import (
    BONE_CORRELATION,
    CODE_CORRELATION,
    REPORT_CORRELATION,
    REPORT_DICE,
    fit_gate,
)
from ankle_lib.quality.registered import frame_path, read_registered
from ankle_lib.quality.review_sheet import KEY, SHEET_NAME, ReviewSheet, accepted
