"""Interactive views for JupyterLab; all they do can also be done by calling their methods.

``review_board`` is where people judge registrations, ``picture`` draws for it, and ``keyboard``
brings keys from the browser.
"""

from ankle_lib.widgets.keyboard import BOARD_CLASS, Keyboard
from ankle_lib.widgets.picture import SlicePicture
from ankle_lib.widgets.review_board import ReviewBoard, View, registered_view

__all__ = ["BOARD_CLASS", "Keyboard", "ReviewBoard", "SlicePicture", "View", "registered_view"]
