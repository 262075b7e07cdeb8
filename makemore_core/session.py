"""A run while it is alive: commands in, snapshots out, and updates in between.

It stands alone because it is the only place where training, looking and recording meet; each of the three can be
read without it. Nothing here waits for anybody who watches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from makemore_core.command import (
    Channel,
    Checkpoint,
    Command,
    Look,
    Pause,
    Restart,
    Resume,
    Sample,
    Set,
    Step,
    Stop,
    say,
    shown,
)
from makemore_core.config import LIVE_FIELDS, LIVE_IF_ASKED_FIELDS, Config
from makemore_core.dataset import Dataset
from makemore_core.diagnostics import DeadUnits, Probe
from makemore_core.model import SAMPLING_SEED, evaluate, evaluation, sample
from makemore_core.snapshot import MOST_INTERVENTIONS, Exhibit, Intervention, Snapshot, Splits, State
from makemore_core.trainer import Trainer
from makemore_core.watch import Watch

SLICE = 0.03  # seconds of updates between two looks at the commands
LONGEST_SLICE = 4096
NAMES = 12
LONGEST_SHOWN = 40
# How the budget for looking is shared out, and what each may spend before any of it is earned, in seconds.
SHARES = {"probe": 0.5, "survey": 0.4, "sample": 0.1}
CREDIT = {"survey": 0.03, "sample": 0.0}
TRAIN_EVERY = 5  # surveys of the validation split to one of the training split, which is eight times as large
FIRST_LOOK = 0.5  # seconds of training before the first survey and the first names


class Request(NamedTuple):
    """A command, who gave it, and how to tell them of the outcome: None where it was applied, else what was wrong."""

    command: Command
    who: str
    tell: Callable[[str | None], None]


class Recorder:
    """Where a session leaves what happened; this one forgets everything."""

    def open(self, session: Session) -> None:
        """The run begins or goes on."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """A snapshot was published."""

    def exhibit(self, exhibit: Exhibit) -> None:
        """An exhibit was published."""

    def command(self, command: Command, who: str, step: int, attempt: int) -> bool:
        """A command is about to be applied; whether that was written down."""
        return False

    def asked(self, session: Session) -> list[Request]:
        """What other processes asked since the last call; called often, paused or not."""
        return []

    def checkpoint(self, session: Session) -> str:
        """Save the state of the session; a line that says where, or what went wrong."""
        return ""

    def close(self, session: Session) -> None:
        """The run ends here."""


class Session:
    """One run. `run()` trains until the run is finished or stopped; with `stay` a finished run takes more commands."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        channel: Channel,
        *,
        name: str = "",
        preset: str | None = None,
        watch: Watch | None = None,
        recorder: Recorder | None = None,
        stay: bool = False,
    ) -> None:
        self.config, self.dataset, self.channel = config, dataset, channel
        self.name, self.preset, self.watch, self.stay = name, preset, watch or Watch(), stay
        self.recorder = recorder or Recorder()
        self.state: State = "running"
        self.attempt = 0
        self.interventions: list[Intervention] = []
        self.replay: list[tuple[int, int, Command]] = []  # attempt, step and command of an earlier life of the run
        self.commands = 0  # changes that were written down, so that a resumed run knows which are in its checkpoint
        self.message = ""
        self._pause_at: int | None = None
        self._sampling_seed = SAMPLING_SEED
        self._begin()

    def _begin(self) -> None:
        """A new net from the seed."""
        self.trainer = Trainer(self.config, self.dataset)
        self.first_loss: float | None = None
        self.splits: Splits | None = None
        self.dead: dict[int, int] = {}
        self._params = sum(parameter.numel() for parameter in self.trainer.model.parameters())
        self._probe = Probe((), ())
        self._losses: list[float] = []
        self._names: list[str] = []
        self._names_step: int | None = None
        self._clock = Clock()
        self._survey: Iterator[None] | None = None
        self._surveys = 0
        self._next_probe = self._probes_cost = 0.0

    # -- the loop

    def run(self) -> State:
        """Train until the run ends; the state it ended in. What goes wrong in a probe or a save is not hidden."""
        self.recorder.open(self)
        try:
            self._publish()
            while self._alive():
                self._obey()
                if self.state == "running":
                    self._train()
                    self._look_around()
                elif self._alive():
                    self.channel.wait(0.05)
            self._publish()
        except BaseException:
            self.state = "crashed"
            raise
        finally:
            self.recorder.close(self)
        return self.state

    def _alive(self) -> bool:
        if self.state in ("running", "paused"):
            return True
        return self.stay and self.state in ("finished", "diverged")

    def _train(self) -> None:
        if self.trainer.step >= self.config.steps:
            self._finish()
            return
        self.message = self.message or self.trainer.notice
        n = self._slice()
        now = time.monotonic()
        probed = self._probe_due(n, now)
        losses = self._advance(n, probed)
        if self.first_loss is None:
            self.first_loss = losses[0]
        self._losses += losses
        diverged = not math.isfinite(losses[-1])
        if probed:
            with self._clock.looking("probe"):
                self._probe = self.trainer.probe(self.dead)
        if diverged:
            self.state = "diverged"
            self.message = "the loss is no longer a number: lower the learning rate or the gain, then restart"
        elif self.trainer.step >= self.config.steps:
            self._finish()
        elif self._pause_at is not None and self.trainer.step >= self._pause_at:
            self.state, self._pause_at = "paused", None
        if probed or self.state != "running":
            self._publish()
        if probed:
            cost, self._probes_cost = self._clock.spent("probe") - self._probes_cost, self._clock.spent("probe")
            share = SHARES["probe"] * self.watch.budget
            self._next_probe = now + max(1 / self.watch.per_second, cost / share)

    def _slice(self) -> int:
        """How many updates to run before looking up again."""
        step, every = self.trainer.step, self.watch.every
        limits = [self.config.steps - step, LONGEST_SLICE, max(1, int(self._clock.rate * SLICE))]
        if every:
            limits.append(every - step % every)
        if self._pause_at is not None:
            limits.append(self._pause_at - step)
        limits += [at - step for attempt, at, _ in self.replay[:1] if attempt == self.attempt and at > step]
        return max(1, min(limits))

    def _advance(self, n: int, watch: bool) -> list[float]:
        """`n` updates; what watching makes the last one dearer is charged to looking."""
        began = time.monotonic()
        losses = self.trainer.advance(n - 1) if watch and n > 1 else [] if watch else self.trainer.advance(n)
        trained = time.monotonic() - began
        if losses:
            self._clock.trained(len(losses), trained)
        if watch:
            began = time.monotonic()
            losses = losses + self.trainer.advance(1, watch=True)
            spent = time.monotonic() - began
            usual = min(spent, 1 / self._clock.rate) if self._clock.rate else spent
            self._clock.trained(1, usual)
            self._clock.looked(spent - usual)
        return losses

    def _probe_due(self, n: int, now: float) -> bool:
        after = self.trainer.step + n
        ends = after >= self.config.steps or (self._pause_at is not None and after >= self._pause_at)
        if self.watch.every:
            return ends or after % self.watch.every == 0
        return ends or now >= self._next_probe

    def _finish(self) -> None:
        """The last update is done: the losses over the whole splits, the dead units, fresh names, a checkpoint."""
        for _ in self._survey_splits(whole=True):
            pass
        if self._probe.layers:
            self._probe = self.trainer.probe(self.dead)
        self._sample_names()
        self.state = "finished"
        self.message = self.recorder.checkpoint(self)

    # -- looking around: what costs more than a probe is done in small parts, now and then

    def _look_around(self) -> None:
        if self._affordable("survey"):
            with self._clock.looking("survey"):
                self._survey = self._survey or self._survey_splits(whole=False)
                if next(self._survey, "done") == "done":
                    self._survey = None
        if self._affordable("sample"):
            with self._clock.looking("sample"):
                self._sample_names()

    def _affordable(self, account: str) -> bool:
        clock = self._clock
        earned = SHARES[account] * self.watch.budget * clock.elapsed + CREDIT[account]
        return clock.elapsed > FIRST_LOOK and clock.spent(account) <= earned

    def _survey_splits(self, whole: bool) -> Iterator[None]:
        """Losses over the splits and the dead units, on a copy of the net as it is now, a slice at a time.

        `whole`: every split, as at the end of a run; else the training split only now and then.
        """
        model, step, known = self.trainer.model.clone(), self.trainer.step, self.splits
        val = train = test = None
        if len(self.trainer.val.y):
            total = 0.0
            for part in evaluation(model, self.trainer.val):
                total += part
                yield
            val = total / len(self.trainer.val.y)
        if known and not whole:
            train, test = known.train, known.test
        self.splits = Splits(train, val, test, step)
        self._surveys += 1
        if not whole and self._surveys % TRAIN_EVERY != 2:
            return
        dead, total = DeadUnits(model), 0.0
        for part in evaluation(model, self.trainer.train, dead.look):
            total += part
            yield
        self.dead = dead.counts()
        if whole:
            test = evaluate(model, self.trainer.split(self.dataset.test))
        self.splits = Splits(total / len(self.trainer.train.y), val, test, step)

    def _sample_names(self) -> None:
        self._names = sample(
            self.trainer.model, self.dataset, self.config.block_size, NAMES, self._sampling_seed, longest=LONGEST_SHOWN
        )
        self._names_step = self.trainer.step

    # -- commands

    def _obey(self) -> None:
        while self.replay and self.replay[0][:2] <= (self.attempt, self.trainer.step):
            self._apply(self.replay.pop(0)[2])
            self.commands += 1
        own = [Request(command, "", _nobody) for command in self.channel.commands()]
        for command, who, tell in own + self.recorder.asked(self):
            try:
                self._check(command)
            except ValueError as error:
                self.message = str(error)
                tell(str(error))
                self._publish()
                continue
            recorded = self.recorder.command(command, who, self.trainer.step, self.attempt)
            self.commands += recorded and isinstance(command, Set | Restart)
            self._apply(command)
            tell(None)
            self._publish()

    def _check(self, command: Command) -> None:
        """Raises ValueError, in one line, for a command that cannot be carried out as things stand."""
        if isinstance(command, Set):
            self.config.replace(command.changes)
        if isinstance(command, Step) and self.state in ("finished", "diverged"):
            raise ValueError(f"the run is {self.state}: restart it, or set steps higher")

    def _apply(self, command: Command) -> None:
        self.message = ""
        match command:
            case Pause():
                self.state = "paused" if self.state == "running" else self.state
                self._pause_at = None
            case Resume():
                self.state = "running" if self.state == "paused" else self.state
                self._pause_at = None
            case Step(n=n):
                self.state, self._pause_at = "running", self.trainer.step + n
            case Set():
                self._set(command)
            case Restart():
                self._restart(command)
            case Sample():
                self._sampling_seed += 1
                self._sample_names()
            case Checkpoint():
                self.message = self.recorder.checkpoint(self)
            case Look():
                self._exhibit(command)
            case Stop():
                self.state = "stopped"
                self.message = self.recorder.checkpoint(self)

    def _set(self, command: Set) -> None:
        after = self.config.replace(command.changes)
        before = self.config.as_dict()
        changed = {name: value for name, value in after.as_dict().items() if value != before[name]}
        if not changed:
            self.message = ", ".join(f"{name} is {shown(before[name])} already" for name in command.changes)
            return
        what = Set(changed, command.live)
        if set(changed) <= LIVE_FIELDS or (command.live and set(changed) <= LIVE_FIELDS | LIVE_IF_ASKED_FIELDS):
            self._mark(what)
            self.config = after
            self.trainer.reconfigure(after)
            self._survey = None
            self.message = f"{say(what, before)}"
            if self.state == "finished" and self.trainer.step < after.steps:
                self.state = "running"
        else:
            self._restart(what, after)

    def _restart(self, command: Command, config: Config | None = None) -> None:
        before = self.config.as_dict()
        self.attempt += 1
        self.config = config or self.config
        self._begin()
        self._mark(command, before)
        self.state = "paused" if self.state == "paused" else "running"
        self.message = f"{say(command, before)}: a new net from the seed" if isinstance(command, Set) else "restarted"

    def _mark(self, command: Command, before: dict[str, int | float | bool | str] | None = None) -> None:
        what = say(command, before or self.config.as_dict())
        self.interventions.append(Intervention(self.trainer.step, what, self.attempt))

    def _exhibit(self, command: Look) -> None:
        from makemore_core.exhibits import EXHIBITS  # heavy, and only on request

        if command.name not in EXHIBITS:
            self.message = f"{command.name}: no such exhibit; there are {', '.join(EXHIBITS)}"
            return
        with self._clock.looking("exhibit"):
            try:
                data = EXHIBITS[command.name](self.trainer, command.options)
            except ValueError as error:
                self.message = str(error)
                return
        exhibit = Exhibit(command.name, self.trainer.step, data)
        self.channel.publish(exhibit)
        self.recorder.exhibit(exhibit)

    # -- snapshots

    def snapshot(self) -> Snapshot:
        """The run as it stands, with the losses since the last published snapshot."""
        losses = self._losses
        return Snapshot(
            run=self.name,
            state=self.state,
            step=self.trainer.step,
            steps=self.config.steps,
            time=time.time(),
            attempt=self.attempt,
            loss=losses[-1] if losses else self._last_loss(),
            first_loss=self.first_loss,
            losses=tuple(losses),
            expected_loss=math.log(self.dataset.vocabulary),
            lr=self.config.lr_at(self.trainer.step),
            params=self._params,
            preset=self.preset,
            config=self.config.as_dict(),
            device=self.trainer.device.type,
            engine=self.trainer.engine.name,
            steps_per_second=self._clock.rate if self.state == "running" else 0.0,
            overhead=self._clock.share,
            splits=self.splits,
            layers=self._probe.layers,
            weights=self._probe.weights,
            names=tuple(self._names),
            names_step=self._names_step,
            interventions=tuple(self.interventions[-MOST_INTERVENTIONS:]),
            message=self.message,
        )

    def _last_loss(self) -> float | None:
        return self._published.loss if self._published and self._published.attempt == self.attempt else None

    _published: Snapshot | None = None

    def _publish(self) -> None:
        began = time.monotonic()
        snapshot = self.snapshot()
        self._published = snapshot
        self._losses = []
        self.channel.publish(snapshot)
        self.recorder.snapshot(snapshot)
        self._clock.looked(time.monotonic() - began)


class Clock:
    """Where the time of a run goes: updates, and looking at them."""

    def __init__(self) -> None:
        self.training = 0.0
        self.rate = 0.0
        self._looking = 0.0
        self._accounts: dict[str, float] = {}

    def trained(self, n: int, seconds: float) -> None:
        """`n` updates took so long; the rate is smoothed over about a second."""
        self.training += seconds
        rate = n / max(seconds, 1e-9)
        weight = min(1.0, seconds) if self.rate else 1.0
        self.rate += weight * (rate - self.rate)

    def looked(self, seconds: float, account: str = "probe") -> None:
        """So long was spent looking."""
        self._looking += seconds
        self._accounts[account] = self.spent(account) + seconds

    def spent(self, account: str) -> float:
        """Seconds of looking, by what for."""
        return self._accounts.get(account, 0.0)

    def looking(self, account: str) -> _Looking:
        """A `with` block whose time is charged to looking."""
        return _Looking(self, account)

    @property
    def elapsed(self) -> float:
        """Seconds of training and looking; pauses do not count."""
        return self.training + self._looking

    @property
    def share(self) -> float:
        """The share of that time, 0..1, that went into looking."""
        return self._looking / self.elapsed if self.elapsed else 0.0


class _Looking:
    def __init__(self, clock: Clock, account: str) -> None:
        self._clock, self._account = clock, account

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._clock.looked(time.monotonic() - self._began, self._account)


def _nobody(_: str | None) -> None:
    """Nobody waits for the outcome of a command given in this process: it shows in the next snapshot."""
