"""What can be undone after a restart, against an editor's way: a line of nets, and where in it one is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makemore_core.command import Back
from makemore_core.undo import MOST_LEFT, Left, Undo


@given(st.lists(st.sampled_from(["restart", "back", "forth"]), max_size=MOST_LEFT))
def test_it_goes_back_and_forth_as_an_editor_does(moves: list[str]) -> None:
    undo, attempt = Undo(), 0
    line, at, net = ["net 0"], 0, {0: "net 0"}  # an editor's line of states; which of them an attempt trains
    for number, move in enumerate(moves, 1):
        back: Back | None = None
        if move == "restart":
            line[at + 1 :], at = [f"net {number}"], at + 1
        else:
            aim, forth = at + (1 if move == "forth" else -1), move == "forth"
            if not 0 <= aim < len(line):
                with pytest.raises(ValueError, match="nothing to"):
                    undo.aim(forth)
                continue
            at, back = aim, Back(forth, undo.aim(forth))
            assert net[undo.aim(forth)] == line[at]
        undo.leave(Left(attempt, 1), back)
        attempt = number
        net[attempt] = line[at]
        assert [net[left.attempt] for left in undo.behind] == line[:at]
        assert [net[left.attempt] for left in reversed(undo.ahead)] == line[at + 1 :]
        assert undo.attempts == {left.attempt for left in undo.behind + undo.ahead}


@given(st.lists(st.integers(1, 1000), min_size=MOST_LEFT + 1, max_size=3 * MOST_LEFT))
def test_beyond_what_is_kept_the_nets_that_took_longest_stay_and_the_last_one(steps: list[int]) -> None:
    undo = Undo()
    for attempt, step in enumerate(steps):
        undo.leave(Left(attempt, step), None)
    assert len(undo.behind) == MOST_LEFT
    assert undo.behind[-1] == (len(steps) - 1, steps[-1])
    assert sorted(left.own for left in undo.behind[:-1]) == sorted(steps[:-1])[1 - MOST_LEFT :]


def test_a_net_that_cannot_be_had_is_passed_over() -> None:
    undo = Undo([Left(0, 10), Left(1, 20)])
    undo.forget(1)
    assert undo.aim(forth=False) == 0
    undo.leave(None, Back(attempt=0))  # a diverged one is not worth coming back to
    assert not undo.attempts
