"""What one can go back to after a restart or a live change, and forth again: as an editor undoes and does again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from makemore_core.command import Back

MOST_LEFT = 10  # nets that one can go back to


class Left(NamedTuple):
    """A net that was left for another one, by the attempt whose last checkpoint has it, and how many updates of its own
    it had: those since it was changed live, if it began so.
    """

    attempt: int
    own: int


class Undo:
    """The nets left behind one, and ahead of one after going back; the next one is last."""

    def __init__(self, behind: Sequence[Left] = (), ahead: Sequence[Left] = ()) -> None:
        self.behind, self.ahead = list(behind), list(ahead)

    @property
    def attempts(self) -> set[int]:
        """Those whose last checkpoint is worth keeping."""
        return {left.attempt for left in [*self.behind, *self.ahead]}

    def aim(self, forth: bool) -> int:
        """The attempt whose net comes next that way. Raises ValueError where there is none."""
        nets = self.ahead if forth else self.behind
        if not nets:
            raise ValueError("nothing to go forth to" if forth else "nothing to undo: no other net was left")
        return nets[-1].attempt

    def forget(self, attempt: int | None) -> None:
        """That net is in training again, or cannot be had."""
        for nets in self.behind, self.ahead:
            nets[:] = [left for left in nets if left.attempt != attempt]

    def leave(self, left: Left | None, back: Back | None) -> None:
        """A net is left for one from the seed, by a live change, or by going back or forth; None where it is not worth
        coming back to.
        """
        if back is None:
            self.ahead.clear()
        else:
            self.forget(back.attempt)
        if left is not None:
            (self.behind if back is None or back.forth else self.ahead).append(left)
        if len(self.behind) > MOST_LEFT:  # the one that took the least to train goes, but for the last
            self.behind.remove(min(self.behind[:-1], key=lambda one: one.own))
