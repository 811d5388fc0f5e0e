"""Training the networks of chapters 05 to 07.

``loop`` is the loop, ``settings`` what can be chosen, ``losses`` what is made small,
``optimisers`` how weights are changed, ``validation`` how a network is judged after each epoch,
``watching`` looks at the losses, ``history`` and ``checkpoints`` are what is written down.
"""

from ankle_lib.training.history import History
from ankle_lib.training.loop import train
