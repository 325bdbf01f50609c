"""What a training loop needs of a checkpoint; where and how often it lies is the caller's business."""

from typing import Any, Protocol


class Checkpoint(Protocol):
    """The saved state of one training, keyed by its inputs."""

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None."""

    def due(self) -> bool:
        """Whether it is time to save again."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically."""


class NoCheckpoint:
    """Keeps nothing: for short runs and tests."""

    def load(self) -> None:
        """Return None: nothing is kept."""

    def due(self) -> bool:
        """Return False."""
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Drop the state."""
