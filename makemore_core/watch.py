"""How closely a run is watched: plain settings, so that a command line can read them before torch is there."""

from __future__ import annotations

from typing import NamedTuple


class Watch(NamedTuple):
    """A probe every so many steps, or so many a second at most.

    `budget` is the share of the time, 0..1, that all looking may take; probes set in steps do not keep to it. `pace`
    is how many steps a second the run is held to at first, so that they can be followed; None lets it go. `paused`:
    it waits after its first update, whose activations and gradients are those of the net as initialised.
    """

    every: int | None = None
    per_second: float = 10.0
    budget: float = 0.03
    pace: float | None = None
    paused: bool = False
