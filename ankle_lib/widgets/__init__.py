"""Interactive views for JupyterLab; all they do can also be done by calling their methods.

``viewers`` (of volumes and of sequences), ``registration_tuner``, ``patch_explorer``,
``training_monitor`` and ``review_board`` show what their names say, on the one base in ``view``,
which also turns bad input into a sentence. ``picture`` is a slice on the screen.
"""
