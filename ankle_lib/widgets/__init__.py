"""Interactive views for JupyterLab; all they do can also be done by calling their methods.

``viewers`` (of volumes and of sequences), ``registration_tuner``, ``patch_explorer``,
``training_monitor`` and ``review_board`` show what their names say, on the one base in ``view``.
``picture`` is a slice on the screen, ``browser`` its script and the keyboard's, ``inputs`` turns
bad input into a sentence.
"""
