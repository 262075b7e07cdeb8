"""Where the time of a run goes: into updates, and into looking at them, so that looking can be held to a budget."""

from __future__ import annotations

from makemore_core.watch import Watch

# How the budget for looking is shared out, with a reserve for what cannot be charged (drawing snapshots out of the
# cache costs the next updates a little), and what each may spend before any of it is earned, in seconds.
SHARES = {"probe": 0.28, "survey": 0.24, "sample": 0.14}
CREDIT = {"probe": 0.25, "survey": 0.06, "sample": 0.015}
FIRST_LOOK = 0.5  # seconds of training before the first survey and the first names
EARLY = 1.0  # seconds between two probes at most, while their credit lasts


class Clock:
    """Seconds of training, of looking and of rest since a net was made; pauses count for nothing."""

    def __init__(self) -> None:
        self.training = self.resting = 0.0
        self.rate = 0.0  # updates a second of training, smoothed over about a second; at first the mean
        self._looking: dict[str, float] = {}

    def trained(self, n: int, seconds: float) -> None:
        """`n` updates took so long."""
        self.training += seconds
        rate = n / max(seconds, 1e-9)
        weight = min(1.0, seconds / min(1.0, self.training or 1.0)) if self.rate else 1.0
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

    @property
    def speed(self) -> float:
        """Updates a second with the looking between them."""
        return self.rate * self.training / (self.training + sum(self._looking.values())) if self.training else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of all three."""
        return self.training + self.resting + sum(self._looking.values())

    @property
    def share(self) -> float:
        """The share of that time, 0..1, that went into looking."""
        return sum(self._looking.values()) / self.elapsed if self.elapsed else 0.0


class Budget:
    """When to look, so that the share of a clock's time that looking takes stays in the budget of `watch`."""

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self._clock, self._watch = clock, watch
        self._usual: dict[str, float] = {}  # seconds that one look costs
        self._paid: dict[str, float] = {}  # seconds of all of them so far
        self._next_probe = 0.0

    def affords(self, account: str) -> bool:
        """Whether what it usually costs has been earned by now."""
        earned = SHARES[account] * self._watch.budget * self._clock.elapsed + CREDIT[account]
        cost = self._clock.spent(account) + self._usual.get(account, 0.0)
        return self._clock.elapsed > FIRST_LOOK and cost <= earned

    def in_credit(self) -> bool:
        """Whether probes may still be taken that are not earned yet."""
        return self._clock.spent("probe") < CREDIT["probe"]

    def probe_due(self, now: float) -> bool:
        """Whether it is time for the next probe."""
        return now >= self._next_probe

    def probed(self, now: float, free: bool = False) -> None:
        """A probe was taken in the slice that began `now`; `free`: it took nothing away from training."""
        cost = self.settle("probe")
        pause = 0.0 if free else cost / (SHARES["probe"] * self._watch.budget)
        if self.in_credit():  # at twice the age each: most happens to a net at first
            pause = min(pause, EARLY, self._clock.elapsed)
        self._next_probe = now + max(1 / self._watch.per_second, pause)

    def settle(self, account: str) -> float:
        """One look is over; seconds that it usually costs."""
        spent, usual = self._clock.spent(account), self._usual.get(account, 0.0)
        cost = spent - self._paid.get(account, 0.0) or usual  # one that held up no update was not charged
        # smoothed: one that a busy machine made dear does not leave the view blind for seconds
        usual += (cost - usual) * (0.25 if usual else 1.0)
        self._usual[account], self._paid[account] = usual, spent
        return usual
