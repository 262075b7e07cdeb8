"""A run while it is alive: commands in, snapshots out, and updates in between.

It stands alone because it is the only place where training, looking and recording meet; each of the three can be
read without it. Nothing here waits for anybody who watches.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from torch import Tensor

from makemore_core.clock import Budget, Clock
from makemore_core.command import (
    CHANGES,
    Back,
    Channel,
    Checkpoint,
    Command,
    Look,
    Pace,
    Pause,
    Restart,
    Resume,
    Sample,
    Set,
    Step,
    Stop,
    Twin,
    check_steps,
    in_words,
)
from makemore_core.config import (
    LIVE_FIELDS,
    LIVE_IF_ASKED_FIELDS,
    Config,
    Value,
    field,
    keeps_weights,
    parse,
    shown,
)
from makemore_core.dataset import Dataset
from makemore_core.making import Making
from makemore_core.model import SAMPLING_SEED
from makemore_core.nets import Nets
from makemore_core.snapshot import AS_PLANNED, LOST, MOST_INTERVENTIONS, Exhibit, Intervention, Snapshot, State
from makemore_core.trainer import Trainer, pick_device
from makemore_core.undo import Left, Undo
from makemore_core.watch import Watch
from makemore_core.watched import Watched

SLICE = 0.03  # seconds of updates between two looks at the commands
LONGEST_SLICE = 4096
MOST_LOSSES = 20_000  # that wait for a probe: what is published has to stay small enough for a line of the record
SHORT, LOOKS_AT_SHORT = 5_000, 50  # updates in a run that may be over in a moment, and how often it is looked at then
SAID = 10.0  # seconds for which it is told what a command did to a run that is not over
LOOK_AGAIN = 1.0  # seconds between two full looks at a run that is held to a pace, while it waits
KEPT = 5.0  # seconds after which a net that cannot be saved is not left either
TOLD_EVERY = 1.0  # seconds after which step and loss are told again, also where probes are too dear to come so often

WORTHLESS = "the run is diverged: there is nothing worth saving"


class NotKeptError(ValueError):
    """A net that was left, and that nobody can have back."""


class Request(NamedTuple):
    """A command, who gave it, and how to tell them: the step it was applied before, or what was wrong."""

    command: Command
    who: str
    tell: Callable[[int | str], None]


class Recorder:
    """Where a session leaves what happened; this one forgets everything."""

    def open(self, session: Session) -> None:
        """The run begins or goes on."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """A snapshot was published."""

    def exhibit(self, exhibit: Exhibit) -> None:
        """An exhibit was published."""

    def command(self, session: Session, command: Command, who: str) -> None:
        """A command is about to be applied."""

    def asked(self, session: Session) -> list[Request]:
        """What other processes asked since the last call; called often, paused or not."""
        return []

    def alive(self, session: Session) -> None:
        """The run is busy; called often, so that nobody takes it for dead."""

    def checkpoint(self, session: Session) -> str:
        """Save the state of the session; a line that says where. Raises ValueError where that failed."""
        return ""

    def earlier(self, session: Session, attempt: int) -> Nets:
        """The nets of an attempt that was left, as they were then.

        Raises ValueError: NotKeptError where they can never be had.
        """
        raise NotKeptError(f"the net of attempt {attempt} was not kept")

    def trouble(self) -> str:
        """What cannot be written down or saved at present, in one line; empty while all is well."""
        return ""

    def unsaved(self) -> bool:
        """Whether the last attempt to save failed; it is made again."""
        return False

    def lost(self) -> bool:
        """Whether something of what happened could not be written down."""
        return False

    def close(self, session: Session) -> None:
        """The run ends here."""


class Session:
    """One run. `run()` trains until the run is finished or stopped; with `stay` a finished run takes more commands.

    `twin` are the settings in which a second net differs, trained in lock-step: same seed, same minibatches.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        channel: Channel,
        *,
        name: str = "",
        preset: str | None = None,
        twin: Mapping[str, Value] | None = None,
        watch: Watch | None = None,
        recorder: Recorder | None = None,
        stay: bool = False,
    ) -> None:
        self.dataset, self.channel = dataset, channel
        self.name, self.preset, self.watch, self.stay = name, preset, watch or Watch(), stay
        self.recorder = recorder or Recorder()
        self.state: State = "running"
        self.attempt = 0
        self.undo = Undo()
        self.interventions: list[Intervention] = []
        self.replay: list[tuple[int, int, Command]] = []  # attempt, step and command of an earlier life of the run
        self.changes = 0  # made so far, so that a resumed run knows which are in its checkpoint
        self.message = ""
        self.answered = 0  # commands that were answered, in words or by being carried out
        self.pace = self.watch.pace  # steps a second, where the run is held back
        self._pause_at: int | None = None
        self._told = self._news()
        self._published = 0.0
        self._untold: list[Callable[[], None]] = []  # outcomes that do not show yet
        self._said = time.monotonic()  # when somebody was told what became of a command
        self._over = False  # somebody has ended it
        self._sampling_seed, self._temperature = SAMPLING_SEED, 1.0
        self._begin(self.fresh(config, twin or {}))

    def fresh(self, config: Config, twin_changes: Mapping[str, Value]) -> Nets:
        """Nets as drawn from the seed. Raises ValueError where there can be none such here."""
        return Nets.fresh(config, self.dataset, twin_changes)

    def _begin(self, nets: Nets) -> None:
        self.nets = nets
        self._clock = Clock()
        self._budget = Budget(self._clock, self.watch)
        self._drop_looks()
        self._making = Making()
        self._due = 0.0  # when the next update may begin, to keep the pace
        self._look_again = 0.0  # when the next one may begin
        self._part_takes = 0.0  # seconds, at least

    def _drop_looks(self) -> None:
        """What is under way is of the net as it was."""
        self._survey: Iterator[None] | None = None
        self._last_look: Iterator[None] | None = None  # once the last update is done
        self._meanwhile: Iterator[None] | None = None  # at a run that is held to a pace

    @property
    def net(self) -> Watched:
        """The run's own net."""
        return self.nets.net

    @property
    def trainer(self) -> Trainer:
        """Of the run's own net."""
        return self.net.trainer

    @property
    def config(self) -> Config:
        """Of the run's own net."""
        return self.trainer.config

    # -- the loop

    def run(self) -> State:
        """Train until the run ends; the state it ended in."""
        try:
            self.recorder.open(self)
            if self.watch.paused and self.state == "running":
                if self.net.seen.layers_step == self.trainer.step:  # it was left in a pause
                    self.state = "paused"
                else:
                    self._pause_at = self.trainer.step + 1
            if self.state == "finished":  # in an earlier life: whoever opens it again may want more steps of it
                self._obey()
            self._publish()
            while self._alive():
                self._obey()
                self._go_on_making()
                if self.state == "running" and self._resting():
                    continue
                if self.state == "running":
                    self._train()
                    if self.state == "running":
                        self._look_around()
                elif self._alive() and not self._making and not self._catch_up():
                    self.channel.wait(0.05)
                self._tell_news()
        except BaseException:
            self.state = "crashed"
            raise
        finally:
            self.recorder.close(self)
        return self.state

    def _resting(self) -> bool:
        """Whether the next update has to wait for the pace to be kept; waits for a moment, or until somebody asks."""
        began = time.monotonic()
        if began >= self._due:
            return False
        if began >= self._look_again and self._part_takes <= self._due - began:
            self._look_meanwhile()
            self._part_takes = min(time.monotonic() - began, self._part_takes or math.inf)
        else:
            self.channel.wait(min(0.05, self._due - began))
            self._clock.rested(time.monotonic() - began)
        return True

    def _look_meanwhile(self) -> None:
        """A part of a look at a run that is held to a pace: the losses over its splits, dead units, names."""
        if self._meanwhile is None:
            self._survey, self._meanwhile = None, self._look_at_all(whole=False)
        with self._looking("survey"):
            done = next(self._meanwhile, "done") == "done"
        if done:
            self._meanwhile, self._look_again = None, time.monotonic() + LOOK_AGAIN

    def _tell_news(self) -> None:
        """Publish what came up since the last snapshot without an update: the end, or trouble with the disk.

        What is no longer news is told no longer.
        """
        if self.state in ("running", "paused") and time.monotonic() - self._said > SAID:
            self.message = self.trainer.notice
        if self._told != self._news():
            self._publish()

    def _answer(self, message: str) -> None:
        self.message, self._said = message, time.monotonic()
        self.answered += 1

    def _news(self) -> tuple[object, ...]:
        return self.state, self.message, self.answered, bool(self.recorder.trouble())

    def _alive(self) -> bool:
        if self._over:
            return False
        if self.state in ("running", "paused"):
            return True
        if self.state == "finished" and (self.recorder.unsaved() or self._making):
            return True  # until there is room, or somebody gives up; and what was asked for is shown
        return self.stay and self.state in ("finished", "diverged")

    def _train(self) -> None:
        if self.trainer.step >= self.config.steps:
            self._finish()
            return
        self.message = self.message or self.trainer.notice
        n = self._slice()
        now = time.monotonic()
        probed = self._probe_due(n, now)
        # what was looked at in between may have held it up a little: that is made good
        since = self._due if now - self._due < LOOK_AGAIN / 10 else now
        self._due = since + n / self.pace if self.pace else 0.0
        self._advance(n, probed)
        self._mark_decay(self.trainer.step - n)
        if self.net.diverged and not probed and self.trainer.step < self.config.steps:
            self._advance(1, True)  # what is shown of the net is to be of what has become of it
            probed = True
        if probed:
            with self._looking("probe"):
                self.nets.look()
        if self.net.diverged:
            self._diverge(self.net.diverged_at)
        elif self._pause_at is not None and self._pause_at <= self.trainer.step < self.config.steps:
            self.state, self._pause_at = "paused", None
        late = not self.watch.every and now - self._published > TOLD_EVERY
        ends = self.state == "running" and self.trainer.step >= self.config.steps  # told with what its last look sees
        if not ends and (probed or late or self.state != "running" or len(self.net.losses) >= MOST_LOSSES):
            self._publish()
        if probed:
            self._budget.probed(now, free=time.monotonic() < self._due)

    def _slice(self) -> int:
        """How many updates to run before looking up again."""
        step, every = self.trainer.step, self.watch.every
        limits = [self.config.steps - step, LONGEST_SLICE, max(1, int(self._clock.rate * SLICE))]
        if every:
            limits.append(every - step % every)
        if part := self._part():
            limits.append(part - step % part)
        if self.pace:
            limits.append(max(1, int(self.pace * SLICE)))
        if self._pause_at is not None:
            limits.append(self._pause_at - step)
        limits += [at - step for attempt, at, _ in self.replay[:1] if attempt == self.attempt and at > step]
        return max(1, min(limits))

    def _advance(self, n: int, tap: bool) -> None:
        """`n` updates; what tapping makes the last one dearer is charged to looking."""
        batches = self.trainer.draw(n)
        untapped = n - 1 if tap else n
        if untapped:
            self._clock.trained(untapped, self._move(batches[:untapped], False))
        if tap:
            spent = self._move(batches[untapped:], True)
            unknown = not self._clock.rate or self.watch.every == 1  # what one costs that is not tapped
            usual = spent if unknown else min(spent, 1 / self._clock.rate)
            self._clock.trained(1, usual)
            self._clock.looked(max(0.0, min(spent - usual, time.monotonic() - self._due)))

    def _move(self, batches: Tensor, tap: bool) -> float:
        began = time.monotonic()
        self.nets.advance(batches, tap)
        return time.monotonic() - began

    def _probe_due(self, n: int, now: float) -> bool:
        after = self.trainer.step + n
        ends = after >= self.config.steps or (self._pause_at is not None and after >= self._pause_at)
        if self.watch.every:
            return ends or after % self.watch.every == 0
        part = self._part()
        return ends or (part > 0 and after % part == 0) or self._budget.probe_due(now)

    def _part(self) -> int:
        """After how many updates a run is looked at that is over before its next look is due; 0 for a longer one."""
        by_time = self.watch.every is None and self.watch.per_second >= 1
        short = by_time and self.config.steps <= SHORT and self._budget.in_credit()
        return -(-self.config.steps // LOOKS_AT_SHORT) if short else 0

    def _diverge(self, since: int | None) -> None:
        self.state, self._pause_at = "diverged", None
        back = "u goes back to the net before; " if self.stay and self.undo.behind else ""
        self.message = f"the loss is no number from step {since:,} on: {back}the doctor says what to try"

    def _finish(self) -> None:
        """The last update is done: a part of the last look, between which commands are obeyed; then a checkpoint.

        A net that only the last update has ruined is found out here; one whose running statistics are no numbers has
        learnt, and is kept.
        """
        self._survey = self._meanwhile = None  # what is under way is of an earlier step
        if self._last_look is None:
            self._last_look = self._look_at_all(whole=True)
        if next(self._last_look, "done") == "done":
            self._last_look = None
            if self.net.ruined():
                self._diverge(self.trainer.step)
                return
            self.state, self._pause_at = "finished", None
            self._save()
        elif not self.watch.every and time.monotonic() - self._published > TOLD_EVERY:
            self._publish()

    def _look_at_all(self, whole: bool) -> Iterator[None]:
        """The losses over the splits, the dead units, fresh names; `whole`: the test split too."""
        yield from self.nets.survey(whole)
        yield from self.nets.sample(self._sampling_seed, self._temperature)

    def _save(self) -> None:
        """A checkpoint now. Raises nothing: what went wrong is the recorder's trouble, and shown until it is over."""
        with contextlib.suppress(ValueError):
            self.message = self.recorder.checkpoint(self)

    # -- looking around: what costs more than a probe is done in small parts, now and then

    def _look_around(self) -> None:
        if self._last_look is not None:
            return
        if self._survey is not None or self._budget.affords("survey"):
            self._go_on_surveying()
        if self._budget.affords("sample"):
            self._sample_names()

    def _go_on_surveying(self) -> None:
        with self._looking("survey"):
            if self._survey is None:  # once begun it is finished: its losses are to be of now, not of seconds ago
                self._survey, self._meanwhile = self.nets.survey(whole=False), None
            done = next(self._survey, "done") == "done"
        if done:
            self._survey = None
            self._budget.settle("survey")

    def _catch_up(self) -> bool:
        """Look a little further at a net that waits, which costs no update; whether there was anything left to see."""
        splits, step = self.net.seen.splits, self.trainer.step
        if self.state != "paused":
            return False
        self._meanwhile = None  # of an earlier step
        if self.net.seen.names_step != step:
            self._sample_names()
        elif self._survey is not None or splits is None or splits.step != step:
            self._go_on_surveying()
        else:
            return False
        if self._survey is None:
            self._publish()
        return True

    @contextlib.contextmanager
    def _looking(self, account: str) -> Iterator[None]:
        """Time that is charged to looking, but for that in which nothing would be trained: in a pause, or before the
        next update is due.
        """
        began = time.monotonic()
        try:
            yield
        finally:
            if self.state == "running":
                took = time.monotonic() - began
                charged = max(0.0, min(took, began + took - self._due))
                self._clock.looked(charged, account)
                self._clock.rested(took - charged)

    def _sample_names(self) -> None:
        with self._looking("sample"):
            for _ in self.nets.sample(self._sampling_seed, self._temperature):
                pass

    # -- commands

    def _obey(self) -> None:
        # a net that diverged waits for what was changed then, which may have been some steps later
        while self.replay and self.replay[0][:2] <= (
            (self.attempt, math.inf) if self.state == "diverged" else (self.attempt, self.trainer.step)
        ):
            self._repeat(self.replay.pop(0)[2])
        own = [Request(command, "", _nobody) for command in self.channel.commands()]
        for command, who, tell in own + self.recorder.asked(self):
            try:
                command = self._aimed(command)
                self._refuse(command)
                nets = self._check(command)
                if who and isinstance(command, Stop):
                    self._save_first()
                left = self._leave(command, nets)
                self._note(command, who)
                self._apply(command, nets, left)
                outcome: int | str = self.trainer.step
            except ValueError as refused:
                outcome = str(refused)
                if not who:  # given here: nobody but whoever asked is to be told
                    self._answer(outcome)
            self._untold.append(partial(tell, outcome))
            shows = self.net.seen.layers_step is not None or self._pause_at is None  # else the first update is about to
            if isinstance(command, Look):  # which changes nothing, and views ask again and again
                self._tell()
            elif shows:
                self._publish()

    def _repeat(self, command: Command) -> None:
        """Make a change of an earlier life of the run again."""
        if isinstance(command, Set):
            command = msgspec.structs.replace(command, paused=False)  # somebody let it go on
        try:
            nets = self._check(command)
            self._apply(command, nets, self._leave(command, nets, again=True))
            self.changes += 1
        except ValueError as error:  # what follows it would not be the same either
            self.replay.clear()
            self._answer(f"{in_words(command)} cannot be made again: {error}")
            self._publish()

    def _aimed(self, command: Command) -> Command:
        """Going back with the attempt that it leads to. Raises ValueError where there is none."""
        if isinstance(command, Back) and command.attempt is None:
            return Back(command.forth, self.undo.aim(command.forth))
        return command

    def _leave(self, command: Command, nets: Nets | None, again: bool = False) -> Left | None:
        """Save the net that a command leaves, or changes live; None where there is nothing to come back to.

        Raises ValueError where it cannot be saved, but somebody has waited for it and it would be left; not where that
        was done in an earlier life and comes `again`.
        """
        if nets is None and not self._makes_another(command):
            return None
        left = None
        if self._worth_keeping():
            try:
                self.recorder.checkpoint(self)
                left = Left(self.attempt, self.trainer.step - self.nets.since)
            except ValueError as error:
                if nets is not None and self._clock.elapsed > KEPT and not again:
                    raise ValueError(f"this net is not left, for {error}") from None
        self._publish()  # what it lost last: its curve goes on where somebody comes back to it
        return left

    def _save_first(self) -> None:
        """Raises ValueError where a net cannot be saved that is to be stopped from afar: nobody would see it lost."""
        if self.state != "diverged":
            try:
                self.recorder.checkpoint(self)
            except ValueError as error:
                raise ValueError(f"it is not stopped, for {error}; kill {os.getpid()} stops it unsaved") from None

    def _worth_keeping(self) -> bool:
        """Whether one may want the net back: it has updates of its own, or was changed live a moment ago and has
        settings of its own.
        """
        return self.state != "diverged" and (self.trainer.step > self.nets.since or self.nets.origin is not None)

    def _lost(self, left: Left | None) -> str:
        """What there is to add where the net could not be saved before it was left or changed."""
        return f"; {LOST}" if left is None and self._worth_keeping() else ""

    def _note(self, command: Command, who: str) -> None:
        """Have a command written down before it is applied.

        A change takes the place of those that an earlier life of the run made later on.
        """
        self.recorder.command(self, command, who)
        if isinstance(command, CHANGES):
            self.changes += 1
            self.replay.clear()

    def _check(self, command: Command) -> Nets | None:
        """The nets that the command needs, if it needs new ones.

        Raises ValueError, in one line, for a command that cannot be carried out as things stand.
        """
        if self._over:
            raise ValueError("the run has been stopped")
        match command:
            case Set(changes=changes):
                after = self.config.replace(changes)
                self.nets.check(after)
                nets = None if self._keeps_weights(after, command) else self.fresh(after, self.nets.twin_changes)
                if after.batch_size != self.config.batch_size:
                    (nets or self.nets).try_batch(after.batch_size)
                return nets
            case Restart():
                return self.fresh(self.config, self.nets.twin_changes)
            case Back(attempt=int(attempt)):
                try:
                    return self.recorder.earlier(self, attempt)
                except NotKeptError:
                    self.undo.forget(attempt)  # so that the one before it can be had
                    raise
            case Twin(changes=changes):
                differs = {field(name): parse(name, value) for name, value in changes.items()}
                return self.fresh(self.config, differs) if changes else None
            case Step() if self.state in ("finished", "diverged"):
                raise ValueError(
                    f"the run is {self.state}: restart it" + ", or set steps higher" * (self.state == "finished")
                )
            case Checkpoint() if self.state == "diverged":
                raise ValueError(WORTHLESS)
        return None

    def _refuse(self, command: Command) -> None:
        """Raises ValueError for a change that would end the run or throw the net away, which nobody asked for."""
        if isinstance(command, Set):
            after = self.config.replace(command.changes)
            if self._keeps_weights(after, command):
                check_steps(after.steps, self.trainer.step)
            if after.device != self.config.device and (absent := pick_device(after.device)[1]):
                raise ValueError(f"device={after.device}: {absent.partition(':')[0]}")
            needs_new = ", ".join(sorted(self.config.changes_to(after).keys() - LIVE_FIELDS - LIVE_IF_ASKED_FIELDS))
            if command.live and not command.fresh and self.state != "diverged":
                if needs_new:
                    raise ValueError(f"{needs_new}: cannot be changed on a live net; without --live the run restarts")
                if after.steps <= self.trainer.step and self.config.changes_to(after).keys() & LIVE_IF_ASKED_FIELDS:
                    raise ValueError("the run is finished, so a live change would not be seen: set steps higher first")

    def _keeps_weights(self, after: Config, command: Set) -> bool:
        if command.fresh or self.state == "diverged":  # whose weights are worth nothing
            return False
        return keeps_weights(self.config.changes_to(after), command.live)

    def _makes_another(self, command: Command) -> bool:
        """Whether the live net, or what the coming updates do to it, is changed: one may want that net back."""
        changed = self.config.changes_to(self.config.replace(command.changes)) if isinstance(command, Set) else {}
        return bool(changed.keys() - {"steps"})

    def _apply(self, command: Command, nets: Nets | None, left: Left | None) -> None:
        """Raises ValueError where it could not be done after all."""
        if not isinstance(command, Look):  # views ask again and again
            self._answer("")
        match command:
            case Pause():
                if self.state == "running" and self.trainer.step != self.net.seen.layers_step:
                    self._pause_at = self.trainer.step + 1
                    self._train()  # one more update, which can be looked at
                self.state = "paused" if self.state == "running" else self.state
                self._pause_at = None
            case Resume():
                self.state = "running" if self.state == "paused" else self.state
                self._pause_at = None
            case Step(n=n):
                # a step that is asked for while another one waits for the pace comes after it
                self.state, self._pause_at = "running", (self._pause_at or self.trainer.step) + n
            case Pace(per_second=pace):
                self.pace, self._due = pace, 0.0
            case Set():
                self._set(command, nets, left)
            case Restart() | Back():
                self._restart(command, nets, left)
            case Twin() if nets is not None:
                self._restart(Twin(nets.twin_changes), nets, left)
            case Twin():
                self.nets.untwin()
                self._drop_looks()
                self._mark(command, self.config.as_dict())
                self.message = "the twin is gone"
            case Sample(temperature=temperature):
                self._sampling_seed, self._temperature = self._sampling_seed + 1, temperature
                self._meanwhile = None
                self._sample_names()
            case Checkpoint():
                self.message = self.recorder.checkpoint(self)
            case Look():
                self._exhibit(command)
            case Stop():
                self._stop()

    def end(self) -> None:
        """End the run as it is, without saving."""
        self._over = True
        if self.state in ("running", "paused"):
            self.state = "stopped"

    def _stop(self) -> None:
        self.end()
        # a finished run is saved already, or has waited for room; a diverged one is not worth it
        if self.state == "stopped" or self.recorder.unsaved():
            self._save()

    def _set(self, command: Set, nets: Nets | None, left: Left | None) -> None:
        after = self.config.replace(command.changes)
        before, changed = self.config.as_dict(), self.config.changes_to(after)
        if not changed and nets is None:
            self.message = ", ".join(f"{name} is {shown(before[name])} already" for name in command.changes)
            return
        what = msgspec.structs.replace(command, changes=changed)
        if nets is not None:
            self._restart(what, nets, left)
            return
        lost = ""
        if self._makes_another(what):
            lost = self._lost(left)
            self.undo.leave(left, None)
            self.nets.origin, self.nets.since, self.attempt = self.attempt, self.trainer.step, self.attempt + 1
        self._mark(what, before)
        self.nets.reconfigure(after)
        self._drop_looks()
        self._making = Making()
        if "batch_size" in changed:
            self._clock.rate = 0.0  # it says nothing of how many such updates a slice has room for
        self.message = in_words(what, before) + lost
        if self.state == "paused" and not keeps_weights(changed, live=False):
            self.state, self._pause_at = "running", self.trainer.step + 1  # one update, to see what became of the net
        if self.state == "finished" and self.trainer.step < after.steps:
            self.state = "running"

    def _restart(self, command: Command, nets: Nets | None, left: Left | None) -> None:
        assert nets is not None
        before = self.config.as_dict()
        asked = isinstance(command, Set) and command.paused
        ruined = self.state == "diverged"
        waits, lost = asked or self.state == "paused" or self._pause_at is not None, self._lost(left)
        self.undo.leave(left, command if isinstance(command, Back) else None)
        self.attempt += 1
        self._begin(nets)
        self._mark(command, before)
        step = self.trainer.step
        if nets.origin is None:
            self.state, self._pause_at = "running", 1 if waits else None  # the first update shows the net as drawn
            what = "restarted" if isinstance(command, Restart) else in_words(command, before)
            alike = nets.twin is not None and nets.twin.trainer.config == self.config
            self.message = f"{what}: a new net from the seed" + "; the twin is the same now" * alike + lost
        else:
            over = step >= self.config.steps and all(map(Watched.was_surveyed, nets))
            self.state = "finished" if over else "paused" if waits else "running"
            self._pause_at = None
            changed = {name: value for name, value in self.config.as_dict().items() if value != before[name]}
            what = in_words(Set(changed), before) if changed else "the same settings"
            self.message = f"{in_words(command)} to the net at step {step:,}: {what}"
            self.message += "; the one that diverged was not kept" * ruined + f"; {nets.note}" * bool(nets.note)
            if over:  # what is finished is saved
                with contextlib.suppress(ValueError):
                    self.recorder.checkpoint(self)

    def _mark(self, command: Command, before: Mapping[str, Value]) -> None:
        """Mark it on the curves, which the number of steps does nothing to."""
        if isinstance(command, Set) and command.changes.keys() == {"steps"} and not command.fresh:
            return
        self.interventions.append(Intervention(self.trainer.step, in_words(command, before), self.attempt))

    def _mark_decay(self, since: int) -> None:
        """Mark that the learning rate fell as planned, if it did after the step `since`."""
        at = self.config.lr_decay_at
        if at and since <= at < self.trainer.step and self.config.lr_decay != 1:
            what = f"lr {shown(self.config.lr)} → {shown(self.config.lr_at(at))}{AS_PLANNED}"
            self.interventions.append(Intervention(at, what, self.attempt))

    def _exhibit(self, command: Look) -> None:
        """Raises ValueError where there is none to be had."""
        with self._looking("exhibit"):
            self._show(self._making.ask(command, self.trainer))

    def _go_on_making(self) -> None:
        """A part of each exhibit that was asked for, in turn, for as long as updates get between two looks."""
        until = time.monotonic() + SLICE
        while self._making and time.monotonic() < until:
            try:
                with self._looking("exhibit"):
                    self._show(self._making.go_on(self.trainer))
            except ValueError as error:
                self._answer(str(error))

    def _show(self, exhibit: Exhibit | None) -> None:
        if exhibit is not None:
            self.channel.publish(exhibit)
            self.recorder.exhibit(exhibit)

    # -- snapshots

    def snapshot(self) -> Snapshot:
        """The run as it stands, with the losses since the last one."""
        life, twin = (self.attempt, self.nets.origin, self.nets.since), self.nets.twin
        # one of the two may be ruined without the other
        of_twin: State = "diverged" if twin and twin.diverged else "paused" if self.state == "diverged" else self.state
        return msgspec.structs.replace(
            self.net.snapshot(self.name, self.state, *life),
            preset=self.preset,
            steps_per_second=min(self._clock.speed, self.pace or math.inf) if self.state == "running" else 0.0,
            pace=self.pace,
            overhead=self._clock.share,
            interventions=tuple(self.interventions[-MOST_INTERVENTIONS:]),
            message="; ".join(filter(None, (self.message, self.recorder.trouble()))),
            answered=self.answered,
            twin=twin.snapshot(in_words(Twin(self.nets.twin_changes)), of_twin, *life) if twin else None,
        )

    def _publish(self) -> None:
        with self._looking("probe"):
            snapshot, self._told = self.snapshot(), self._news()
            self.channel.publish(snapshot)
            self.recorder.snapshot(snapshot)
        self._published = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        """Tell those who asked for something of the outcome, once they find it where they look for it."""
        untold, self._untold = self._untold, []
        for tell in untold:
            tell()


def _nobody(_: int | str) -> None:
    """Nobody waits for the outcome of a command given in this process: it shows in the next snapshot."""
