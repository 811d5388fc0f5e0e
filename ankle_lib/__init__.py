"""From raw ankle MRI to segmented, reconstructed, moving bones.

Every chapter of the course has one module here, named like the chapter; modules import only
from those below them (see ``CONTRIBUTING.md``).
"""

__version__ = "0.1.0"
