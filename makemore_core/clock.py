"""Where the time of a run goes: into updates, and into looking at them, so that looking can be held to a budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of training, of looking and of rest since a net was made; pauses count for nothing."""

    def __init__(self) -> None:
        self.training = self.resting = 0.0
        self.rate = 0.0  # updates a second, smoothed over about a second
        self._looking: dict[str, float] = {}

    def trained(self, n: int, seconds: float) -> None:
        """`n` updates took so long."""
        self.training += seconds
        rate = n / max(seconds, 1e-9)
        weight = min(1.0, seconds) if self.rate else 1.0
        self.rate += weight * (rate - self.rate)

    def looked(self, seconds: float, account: str = "probe") -> None:
        """So long was spent looking."""
        self._looking[account] = self.spent(account) + seconds

    def rested(self, seconds: float) -> None:
        """So long nothing was done, to keep a pace."""
        self.resting += seconds

    def spent(self, account: str) -> float:
        """Seconds of looking, by what for."""
        return self._looking.get(account, 0.0)

    @contextmanager
    def looking(self, account: str) -> Iterator[None]:
        """A `with` block whose time is charged to looking."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.looked(time.monotonic() - began, account)

    @property
    def elapsed(self) -> float:
        """Seconds of all three."""
        return self.training + self.resting + sum(self._looking.values())

    @property
    def share(self) -> float:
        """The share of that time, 0..1, that went into looking."""
        return sum(self._looking.values()) / self.elapsed if self.elapsed else 0.0
