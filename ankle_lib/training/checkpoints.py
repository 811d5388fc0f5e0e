"""The folder of a training: its checkpoints, and going on from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.networks.checkpoint import load_checkpoint, save_checkpoint
from ankle_lib.training.history import Progress
from ankle_lib.training.settings import TrainingSettings

BEST, LAST = "best.ckpt", "last.ckpt"


@dataclass(frozen=True)
class TrainingFolder:
    """Where a training is kept, and what its checkpoints say about the network."""

    path: Path
    name: str
    arguments: dict[str, Any]
    labels: tuple[str, ...]

    def resume(
        self, network: nn.Module, settings: TrainingSettings
    ) -> tuple[Progress, dict[str, Any] | None]:
        """Take weights and state from the last checkpoint, if there is one."""
        if not (self.path / LAST).exists():
            return Progress(), None
        found = load_checkpoint(self.path / LAST)
        ours = {"network": self.name, **self.arguments, "labels": self.labels, **asdict(settings)}
        state = found.training
        if set(state) != {"settings", "progress", "optimizer"}:
            raise AnkleError(f"{self.path / LAST}: not of a training: choose another folder")
        theirs = {"network": found.name, **found.arguments, "labels": found.labels}
        theirs |= state["settings"]
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise AnkleError(
                    f"{self.path}: holds a training with {key} {theirs.get(key)!r}, not "
                    f"{ours.get(key)!r}: choose another folder, or delete this one"
                )
        network.load_state_dict(found.network.state_dict())
        return Progress.from_state(state["progress"]), state["optimizer"]

    def save_best(self, network: nn.Module, so_far: Progress) -> None:
        """Write the weights of the best epoch."""
        self._save(BEST, network, {"epoch": so_far.best_epoch, "score": so_far.best_score})

    def save_last(
        self,
        network: nn.Module,
        so_far: Progress,
        settings: TrainingSettings,
        optimizer: dict[str, Any],
    ) -> None:
        """Write everything that `resume` needs, and the tables."""
        state = {"settings": asdict(settings), "progress": so_far.state(), "optimizer": optimizer}
        so_far.write(self.path, settings)
        self._save(LAST, network, state)

    def _save(self, file: str, network: nn.Module, training: dict[str, Any]) -> None:
        save_checkpoint(
            self.path / file,
            network,
            name=self.name,
            arguments=self.arguments,
            labels=self.labels,
            training=training,
        )
