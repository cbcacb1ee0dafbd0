"""The losses of a training run, step by step."""

from __future__ import annotations

__all__ = ["History"]


class History(dict[str, list[float]]):
    """For each term of the losses, its values in order: one for each update of its objective.

    history["loss"] is a list. len(history) is the number of steps, not of terms.
    """

    def __len__(self) -> int:
        return min(map(len, self.values()), default=0)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.items() if values)
        return f"<history of {len(self)} steps, the last one: {last}>" if last else "<no history>"
