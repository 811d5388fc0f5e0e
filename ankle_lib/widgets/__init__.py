"""Interactive views for JupyterLab; all they do can also be done by calling their methods.

``review_board`` is where people judge registrations (``review_layout`` its controls,
``review_rows`` the order, ``review_view`` what is looked at); ``volume_viewer``,
``sequence_player``, ``registration_tuner``, ``patch_explorer`` and ``training_monitor`` show what
their names say; ``tuning_figure`` and ``training_figure`` show two of them on paper; ``volume_3d``
is optional. ``panel`` is one slice on the screen, made of ``pixels`` on a ``canvas`` that hears the
mouse; ``keyboard`` brings keys from the browser, ``picture`` draws for the board, ``inputs`` and
``message`` turn bad input into a sentence.
"""

from ankle_lib.widgets.patch_explorer import PatchExplorer
from ankle_lib.widgets.registration_tuner import RegistrationTuner
from ankle_lib.widgets.review_board import ReviewBoard
from ankle_lib.widgets.review_view import registered_view
from ankle_lib.widgets.sequence_player import SequencePlayer
from ankle_lib.widgets.training_monitor import TrainingMonitor, training_figure
from ankle_lib.widgets.tuning_figure import tuning_figure
from ankle_lib.widgets.volume_viewer import VolumeViewer
