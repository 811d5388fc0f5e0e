"""Interactive views for JupyterLab; all they do can also be done by calling their methods.

``volume_viewer``, ``sequence_player``, ``registration_tuner`` (on a ``registration_scene``),
``patch_explorer``, ``training_monitor`` and ``review_board`` show what their names say, all on the
one base in ``view``. ``picture`` is a slice on the screen, ``browser`` its script and the
keyboard's, ``inputs`` turns bad input into a sentence.
"""

from ankle_lib.widgets.patch_explorer import PatchExplorer
from ankle_lib.widgets.registration_tuner import RegistrationTuner, tuning_figure
from ankle_lib.widgets.review_board import ReviewBoard, registered_view
from ankle_lib.widgets.sequence_player import SequencePlayer
from ankle_lib.widgets.training_monitor import TrainingMonitor, training_figure
from ankle_lib.widgets.volume_viewer import VolumeViewer
