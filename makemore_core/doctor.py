"""What is wrong with a run, why it matters and what to try: findings read off snapshots alone, in the lecture's words.

It knows no tensors, so it works on any net that fills in a snapshot, live or long finished, and imports in no time.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from makemore_core.config import LIVE_FIELDS, Value, shown
from makemore_core.snapshot import Layer, Snapshot, Splits, Weight

Severity: TypeAlias = Literal["warning", "serious"]
Limit: TypeAlias = tuple[float | None, float | None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. `layer` is the index of the row it shows in, None for the whole net.

    `fix` are the changes of a `Set` command that would try the suggestion, None where there is no such change. `past`:
    the net began so, and does not show it any more. `over`: no update is to come in which a change would show.
    """

    name: str
    what: str
    evidence: str
    why: str
    suggestion: str
    fix: dict[str, Value] | None = None
    layer: int | None = None
    severity: Severity = "warning"
    past: bool = False
    over: bool = False

    @property
    def fresh(self) -> bool:
        """Whether the fix is for a new net: how weights began, or what has ruined them, no training of them mends."""
        return self.past or self.over or self.severity == "serious"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is looked at: what is seen of it now, "" before there is anything to judge, and what is let pass;
    and in numbers, in `unit`: what was `measured`, and of what is limited there the least and the most that pass, None
    for no limit. `found`: it is wrong, and there is a finding about it.
    """

    name: str
    seen: str
    limit: str
    found: bool = False
    measured: dict[str, float | str] = {}
    limits: dict[str, Limit] = {}
    unit: str = ""


Told: TypeAlias = Check | Finding


class Examination(NamedTuple):
    """What is wrong with a run, the gravest first, what is past last; and everything that was looked at."""

    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()


# Every threshold, once, with its unit and who says so. "At the start" is up to START updates; training moves spreads
# by itself, so later is looser.
START = 200
LIMITS: dict[str, float] = {
    "first_loss": 0.5,  # nats above ln V; part 3: a first loss above -log(1/V) is a net confidently wrong
    "saturated_at_start": 0.30,  # share; part 3: 5 % at gain 5/3 and 20 % in the first layer are healthy
    "saturated": 0.75,  # share; long training alone brings the healthy deep nets of part 3 to 0.55 (measured)
    "off": 0.90,  # share of relu-like outputs that are exactly off; half are by symmetry (He et al. 2015)
    "dead": 0.10,  # share of a layer's units, flat for every example of the training split; a few are no loss
    "shrink_at_start": 0.60,  # last std / first std; part 3: gain 1 takes tanh from 0.62 to 0.32 in 5 layers
    "shrink": 0.35,  # last std / first std; training alone takes a healthy linear net to 0.6
    "grow_at_start": 1.60,  # last std / first std; part 3: gain 5/3 without tanh multiplies by 1.7 a layer
    "grow": 3.00,  # last std / first std, after training moved it
    "gradient_layer": 1.25,  # a layer, up or down; part 3: gain 5/3 keeps tanh at 1.10, gain 3 gives 1.4
    "gradient_total": 3.0,  # through the whole depth, together with the limit for one layer
    "gradient_depth": 30.0,  # through the whole depth whatever the depth; residual nets of 50 layers have 13
    "last_layer": 1.2,  # log10 over the next fastest weight after 5,000 updates; healthy presets stay below 1.1
    "last_layer_early": 1.6,  # the same after 1,000 updates: a last layer made small catches up by itself
    "updates_large": -1.75,  # log10 update:data of a weight but the last; part 3: the guide is -3
    "updates_small": -4.0,  # log10 update:data of a quarter of the weights; part 3: at -4 it learns too slowly
    "updates_slow": -3.5,  # log10, of the median weight: a third of the guide; healthy presets stay above -3.3
    "updates_after": 100,  # updates; the first ones after initialisation are not typical
    "statistics_noise": 0.06,  # std of the running mean in std of a batch; part 3: 0.1 is large for 32 examples
    "statistics_gap": 0.15,  # nats of loss in evaluation above the minibatches' on the same split
    "learnt": 0.1,  # nats of loss: there is next to nothing left to be learnt, and no gradient to speak of
    "by_heart": 0.3,  # nats of validation loss above the training loss; the lectures' nets stay below 0.08
    "risen": 0.5,  # nats above both the first loss and ln V, after 100 updates
    "flat_after": 300,  # updates; by then every preset that learns has fallen by 0.05
    "flat": 0.05,  # nats below the first loss
    "stuck": 0.02,  # nats from the first third of 1,000 and more updates to the last, at ln V or above
}

ADAPTIVE = ("adam", "adamw", "rmsprop")  # their updates are about the rate, whatever the gradients
ADAPTIVE_LR = 0.005  # the largest advised to be tried next where one of them went wrong
_LEARNING = ("updates-small", "loss-flat", "last-layer-fast")
RECENT_LOSSES = 200  # a minibatch's loss is noisy: judge their mean
DEEP = 12  # layers
STARTS = 16  # attempts whose start is remembered
RECENT_SNAPSHOTS = 50  # what a chart keeps: some seconds of a live run; the rest is noisy too: judge their median
_SHARE = ("{share:.0f} % of {row} beyond 0.97", "{share:.0f} % of {row} off")
RELU_LIKE = ("relu", "leakyrelu", "prelu", "silu", "gelu")
GUIDE = -3.0
NO_SPLITS = Splits(None, None, None, 0)
LOWEST_LR, HIGHEST_LR = 1e-4, 1.0  # that are advised; the range test goes no further up either

# What PyTorch's calculate_gain says (checked against it by a test), so that torch need not be loaded.
GAINS = {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + 0.01**2)), "identity": 1.0}

_WHY = {
    "diverged": "From here on the numbers are noise or NaN: a net that was thrown so far out does not come back in any "
    "useful time.",
    "confidently-wrong": "The net begins sure of wrong answers, and the first thousands of steps are spent squashing "
    "the logits instead of learning: the hockey stick in the loss curve.",
    "saturated": "Where the nonlinearity is flat its slope (of tanh 1 - t*t) is near 0, so the gradient stops there "
    "and what is upstream does not learn.",
    "dead-units": "A unit in its flat region for every example passes no gradient while its inputs stay as they are: "
    "its weights do not change, as brain damage.",
    "no-signal": "What is the same for every example says nothing of it, and no gradient passes: the net learns how "
    "frequent the letters are, no more.",
    "activations-shrink": "Each layer gives on less than it gets; weights too small to make up for that leave the deep "
    "layers with next to no signal.",
    "activations-grow": "Each layer multiplies the spread, so the logits become extreme and the net confidently wrong.",
    "gradients-shrink": "The early layers hardly hear about the loss: they stay as they were drawn while the last "
    "layers learn.",
    "gradients-grow": "The early layers get far larger gradients than the last ones, so no one rate suits all.",
    "last-layer-fast": "One layer takes steps ten times as large as any other: the learning rate that suits it starves "
    "the rest.",
    "updates-large": "An update should be about a thousandth of the weights (-3); here it is so large that the "
    "weights are thrown about.",
    "updates-small": "An update should be about a thousandth of the weights (-3); here it is so small that training "
    "takes many times longer than it needs.",
    "bias-useless": "BatchNorm subtracts the mean of the batch, and the bias with it: its gradient is 0 and it only "
    "takes room. BatchNorm has a bias of its own.",
    "running-statistics": "Evaluation and sampling use the running mean and variance. An average over too few examples "
    "follows the last few batches instead of the training set.",
    "overfitting": "The net learns its examples by heart: more training lowers the training loss alone, and the names "
    "it makes become those it was given.",
    "tiny-batch": "The mean and variance of a batch are all that BatchNorm goes by: of one example nothing is left "
    "(0/0 with n - 1 below), any two become 0.7 and -0.7.",
    "loss-flat": "Not learning costs as much time as learning. The uniform guess needs no net.",
}


class _Run(NamedTuple):
    """What the rules look at: the latest snapshot, its layers steadied, the earliest of the same net where that is of
    the start, and a smoothed recent past.
    """

    now: Snapshot
    start: Snapshot | None
    whole: tuple[Snapshot, ...]  # those whose losses follow on each other without a gap
    updates: dict[str, float]  # typical log10 update:data of each weight, since the last change
    changed: int  # the step at which what updates do was changed last, on the live net or as planned
    came: float | None  # the smoothed loss with which the net came to that change, where it was a live one

    @property
    def loss(self) -> float | None:
        """Mean of the recent minibatches' losses."""
        latest = itertools.chain.from_iterable(reversed(snapshot.losses) for snapshot in reversed(self.whole))
        recent = list(itertools.islice(latest, RECENT_LOSSES))
        return sum(recent) / len(recent) if recent else self.now.loss

    @property
    def early(self) -> bool:
        """Whether this is the start."""
        return self.now.step <= START

    @property
    def strict(self) -> set[str]:
        """The rows whose saturation is judged as at the start: all when it is early, later what was saturated then."""
        layers = self.now.layers if self.early else self.start.layers if self.start else ()
        return {_row(layer) for layer in layers if self.early or _excess(layer, True) > 0}


def examine(snapshot: Snapshot, recent: Sequence[Snapshot] = ()) -> Examination:
    """What is to be said of a run; `recent` are earlier snapshots, oldest first, as many as there are.

    With the first snapshots of a run at hand the initialisation is judged too, and noise is averaged out.
    """
    run = _run_of(snapshot, recent)
    told = [one for rule in RULES for one in rule(run)]
    found = [_news(one, snapshot) for one in told if isinstance(one, Finding)]
    checks = [_verdict(one, found) for one in told if isinstance(one, Check)]
    checks.sort(key=lambda check: list(CHECKS).index(check.name))
    if ruined := next((one for one in found if one.name == "diverged"), None):
        found = [beside for one in found if (beside := one if one is ruined else _beside(ruined, one))]
    found.sort(key=lambda one: (one.past, one.severity != "serious", not _only_slow(one)))
    return Examination(tuple(found), tuple(checks))


def _only_slow(finding: Finding) -> bool:
    """Whether a larger rate is the first to be tried: what else is wrong of a net that hardly moves may pass by itself.

    Only up to 0.2: larger ones made more random nets worse than better.
    """
    return finding.name == "updates-small" and _amount(finding.fix or {}, "lr") <= 0.2


def _beside(ruined: Finding, finding: Finding) -> Finding | None:
    """What is told beside a net that is ruined, None where it is not: what is small or flat now says nothing, and the
    same advice is not given twice. Other advice is to be tried with the rate that does not ruin a net.
    """
    if not finding.past and (finding.fix in (None, ruined.fix) or finding.name in _LEARNING):
        return None
    lr = (ruined.fix or {}).get("lr")
    if lr is None or not finding.fix or "lr" in finding.fix:
        return finding
    suggestion = f"{finding.suggestion}; with lr {shown(lr)}"
    return msgspec.structs.replace(finding, fix={**finding.fix, "lr": lr}, suggestion=suggestion)


def _news(finding: Finding, now: Snapshot) -> Finding:
    """The finding without changes that are none, and whether there is anything left to be changed."""
    changes = {name: value for name, value in (finding.fix or {}).items() if now.config.get(name) != value}
    return msgspec.structs.replace(finding, fix=changes or None, over=now.state == "finished")


def _verdict(check: Check, found: Sequence[Finding]) -> Check:
    """The check with whether anything was found; that is what is seen where there is nothing else yet."""
    of = [one for one in found if one.name in CHECKS[check.name]]
    about = [one for one in of if not one.past or one.name == "confidently-wrong"]  # the first loss stays what it was
    seen = check.seen
    if about and (not seen or about[0].name == "no-signal"):  # which no number of this check tells of
        seen = about[0].evidence.removeprefix(f"{check.name} ")
    return msgspec.structs.replace(check, seen=seen, found=bool(about))


class _Attempt(NamedTuple):
    """What is remembered of one: the step it came to, how its net began, and the first of it since it was changed live.

    Of a net that was gone back to both may be of an earlier attempt.
    """

    step: int
    start: Snapshot
    came: Snapshot


class Chart:
    """What of a run's past the findings need, kept as its snapshots come: how each net began, and the latest few."""

    def __init__(self) -> None:
        self._twin: Chart | None = None
        self._start: Snapshot | None = None
        self._came: Snapshot | None = None  # the first since the present net was changed live
        self._earlier: dict[int, _Attempt] = {}
        self._recent: deque[Snapshot] = deque(maxlen=RECENT_SNAPSHOTS)

    @property
    def twin(self) -> Chart | None:
        """That of the run's twin, while there is one."""
        return self._twin if self._recent and self._recent[-1].twin else None

    def see(self, snapshot: Snapshot) -> None:
        """The next snapshot of the run, or the latest once more."""
        if snapshot.twin:
            self._twin = self._twin or Chart()
            self._twin.see(snapshot.twin)
        before = self._recent[-1] if self._recent else None
        at = snapshot.attempt, snapshot.layers_step
        if not snapshot.layers and before is not None and (before.attempt, before.layers_step) == at:
            # a record holds them once
            snapshot = msgspec.structs.replace(snapshot, layers=before.layers, weights=before.weights)
        again = (one for one in self._recent if (one.attempt, one.step) == (snapshot.attempt, snapshot.step))
        if any(one.losses for one in again):
            snapshot = msgspec.structs.replace(snapshot, losses=())
        if before is not None and before.attempt != snapshot.attempt:
            self._turn(before, snapshot)
        start = self._start
        another = start is None or start.attempt != snapshot.attempt or _drawn(start) != _drawn(snapshot)
        # the past may come after the present
        if start is None or another or not start.layers or (snapshot.layers and snapshot.step < start.step):
            self._start = snapshot
        self._came = self._came or snapshot
        self._recent.append(snapshot)

    def _turn(self, before: Snapshot, now: Snapshot) -> None:
        """To another attempt: a new one, or one that comes again as a run goes on from its checkpoint."""
        if self._start and self._came:
            self._earlier[before.attempt] = _Attempt(before.step, self._start, self._came)
        if len(self._earlier) > STARTS:  # the one that was trained least goes, but for the last
            del self._earlier[min([*self._earlier][:-1], key=lambda attempt: self._earlier[attempt].step)]
        known = self._earlier.get(now.attempt) or self._earlier.get(-1 if now.origin is None else now.origin)
        if now.attempt < before.attempt:  # what came after it comes again, or comes another way
            self._earlier = {attempt: one for attempt, one in self._earlier.items() if attempt < now.attempt}
        self._start = self._came = None
        if known:
            self._start = msgspec.structs.replace(known.start, attempt=now.attempt)
            if known.came.changed_at == now.changed_at:  # else by what began this attempt
                self._came = msgspec.structs.replace(known.came, attempt=now.attempt)

    def examine(self) -> Examination:
        """What is to be said of the run now; nothing before its first snapshot."""
        if self._start is None:
            return Examination()
        *recent, now = self._recent
        old = [one for one in (self._start, self._came) if one is not None and one not in self._recent]
        return examine(now, [*old, *recent])


def _run_of(now: Snapshot, recent: Sequence[Snapshot]) -> _Run:
    same = [s for s in recent if s.attempt == now.attempt and s.step <= now.step and _drawn(s) == _drawn(now)]
    past = [*(s for s in same if s is not now), now]  # a run's last snapshot may come twice, once without its losses
    start = next((s for s in past if s.layers), None)
    if start is not None and not (start.step <= START and _finite(start.layers)):
        start = None
    taken = {s.step if s.layers_step is None else s.layers_step: s for s in past if 2 * s.step >= now.step}
    latest = list(taken.values())[-RECENT_SNAPSHOTS:]
    came = next((s.smoothed_loss for s in past if s.step == now.changed_at), None)
    decay = _amount(now.config, "lr_decay_at")
    decayed = decay < now.step and now.config.get("lr_decay") != 1
    changed = max(now.changed_at, int(decay)) if decayed else now.changed_at
    values: dict[str, list[float]] = {}
    for snapshot in latest:
        if snapshot.lr != now.lr or (snapshot.layers_step is not None and snapshot.layers_step <= changed):
            continue  # of another rate; a snapshot after a change may still hold the update before it
        for weight in snapshot.weights:
            if weight.update_data_log10 < math.inf:  # -inf: it did not move
                values.setdefault(weight.name, []).append(weight.update_data_log10)
    whole = past
    for _ in range(2):  # how the net began, and how the attempt did, may be of long ago
        if len(whole) > 1 and whole[1].step - len(whole[1].losses) > whole[0].step:
            whole = whole[1:]
    updates = {weight.name: median(values[weight.name]) for weight in now.weights if weight.name in values}
    steady = _steady(now.layers, [s.layers for s in latest if s.config == now.config])
    return _Run(msgspec.structs.replace(now, layers=steady), start, tuple(whole), updates, changed, came)


def _steady(now: Sequence[Layer], recent: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """The latest layers with the medians of what is judged of them; one that is not finite as it is."""
    values: dict[str, list[tuple[float, float, float]]] = {}
    for layer in itertools.chain.from_iterable(recent):
        if _finite([layer]):
            judged = layer.activation.std, layer.activation.saturated, layer.gradient.std
            values.setdefault(_row(layer), []).append(judged)
    out = list(now)
    for at, layer in enumerate(now):
        if _finite([layer]) and _row(layer) in values:
            std, saturated, gradient_std = map(median, zip(*values[_row(layer)], strict=True))
            activation = msgspec.structs.replace(layer.activation, std=std, saturated=saturated)
            gradient = msgspec.structs.replace(layer.gradient, std=gradient_std)
            out[at] = msgspec.structs.replace(layer, activation=activation, gradient=gradient)
    return tuple(out)


def _drawn(snapshot: Snapshot) -> dict[str, Value]:
    """The settings that made the net; a live change of them makes the start no evidence for the present."""
    return {name: value for name, value in snapshot.config.items() if name not in LIVE_FIELDS}


# --- the rules, each from numbers to what it looks at and finds -----------------------------------------------------


def _diverged(run: _Run) -> Iterator[Told]:
    if _tiny(run):  # no rate helps
        return
    loss = run.loss
    broken = next((layer for layer in run.now.layers if not math.isfinite(layer.activation.mean)), None)
    if run.now.state == "diverged" or (loss is not None and not math.isfinite(loss)) or broken:
        shown = "" if run.now.loss is None else f"loss {run.now.loss:.3g} at step {run.now.step:,}"
        if loss is not None and not math.isfinite(loss):
            of_all = ((s.step - len(s.losses) + at, one) for s in run.whole for at, one in enumerate(s.losses))
            since = next((step for step, one in of_all if not math.isfinite(one)), run.now.step)
            shown = f"the loss is no number from step {since:,} on"
        evidence = shown + (f", {_row(broken)} not finite" if broken else "")
        yield _finding("diverged", "the run has diverged", evidence, *_slower(run), severity="serious")
        return
    first, expected = run.now.first_loss, run.now.expected_loss
    ceiling = max(x for x in (first, expected, -math.inf) if x is not None) + LIMITS["risen"]
    if loss is not None and math.isfinite(ceiling) and run.now.step >= 100 and loss > ceiling:
        began = expected if first is None else first
        evidence = f"loss {loss:.2f} after {run.now.step:,} updates, {began:.2f} at the first"
        advice: Advice = "go back to a net before, or restart: this one was ruined before its last live change", None
        if run.came is None or run.came <= ceiling:  # else the present settings have not done that
            advice = _slower(run)
        yield _finding("diverged", "loss above its start", evidence, *advice, severity="serious")


def _confidently_wrong(run: _Run) -> Iterator[Told]:
    first, expected = run.now.first_loss, run.now.expected_loss
    if expected is None:
        return
    most = expected + LIMITS["first_loss"]
    yield _check("first loss", "{first:.2f}, ln V is {uniform:.2f}", f"{most:.2f} at most", "nats",
                 {"first": (None, most)}, first=first, uniform=expected)  # fmt: skip
    if first is None or not most < first < math.inf:
        return
    config = run.now.config
    advice: Advice = "make the last layer's weights small and its bias 0 at the start", None
    if not math.isnan(shrink := _amount(config, "last_shrink")):
        small = min(shrink, 0.1 if config.get("fan_in") == "on" else 0.01)
        advice = advice[0], {"last_shrink": small, "last_bias_init": 0.0}
        if small == shrink and not config.get("last_bias_init"):  # what comes to it is too large
            advice = _right_gain(run)
    evidence = f"first loss {first:.2f}, the uniform guess costs ln V = {expected:.2f}"
    found = _finding("confidently-wrong", "first guess too sure", evidence, *advice, severity="serious")
    learnt = run.loss is not None and run.loss - expected <= LIMITS["first_loss"]
    yield msgspec.structs.replace(found, past=learnt)


def _saturated(run: _Run) -> Iterator[Told]:
    then, now = run.start.layers if run.start else (), run.now.layers if _finite(run.now.layers) else ()
    strict = run.strict

    def over(layer: Layer) -> float:
        return _excess(layer, _row(layer) in strict)

    if now:
        worst = max(now, key=over)
        most = 100 * most_saturated(worst, _row(worst) in strict)
        began = "" if _row(worst) not in strict else " at the start" if run.early else ": began so"
        yield _check("saturation", _SHARE[_relu_like(worst)], f"{most:.0f} % at most{began}", "%",
                     {"share": (None, most)}, share=100 * worst.activation.saturated, row=_row(worst))  # fmt: skip
    else:
        yield Check(name="saturation", seen="no numbers" if run.now.layers else "", limit="")
    for layers in (now, then):
        sick = [layer for layer in layers if over(layer) > 0]
        if not sick:
            continue
        worst = max(sick, key=over)
        evidence = _share(worst) + (f", too much in {len(sick)} of {len(layers)} layers" if len(sick) > 1 else "")
        what = "nearly all units are off" if _relu_like(worst) else "nonlinearity saturated"
        found = _finding("saturated", what, evidence, *_smaller(run), layer=worst.index, severity="serious")
        shares = [f"{100 * layer.activation.saturated:.0f} %" for layer in now if _row(layer) == _row(worst)]
        yield found if layers is now else _past(found, run, "".join(shares))
        return


def _dead_units(run: _Run) -> Iterator[Told]:
    counts = [layer.activation.dead for layer in run.now.layers if layer.activation.dead is not None]
    total = sum(counts)
    yield _check("dead units", "{dead}" if total else "none", "none", "units",
                 {"dead": (None, 0)}, dead=total if counts else None)  # fmt: skip
    if not total:
        return
    dead = [(layer, layer.activation.dead or 0, max(layer.activation.units, 1)) for layer in run.now.layers]
    worst, count, units = max(dead, key=lambda row: row[1] / row[2])
    evidence = f"{count} of {units} units of {_row(worst)}, {total} in all, on the whole training split"
    mild: Advice | None = None
    if count / units < LIMITS["dead"]:
        mild = "train on: so few are no loss", None
    elif _slow(run) and not any(_excess(layer, True) > 0 for layer, _, _ in dead):
        mild = "see to the small updates first: they have not killed these", None
    yield _finding("dead-units", "dead units", evidence, *(mild or _smaller(run)), layer=worst.index,
                   severity="warning" if mild else "serious")  # fmt: skip


def _no_signal(run: _Run) -> Iterator[Told]:
    flat = next((layer for layer in run.now.layers if layer.activation.std == 0), None)
    if flat:
        advice, fix = _signal(run)
        began_well = run.start and all(layer.activation.std > 0 for layer in run.start.layers)
        if began_well and not {"norm", "fan_in"} & set(fix or ()):
            advice, fix = _slower(run)
        yield _finding("no-signal", "no signal in a layer", f"std 0 in {_row(flat)}: the same for every example",
                       advice, fix, layer=flat.index, severity="serious")  # fmt: skip


Course: TypeAlias = tuple[Check | None, Finding | None]


def _spread(run: _Run) -> Iterator[Told]:
    yield from _then_and_now(run, _spread_of)


def _gradient_flow(run: _Run) -> Iterator[Told]:
    yield from _then_and_now(run, _gradients_of)


def _then_and_now(run: _Run, course: Callable[[_Run, Sequence[Layer], bool], Course]) -> Iterator[Told]:
    """How a std runs through the depth now, what is wrong with that, and what else was at the start; a net that began
    sick is judged as strictly later.
    """

    def judged(layers: Sequence[Layer], start: bool) -> Course:
        return (None, None) if len(layers) < 3 or _stream(run) or not _finite(layers) else course(run, layers, start)

    then = judged(run.start.layers, True)[1] if run.start else None
    check, now = judged(run.now.layers, run.early or then is not None)
    yield from filter(None, (check, now))
    if then and not (now and now.name == then.name):
        yield _past(then, run, check.seen.partition(",")[0] if check else "")


def _spread_of(run: _Run, layers: Sequence[Layer], start: bool) -> Course:
    # one layer that differs is no trend: of a deep net its last quarter is judged
    end = layers[-max(1, len(layers) // 4) :] if len(layers) >= DEEP else layers[-1:]
    first, last = layers[0].activation.std, median([layer.activation.std for layer in end])
    least, most = (LIMITS[name + "_at_start" * start] for name in ("shrink", "grow"))
    limit = f"× {least:g} to {most:g}"
    if first <= 0:
        return _check("spread", "{first:.2g} → {last:.2g}", limit, "std", {}, first=first, last=last), None
    ratio = last / first
    check = _check("spread", "{first:.2g} → {last:.2g}, × {ratio:.2f}", limit, "std", {"ratio": (least, most)},
                   first=first, last=last, ratio=ratio)  # fmt: skip
    if least <= ratio <= most or _one_step(layers):
        return check, None
    name, what = ("activations-shrink", "shrinks") if ratio < least else ("activations-grow", "grows")
    return check, _finding(
        name, f"spread {what} with depth", f"std {check.seen}", *_right_gain(run), layer=layers[-1].index
    )


def _gradients_of(run: _Run, layers: Sequence[Layer], start: bool) -> Course:
    del start  # a gradient's course is judged alike whenever it is, but where nothing is left to be learnt
    learnt = layers is run.now.layers and _learnt(run)
    first, last, steps = layers[0].gradient.std, layers[-1].gradient.std, len(layers) - 1
    total, depth = (LIMITS[name] ** (1 / steps) for name in ("gradient_total", "gradient_depth"))
    most = min(max(LIMITS["gradient_layer"], total), depth)  # whichever binds
    limit = "none: it has learnt" if learnt else f"× {1 / most:.2f} to {most:.2f}"
    if not (first > 0 and last > 0):
        return _check("gradients", "{last:.1e} → {first:.1e}", limit, "std", {}, last=last, first=first), None
    a_layer = (first / last) ** (1 / steps)
    check = _check("gradients", "{last:.1e} → {first:.1e}, × {a_layer:.2f} a layer", limit, "std",
                   {} if learnt else {"a_layer": (1 / most, most)},
                   last=last, first=first, a_layer=a_layer)  # fmt: skip
    if learnt or 1 / most <= a_layer <= most:
        return check, None
    name, what = ("gradients-grow", "grow") if first > last else ("gradients-shrink", "shrink")
    advice = _way_around(run) if first > last and len(layers) >= DEEP else _right_gain(run)
    evidence = f"std {check.seen.replace(',', ' from last to first,')}"
    return check, _finding(name, f"gradients {what} backward", evidence, *advice, layer=layers[0].index)


def _stream(run: _Run) -> bool:
    """Whether layers add normalised branches to a stream: of its spread those, which the rows show, say nothing."""
    return run.now.config.get("residual") is True and run.now.config.get("norm") != "none"


def _one_step(layers: Sequence[Layer]) -> bool:
    """Whether a single layer makes most of the way from the first spread to the last: it is odd, that is no trend."""
    if not all(layer.activation.std > 0 for layer in layers):
        return False
    steps = [math.log(b.activation.std / a.activation.std) for a, b in itertools.pairwise(layers)]
    total = sum(steps)
    return max(step * math.copysign(1, total) for step in steps) > 0.75 * abs(total)


def _last_layer(run: _Run) -> Iterator[Told]:
    weights = [weight for weight in run.now.weights if weight.name in run.updates]
    if len(weights) < 3 or run.now.step < 1000 or weights[-1].layer is not None or weights[-1] != run.now.weights[-1]:
        return
    last, others = run.updates[weights[-1].name], max(run.updates[weight.name] for weight in weights[:-1])
    most = LIMITS["last_layer" if run.now.step >= 5000 else "last_layer_early"]
    ahead = last - others
    if not math.isfinite(ahead):  # some do not move at all
        return
    meant = "" if _decayed(run) else _meant(run) or "all are slow" * _slow(run)  # then the last is not too fast
    yield _check("last layer", "update:data {ahead:+.1f} to the next",
                 f"none: {meant}" if meant else f"{most:+g} at most", "log10",
                 {"ahead": (None, None if meant else most)}, ahead=ahead)  # fmt: skip
    if ahead > most and not meant:
        evidence = f"update:data {last:.1f} in {_weight(weights[-1])}, at most {others:.1f} in the others"
        yield _finding("last-layer-fast", f"last layer {10 ** min(ahead, 99):,.0f}× too fast", evidence,
                       "train on: a last layer that began small catches up", None)  # fmt: skip


def _judged(run: _Run) -> list[Weight]:
    """The weights whose update:data is judged, all but the last, once it is typical."""
    weights = [weight for weight in run.now.weights if weight.name in run.updates]
    if run.now.step < _typical(run.now):
        return []
    return weights[:-1] if len(weights) > 2 and weights[-1].layer is None else weights


def _typical(snapshot: Snapshot) -> float:
    """The step from which update:data is judged."""
    config, after = snapshot.config, LIMITS["updates_after"]
    if config.get("optimizer") == "rmsprop" and (beta2 := _amount(config, "beta2")) < 1:
        after = max(after, 1 / (1 - beta2))  # its mean square begins at 0, and is not corrected for that
    return after


def _ratios(run: _Run) -> list[float]:
    return [run.updates[weight.name] for weight in _judged(run)]


def _slow(run: _Run, by: float = 0.0) -> bool:
    """Whether the updates are small for the weights, or would be with a rate changed by so much, log10.

    One weight alone that does not move at all may be meant so.
    """
    ratios = [ratio + by for ratio in _ratios(run)]
    if not ratios or _meant(run):
        return False
    small = [ratio for ratio in ratios if -math.inf < ratio < LIMITS["updates_small"]]
    return len(small) >= len(ratios) / 4 or median(ratios) < LIMITS["updates_slow"]


def _update_ratio(run: _Run) -> Iterator[Told]:
    judged = sorted(_judged(run), key=lambda weight: run.updates[weight.name])
    least, most = LIMITS["updates_slow"], LIMITS["updates_large"]
    meant = _meant(run)
    limit = f"{most:g} at most, {meant}" if meant else f"{least:g} to {most:g}"
    middle = median(_ratios(run)) if judged else None
    largest = run.updates[judged[-1].name] if judged else None
    yield _check("update:data", "median {median:.1f}, largest {largest:.1f}", limit, "log10",
                 {"median": (None if meant else least, None), "largest": (None, most)},
                 median=middle, largest=largest)  # fmt: skip
    if middle is None or largest is None:
        return
    slowest, fastest = judged[0], judged[-1]
    if largest > most:
        evidence = f"update:data {largest:.1f} in {_weight(fastest)}, median {middle:.1f}"
        yield _finding("updates-large", "updates too large", evidence, *_smaller_updates(run), layer=fastest.layer)
    if _slow(run):
        evidence = f"update:data {run.updates[slowest.name]:.1f} in {_weight(slowest)}, median {middle:.1f}"
        yield _finding("updates-small", "updates too small", evidence, *_larger_updates(run), layer=slowest.layer)


def _bias_useless(run: _Run) -> Iterator[Told]:
    config = run.now.config
    if config.get("norm") == "batch" and config.get("bias") == "on" and config.get("norm_place") == "before":
        yield _finding("bias-useless", "bias before BatchNorm", "bias on, norm batch, norm_place before",
                       "leave out the biases of layers that BatchNorm follows", {"bias": "auto"})  # fmt: skip


def _running_statistics(run: _Run) -> Iterator[Told]:
    config, splits = run.now.config, run.now.splits or NO_SPLITS
    if config.get("norm") != "batch":
        return
    gap, most, quiet = _apart(splits.train, splits.minibatches), LIMITS["statistics_gap"], LIMITS["statistics_noise"]
    momentum, batch = _amount(config, "norm_momentum"), _amount(config, "batch_size")
    sound = not _tiny(run) and 0 <= momentum <= 1 and batch > 0  # others are no settings of this program's
    noise = math.sqrt(momentum / (2 - momentum) / batch) if sound else 0.0
    if noise > quiet:
        yield _check("running statistics", "wander by {wander:.2f} std", f"{quiet:g} at most", "std",
                     {"wander": (None, quiet)}, wander=noise)  # fmt: skip
    else:
        yield _check("running statistics", "{train:.2f} evaluated, {minibatches:.2f} minibatches", f"{most:g} apart",
                     "nats", {"apart": (None, most)}, train=splits.train, minibatches=splits.minibatches,
                     apart=gap)  # fmt: skip
    if not sound:
        return
    slower = 0.001 if run.now.steps >= 10_000 else 0.01
    if noise > quiet:
        evidence = f"momentum {momentum:g} with batches of {batch:g}: they keep wandering by {noise:.2f} std"
        yield _finding("running-statistics", "unsettled statistics", evidence,
                       f"average over more examples: norm_momentum {slower:g}, or larger batches",
                       {"norm_momentum": min(slower, momentum)})  # fmt: skip
        return
    if gap is None:
        return
    settles = 3 / momentum if momentum else math.inf
    if gap > most and (splits.step >= settles or settles > run.now.steps):
        evidence = f"train loss {splits.train:.2f} in evaluation, {splits.minibatches:.2f} in the minibatches"
        faster = settles > run.now.steps
        yield _finding("running-statistics", "unsettled statistics", evidence,
                       "average over fewer batches: norm_momentum 0.1" if faster else
                       f"average over more batches: norm_momentum {slower:g}",
                       {"norm_momentum": 0.1 if faster else slower})  # fmt: skip
    elif gap > LIMITS["risen"]:
        evidence = f"train loss {splits.train:.3g} in evaluation, {splits.minibatches:.3g} in the minibatches"
        yield _finding("running-statistics", "unsettled statistics", evidence,
                       f"train on: they are an average over about {settles:,.0f} updates, from mean 0 and variance 1",
                       None)  # fmt: skip


def _overfitting(run: _Run) -> Iterator[Told]:
    splits = run.now.splits or NO_SPLITS
    gap, most = _apart(splits.val, splits.train), LIMITS["by_heart"]
    yield _check("learning by heart", "val {val:.2f}, train {train:.2f}", f"{most:g} apart", "nats",
                 {"apart": (None, most)}, val=splits.val, train=splits.train, apart=gap)  # fmt: skip
    if _by_heart(run):
        evidence = f"val loss {splits.val:.2f}, train loss {splits.train:.2f}, at step {splits.step:,}"
        yield _finding("overfitting", "learning by heart", evidence,
                       "more data, fewer steps, or a smaller net: n_hidden, n_embd, block_size", None)  # fmt: skip


def _meant(run: _Run) -> str:
    """Why small updates are as they should be, or no matter of the rate; empty where they are neither."""
    return "lr fell" if _decayed(run) else "it has learnt" if _learnt(run) else "tiny batch" if _tiny(run) else ""


def _learnt(run: _Run) -> bool:
    """Whether nothing is left to be learnt, for good or by heart."""
    return _by_heart(run) or (run.loss is not None and run.loss < LIMITS["learnt"])


def _by_heart(run: _Run) -> bool:
    """Whether it knows what it is trained on far better than the rest."""
    splits, expected = run.now.splits or NO_SPLITS, run.now.expected_loss
    gap = _apart(splits.val, splits.train)
    learns = splits.train is None or expected is None or splits.train < expected
    return gap is not None and gap > LIMITS["by_heart"] and learns


def _tiny(run: _Run) -> bool:
    return run.now.config.get("norm") == "batch" and run.now.config.get("batch_size") in (1, 2)


def _tiny_batch(run: _Run) -> Iterator[Told]:
    if _tiny(run):
        size = run.now.config["batch_size"]
        yield _finding("tiny-batch", f"BatchNorm on a batch of {size}", f"norm batch, batch_size {size}",
                       "batches of 32, or LayerNorm, which needs no company", {"batch_size": 32},
                       severity="serious")  # fmt: skip


def _loss_flat(run: _Run) -> Iterator[Told]:
    first, expected, loss, step = run.now.first_loss, run.now.expected_loss, run.loss, run.now.step
    if step - run.changed < LIMITS["flat_after"]:
        loss = None
    fallen = _apart(first, loss)
    yield _check("loss", "{loss:.2f}, {first:.2f} at the first", f"falls by {LIMITS['flat']:g}", "nats",
                 {"fallen": (LIMITS["flat"], None)}, loss=loss, first=first, fallen=fallen)  # fmt: skip
    if loss is None or fallen is None or not math.isfinite(loss):
        return
    risen = fallen < -LIMITS["risen"]
    if fallen < LIMITS["flat"] and not risen:
        evidence = f"loss {loss:.3f} after {step:,} updates, {first:.3f} at the first"
    elif expected is not None and loss > expected - LIMITS["flat"]:
        losses = [one for snapshot in run.whole for one in snapshot.losses]
        third = len(losses) // 3
        if len(losses) < 1000 or (sum(losses[:third]) - sum(losses[-third:])) / third >= LIMITS["stuck"]:
            return
        evidence = f"loss {loss:.3f} for {len(losses):,} updates, the uniform guess costs {expected:.3f}"
    else:
        return
    yield _finding("loss-flat", "loss is flat", evidence, *(_larger_updates(run) if _slow(run) else _faster(run)))


RULES: tuple[Callable[[_Run], Iterator[Told]], ...] = (
    _diverged, _tiny_batch, _no_signal, _confidently_wrong, _saturated, _spread, _gradient_flow, _update_ratio,
    _dead_units, _last_layer, _running_statistics, _overfitting, _bias_useless, _loss_flat,
)  # fmt: skip

# What is looked at, as it is told one after the other, and what may be found there.
CHECKS: dict[str, tuple[str, ...]] = {
    "first loss": ("confidently-wrong",),
    "loss": ("diverged", "loss-flat"),
    "saturation": ("saturated",),
    "dead units": ("dead-units", "no-signal"),
    "spread": ("activations-shrink", "activations-grow"),
    "gradients": ("gradients-shrink", "gradients-grow"),
    "update:data": ("updates-small", "updates-large"),
    "last layer": ("last-layer-fast",),
    "running statistics": ("running-statistics", "tiny-batch"),
    "learning by heart": ("overfitting",),
}


# --- what to try: a sentence and the changes that do it ------------------------------------------------------------

Advice: TypeAlias = tuple[str, dict[str, Value] | None]


def _right_gain(run: _Run) -> Advice:
    """The first of these that the net does not have yet: fan-in division, the right gain, BatchNorm, residuals."""
    config = run.now.config
    gain, right = config.get("gain"), GAINS.get(nonlinearity := str(config.get("nonlinearity")))
    if config.get("fan_in") == "off":
        return _divided(config)
    if config.get("norm") == "none" and right is not None and not _close(gain, right):
        return f"gain {shown(right)} keeps the spread for {nonlinearity}", {"gain": right}
    if config.get("norm") == "none":
        return _normalised(config, "holds the spread whatever the weights")
    if config.get("residual") is False:
        return "residual connections give the gradient a way around", {"residual": True}
    if "norm" in config:
        return "fewer layers: a normalisation and a way around are there", None
    return "give the weights a gain that keeps the spread, or put a normalisation before the nonlinearity", None


def _way_around(run: _Run) -> Advice:
    """For gradients that grow through a great depth: a larger gain or BatchNorm alone would make that worse."""
    config = run.now.config
    too_large = _amount(config, "gain") > 1.1 * GAINS.get(str(config.get("nonlinearity")), math.nan)
    if config.get("fan_in") == "off" or too_large or config.get("residual") is not False:
        return _right_gain(run)
    fix = _normalised(config, "")[1] if config.get("norm") == "none" else None
    also = " with a normalisation" if fix else ""
    return f"residual connections{also} give the gradient a way around", {**(fix or {}), "residual": True}


def _few(config: Mapping[str, Value]) -> bool:
    """Whether a batch has too few examples for a mean and variance to go by."""
    return _amount(config, "batch_size") < 8


def _normalised(config: Mapping[str, Value], purpose: str) -> Advice:
    norm, called = ("layer", "LayerNorm") if _few(config) else ("batch", "BatchNorm")
    return f"{called} {purpose}", {"norm": norm, "norm_output": True, "bias": "auto"}


def _signal(run: _Run) -> Advice:
    """What lets examples differ again."""
    config = run.now.config
    norm, units = config.get("norm"), config.get("n_hidden")
    if config.get("gain") == 0:
        right = GAINS.get(str(config.get("nonlinearity")), 1.0) if norm == "none" else 1.0
        return f"gain {shown(right)}: at 0 all weights are 0", {"gain": right}
    if units is not None and units == {"group": config.get("norm_groups"), "layer": 1}.get(str(norm)):
        wider = "layer" if norm == "group" and units != 1 else "batch"
        return "less its own mean a single unit is 0: normalise over more of them", {"norm": wider}
    return _right_gain(run)


def _smaller(run: _Run) -> Advice:
    config = run.now.config
    normed = config.get("norm", "none") != "none"
    right_at_start = _amount(config, "gain") < GAINS.get(str(config.get("nonlinearity")), math.nan) * 1.1
    began = run.start and any(_excess(layer, True) > 0 for layer in run.start.layers)
    if config.get("fan_in") != "off" and config.get("norm_place") == "after" and normed and began:
        return "a normalisation before the nonlinearity holds what goes into it", {"norm_place": "before"}
    if config.get("fan_in") != "off" and (normed or right_at_start):
        if began and not normed and _amount(config, "bias_init") >= 0.5:
            return "hidden biases 0 at the start", {"bias_init": 0.0}
        either = "holds it, a lower learning rate delays it"
        advice, fix = _rate(run, 0.1, "delays it") if normed else _normalised(config, either)
        return advice if began else f"it was trained into this; {advice}", fix
    advice, fix = _right_gain(run)
    if fix is not None and config.get("bias_init"):
        advice, fix = f"{advice}; hidden biases 0 at the start", fix | {"bias_init": 0.0}
    return advice, fix


def _undivided(config: Mapping[str, Value]) -> bool:
    """Whether weights begin undivided by fan-in, and no norm makes up for that."""
    return config.get("fan_in") == "off" and config.get("norm") == "none"


def _divided(config: Mapping[str, Value]) -> Advice:
    right = GAINS.get(str(config.get("nonlinearity")), "auto")
    gain: dict[str, Value] = {"gain": right} if config.get("norm") == "none" else {}
    return "divide the weights by the square root of fan-in", {"fan_in": division(config.get("last_shrink"))} | gain


def division(last_shrink: Value | None) -> Value:
    """The `fan_in` that divides: a last layer made small by hand is left as it is."""
    return "hidden" if isinstance(last_shrink, int | float) and last_shrink < 0.1 else "on"


def _larger_updates(run: _Run) -> Advice:
    config, ratios = run.now.config, _ratios(run)
    wanted = GUIDE - median(ratios)
    if any(_excess(layer, True) > 0 and layer.activation.dead for layer in run.now.layers):
        return _smaller(run)  # where a layer is flat no larger step gets through
    suits_all = max(ratios) + wanted <= LIMITS["updates_large"]
    if not suits_all or median(ratios) >= LIMITS["updates_slow"]:  # then it is no matter of the rate
        return _right_gain(run)
    if _undivided(config):
        return _divided(config)
    return _rate(run, 10.0 ** round(min(wanted, 2.0)), "to bring it near -3")


def _smaller_updates(run: _Run) -> Advice:
    config = run.now.config
    gain = _amount(config, "gain")
    if config.get("norm") != "none" and gain < 0.5:
        return f"gain {gain:g} makes the weights small under BatchNorm: gain 1 brings the ratio back", {"gain": 1.0}
    if _undivided(config):
        return _divided(config)
    return _rate(run, 0.1, "to bring it near -3")


def _slower(run: _Run) -> Advice:
    """What began too large comes before the rate, but for one that suits no net."""
    config, first, expected = run.now.config, run.now.first_loss, run.now.expected_loss
    rate = _rate(run._replace(updates={}), 0.1, "to keep it from blowing up")  # ruined weights' ratios say nothing
    if _amount(config, "lr") > HIGHEST_LR:
        return rate
    if run.start:
        began = run._replace(now=msgspec.structs.replace(run.now, layers=run.start.layers, step=run.start.step))
        for found in itertools.chain(_saturated(began), _spread(began), _gradient_flow(began)):
            if isinstance(found, Finding) and found.fix and not found.name.endswith("shrink"):
                return found.suggestion, found.fix
    if _undivided(config) and first is not None and expected is not None and first > 3 * expected:
        return _divided(config)
    if config.get("norm") == "batch" and _few(config):
        return "batches of 32: alike examples leave BatchNorm nothing to divide by", {"batch_size": 32}
    return rate


def _faster(run: _Run) -> Advice:
    ratios = list(run.updates.values())
    return _rate(run, 10.0 if not ratios or median(ratios) < GUIDE else 0.1, "and look at update:data")


def _rate(run: _Run, factor: float, purpose: str) -> Advice:
    lr = run.now.config.get("lr", run.now.lr)
    if factor > 1 and _lowered(run):
        return "lr_decay_at 0: the rate was lowered before the net had learnt", {"lr_decay_at": 0}
    far = isinstance(lr, int | float) and (lr >= HIGHEST_LR if factor > 1 else lr <= LOWEST_LR)
    if not isinstance(lr, int | float) or far:
        return f"{'a lower' if factor < 1 else 'a higher'} learning rate {purpose}", None
    ruined = (layer.activation for layer in run.now.layers)
    dead = any(one.std == 0 or 2 * (one.dead or 0) >= one.units for one in ruined)
    if factor < 1 and not dead and _slow(run, math.log10(factor)):  # so would this
        return f"train on: with lr {lr * factor:g} the updates would be too small", None
    # far out there is no stepping back by tens, and nobody is led there
    wanted = 0.1 if factor < 1 < lr else min(float(f"{lr * factor:.1g}"), HIGHEST_LR)
    if factor < 1 and run.now.config.get("optimizer") in ADAPTIVE and lr > ADAPTIVE_LR:
        wanted = min(wanted, ADAPTIVE_LR)
    return f"lr {lr:g} → {wanted:g} {purpose}", {"lr": wanted} if "lr" in run.now.config else None


def _lowered(run: _Run) -> bool:
    """Whether the schedule has lowered the learning rate."""
    return run.now.lr is not None and run.now.lr < _amount(run.now.config, "lr")


def _decayed(run: _Run) -> bool:
    """Whether it has done so after the net had learnt: small updates are then meant."""
    return _lowered(run) and _amount(run.now.config, "lr_decay_at") >= 1000


# --- words and numbers ---------------------------------------------------------------------------------------------


def _finding(name: str, what: str, evidence: str, suggestion: str, fix: Mapping[str, Value] | None,
             layer: int | None = None, severity: Severity = "warning") -> Finding:  # fmt: skip
    return Finding(name=name, what=what, evidence=evidence, why=_WHY[name], suggestion=suggestion,
                   fix=None if fix is None else dict(fix), layer=layer, severity=severity)  # fmt: skip


def _check(name: str, words: str, limit: str, unit: str, limits: dict[str, Limit],
           **measured: float | str | None) -> Check:  # fmt: skip
    """A check whose `words` tell what was measured, nothing where a number is missing."""
    known = {key: value for key, value in measured.items() if value is not None}
    seen = words.format(**known) if len(known) == len(measured) else ""
    return Check(name=name, seen=seen, limit=limit, measured=known, limits=limits, unit=unit)


def _apart(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _past(finding: Finding, run: _Run, now: str) -> Finding:
    """The finding of the start, beside the numbers of `now`, where there are any."""
    assert run.start
    evidence = f"{finding.evidence}, at step {run.start.step:,}" + (f", {now} now" if now else "")
    return msgspec.structs.replace(finding, what=f"began: {finding.what}", evidence=evidence, past=True)


def _amount(config: Mapping[str, Value], name: str) -> float:
    """A setting that is a number; NaN, neither above nor below anything, where the net has none such."""
    value = config.get(name)
    return value if isinstance(value, int | float) else math.nan


def _row(layer: Layer) -> str:
    return f"layer {layer.index} {layer.kind}"


def _weight(weight: Weight) -> str:
    return f"{weight.name} ({', '.join(map(str, weight.shape))})"


def _share(layer: Layer) -> str:
    """How much of it is saturated."""
    return _SHARE[_relu_like(layer)].format(share=100 * layer.activation.saturated, row=_row(layer))


def _relu_like(layer: Layer) -> bool:
    return layer.kind.lower().replace("_", "") in RELU_LIKE


def most_saturated(layer: Layer, start: bool) -> float:
    """The share (0..1) of this layer that may be saturated at most, at the start or later."""
    return LIMITS["off" if _relu_like(layer) else "saturated_at_start" if start else "saturated"]


def _excess(layer: Layer, start: bool) -> float:
    return layer.activation.saturated - most_saturated(layer, start)


def _finite(layers: Sequence[Layer]) -> bool:
    return bool(layers) and all(math.isfinite(x) for row in layers for x in (row.activation.std, row.gradient.std))


def _close(gain: Value | None, right: float) -> bool:
    return gain == "auto" or (isinstance(gain, int | float) and abs(gain / right - 1) < 0.1)
