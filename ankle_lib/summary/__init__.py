"""One table for the three tasks, the report's values beside ours, for readers of the README.

``lines`` lists what is compared, ``comparison`` takes the numbers from the chapters' tables to
``summary/results.csv``, ``readme`` takes them from there to the README.
"""

from ankle_lib.summary.comparison import SUMMARY, read_summary, summarise, write_summary
from ankle_lib.summary.lines import LINES
from ankle_lib.summary.readme import as_markdown, section, write_readme
