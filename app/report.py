"""What the commands without a screen print of runs and presets; read from disk, without torch."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from app import as_csv
from app.glyphs import clip, short, width_of
from app.terminal import Exit
from makemore_core import config as settings
from makemore_core import rundir
from makemore_core.attach import recorded
from makemore_core.command import (
    MOST_STEPS,
    Back,
    Checkpoint,
    Command,
    Pace,
    Pause,
    Restart,
    Resume,
    Set,
    Step,
    Stop,
    check,
)
from makemore_core.config import Value, decayed, printable, shown
from makemore_core.control import ANSWERING, ControlClient, NoAnswerError, Reply
from makemore_core.doctor import Chart, Check, Finding
from makemore_core.presets import DEFAULT, PRESETS, goes_by, preset_of
from makemore_core.record import RecordReader
from makemore_core.snapshot import ENDED, LOST, UNSAVED, Json, Snapshot, joined, snapshots, to_json

VERBS = ("pause", "resume", "step N", "pace N", "set KEY=VALUE", "restart", "back", "forth", "checkpoint", "stop")
COLUMNS = ["run", "state", "step", "loss", "val", "at", "age", "preset"]  # of the list of runs
DROPPED = tuple(COLUMNS.index(name) for name in ("at", "preset", "val", "age"))  # where a terminal is too narrow
SHORTEST_NAME = 20  # cells that a run's name keeps in a list, however narrow the terminal


def newest(folder: Path) -> Snapshot:
    """The latest snapshot of a run, with the state that the run is in now. Raises ValueError where there is none."""
    rundir.read_manifest(folder)
    snapshot = rundir.read_state(folder) or last_recorded(folder)
    if snapshot is None:
        raise ValueError(unrecorded(folder))
    state, trouble = rundir.heard_of(folder)
    return msgspec.structs.replace(snapshot, state=state, message=joined(snapshot.message, trouble))


def unrecorded(folder: Path) -> str:
    return f"{printable(folder.name)}: nothing has been recorded yet"


def last_recorded(folder: Path) -> Snapshot | None:
    """The last snapshot in a run's record, for a run whose state file is gone or damaged."""
    return next(snapshots(reversed(RecordReader(folder / rundir.RECORD).read())), None)


def line(snapshot: Snapshot) -> str:
    """A snapshot in one line for people."""
    parts = [f"step {snapshot.step:,}/{snapshot.steps:,}", f"loss {number(snapshot.smoothed_loss)}"]
    if snapshot.splits is not None:
        parts += [f"{name} {number(getattr(snapshot.splits, name))}" for name in ("train", "val")]
    measuring = snapshot.state == "running" and snapshot.step >= snapshot.steps
    if snapshot.state == "running" and not measuring and snapshot.steps_per_second > 0:
        parts.append(f"{snapshot.steps_per_second:,.0f} steps/s")
    if snapshot.twin is not None:
        val = f" val {number(snapshot.twin.splits.val)}" if snapshot.twin.splits else ""
        parts.append(f"({printable(snapshot.twin.run)}: loss {number(snapshot.twin.smoothed_loss)}{val})")
    return "  ".join([*parts, "measuring the losses" if measuring else snapshot.state])


def number(value: float | None) -> str:
    """A loss to four decimals, a vast one as a power of ten; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4e}"


def say(text: str) -> None:
    """Print a line, whatever the names in it are made of."""
    click.echo(printable(text))


def show_run(run: str | None, as_json: bool) -> int:
    """`makemore show`."""
    snapshot = newest(rundir.find_run(run))
    if as_json:
        click.echo(to_json(snapshot))
        return Exit.DONE
    expected = number(snapshot.expected_loss)
    preset, changed = goes_by(snapshot.preset, snapshot.config)
    net = f"{preset} with {', '.join(changed)}" if changed else preset
    say(f"{snapshot.run}  {net}  {snapshot.device}  {snapshot.engine}")
    click.echo(f"{line(snapshot)}  first loss {number(snapshot.first_loss)}  ln V {expected}")
    if snapshot.layers:
        click.echo(f"{'layer':14}{'mean':>8}{'std':>7}{'saturated':>11}{'dead':>6}{'gradient std':>15}")
    for layer in snapshot.layers:
        activation = layer.activation
        dead = "-" if activation.dead is None else str(activation.dead)
        say(
            f"{layer.index:3} {layer.kind:10}{activation.mean:+8.2f}{activation.std:7.2f}"
            f"{activation.saturated:11.2%}{dead:>6}{layer.gradient.std:15.6e}"
        )
    if snapshot.weights:
        click.echo(f"{'weight':12}{'shape':>12}{'gradient std':>15}{'grad:data':>14}{'update:data':>13}")
    for weight in snapshot.weights:
        say(
            f"{weight.name:12}{' x '.join(map(str, weight.shape)):>12}{weight.grad_std:15.6e}"
            f"{weight.grad_data_ratio:14.6e}{weight.update_data_log10:13.2f}"
        )
    for mark in snapshot.interventions:
        say(f"at step {mark.step:,}: {mark.what}")
    if snapshot.message:
        say(snapshot.message)
    return Exit.DONE


def show_record(run: str | None) -> int:
    """`makemore show --json --all`: the snapshots as they were recorded, each with the losses since the one before."""
    folder = rundir.find_run(run)
    nothing = True
    for snapshot in recorded(RecordReader(folder / rundir.RECORD), folder.name):
        click.echo(to_json(snapshot))
        nothing = False
    if nothing:
        raise ValueError(unrecorded(folder))
    return Exit.DONE


def show_table(run: str | None) -> int:
    """`makemore show --csv`."""
    folder = rundir.find_run(run)
    found = as_csv.rows(recorded(RecordReader(folder / rundir.RECORD), folder.name))
    if not found:
        raise ValueError(unrecorded(folder))
    as_csv.write(found)
    return Exit.DONE


def list_all(as_json: bool) -> int:
    """`makemore runs`."""
    found = [run_row(folder) for folder in rundir.list_runs()]
    if not found:
        click.echo(f"no runs in {printable(str(rundir.runs_folder()))} yet; makemore begins one", err=True)
    elif as_json:
        for row in found:
            click.echo(to_json(row))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for text in in_columns([COLUMNS, *map(cells, found)], width, DROPPED):
            click.echo(text)
    return Exit.DONE


def run_row(folder: Path) -> dict[str, Json]:
    """What `makemore runs` tells of a run; null what cannot be known."""
    snapshot: Snapshot | None = None
    config: dict[str, Value] = {}
    try:
        config = rundir.read_manifest(folder).config
    except ValueError:
        state = "damaged"
    else:
        with contextlib.suppress(ValueError):
            snapshot = newest(folder)
        state = snapshot.state if snapshot else rundir.liveness(folder)
    since = snapshot.time if snapshot else time.time()
    if not snapshot:
        with contextlib.suppress(OSError):  # it has just been removed
            since = folder.stat().st_mtime
    age = time.time() - since
    splits = snapshot and snapshot.splits
    told = {name: getattr(snapshot, name, None) for name in ("step", "steps", "loss", "smoothed_loss")}
    taken = {"val": splits.val if splits else None, "val_step": splits.step if splits else None}
    preset = preset_of(snapshot.config if snapshot else config)
    more = {"age": round(age, 1), "preset": preset, "message": snapshot.message if snapshot else ""}
    return {"run": folder.name, "state": state, **told, **taken, **more}


def cells(row: dict[str, Any]) -> list[str]:
    """The row of a run in words, as `COLUMNS` calls them; `at` is the step that the validation loss was taken at."""
    known = [""] * 4
    if row["step"] is not None:
        known = [f"{row['step']:,}/{row['steps']:,}", number(row["smoothed_loss"]), number(row["val"])]
        known.append(short(row["val_step"]) if row["val_step"] is not None else "")
    preset = "" if row["state"] == "damaged" else row["preset"] or "own settings"
    return [printable(row["run"]), row["state"], *known, ago(row["age"]), preset]


def in_columns(rows: list[list[str]], width: int | None, least: Sequence[int]) -> Iterator[str]:
    """Rows with columns as wide as they have to be; where that is more than a terminal's `width`, with the first one
    cut and without the `least` important ones.
    """
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]

    def excess() -> int:
        return sum(widths) + 2 * sum(map(bool, widths[1:])) - width if width else 0

    widths[0] -= max(0, min(excess(), widths[0] - SHORTEST_NAME))
    for dropped in least:
        if excess() > 0:
            widths[dropped] = 0
    for name, *row in rows:
        told = [clip(name, widths[0]), *row]
        shown = [cell + " " * (wide - width_of(cell)) for cell, wide in zip(told, widths, strict=True) if wide]
        yield "  ".join(shown).rstrip()


def ago(seconds: float) -> str:
    """An age in its largest unit: 40 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def list_presets(as_json: bool) -> int:
    """`makemore presets`."""
    for name, preset in PRESETS.items():
        if as_json:
            row = {"name": name, "shows": preset.shows, "look_at": preset.look_at, "set": dict(preset.changes)}
            click.echo(msgspec.json.encode(row))
        else:
            default = "  (the default)" if name == DEFAULT else ""
            click.echo(f"{name}{default}\n    {preset.shows}\n    look at: {preset.look_at}")
    return Exit.DONE


def list_settings(as_json: bool) -> int:
    """`makemore settings`."""
    for name, value in settings.Config().as_dict().items():
        purpose, allowed, change = settings.describe(name), settings.allowed(name), "a new net"
        if settings.keeps_weights({name}, live=True):
            change = "live" if settings.keeps_weights({name}, live=False) else "a new net, or live with --live"
        if as_json:
            about = {"name": name, "default": value, "for": purpose, "allowed": allowed, "change": change}
            click.echo(msgspec.json.encode(about))
            continue
        click.echo(f"{name} = {shown(value)}\n    {purpose}; {allowed}; ctl set: {change}")
    return Exit.DONE


def command_of(words: Sequence[str], live: bool) -> Command:
    """The command that the words of `makemore ctl` mean. Raises ValueError."""
    plain: dict[str, Command] = {
        "pause": Pause(), "resume": Resume(), "restart": Restart(), "back": Back(), "forth": Back(forth=True),
        "checkpoint": Checkpoint(), "stop": Stop(),
    }  # fmt: skip
    verb, *rest = words
    if verb in plain and not rest:
        return plain[verb]
    if verb == "step" and len(rest) <= 1:
        count = rest[0] if rest else "1"
        if not (count.isdecimal() and len(count) < 20 and 1 <= int(count) <= MOST_STEPS):
            raise ValueError(f"step {count}: has to be a whole number at least 1 and at most {MOST_STEPS:,}")
        return Step(int(count))
    if verb == "pace" and len(rest) == 1:
        try:
            return Pace(None if rest[0] == "full" else float(rest[0]))
        except ValueError:
            raise ValueError(f"pace {rest[0]}: has to be a number of steps a second, or full") from None
    if verb == "set":
        if not rest:
            raise ValueError("set: needs KEY=VALUE")
        pairs = map(settings.pair, rest)
        return Set({settings.field(name): settings.parse(name, value) for name, value in pairs}, live)
    raise ValueError(f"{' '.join(words)}: has to be one of {', '.join(VERBS)}")


def ask(folder: Path, command: Command, timeout: float = ANSWERING) -> Reply:
    """Have the trainer of a run apply a command. Raises ValueError if it refuses, ClickException without an answer."""
    client = ControlClient(folder)
    try:
        reply = client.request(command, timeout)
    except NoAnswerError as error:
        raise click.ClickException(f"{error}; it may still be applied") from None
    except ValueError as error:
        absent = rundir.absent(folder)
        raise click.ClickException(f"{folder.name}: {absent}" if absent else str(error)) from None
    finally:
        client.close()
    if not reply.ok:  # what has to be saved is never asked for wrongly
        saves = isinstance(command, Checkpoint | Stop) or UNSAVED in reply.error
        refused = click.ClickException if saves else ValueError
        raise refused(f"{folder.name}: {reply.error}")
    return reply


def control_run(run: str, words: Sequence[str], live: bool, timeout: float) -> int:
    """`makemore ctl`."""
    folder = rundir.find_run(run)
    command = command_of(words, live)
    check(command)
    before, until = rundir.read_state(folder), time.monotonic() + timeout
    reply = ask(folder, command, timeout)
    fresh, ruined = isinstance(command, Restart), before is not None and before.state == "diverged"
    if isinstance(command, Set) and reply.step == 0:
        fresh = ruined or not settings.keeps_weights(command.changes, command.live)
    last = rundir.read_state(folder)
    lost = last is not None and LOST in last.message
    undone = f"; {LOST}" if lost else f"; makemore ctl {rundir.called(folder)} back undoes it" * (fresh and not ruined)
    begun = "a new net begins from the seed" if fresh else f"applied before step {reply.step or 0:,}"
    if isinstance(command, Set) and "lr" in command.changes and last:
        begun += decayed({**last.config, **command.changes}, reply.step or 0)
    begun += undone
    if isinstance(command, Step):
        at, steps = reply.step or 0, f"{command.n:,} {'step' if command.n == 1 else 'steps'}"
        done = stands(folder, at + command.n, until)
        say(f"{steps} done: at step {at + command.n:,}" if done else f"{steps} begun at step {at:,}")
    else:
        say(f"{' '.join(words)}: {begun}" if reply.step is not None else "done")
    return Exit.DONE


def stands(folder: Path, step: int, until: float) -> bool:
    """Wait for a run to stand at a step, or beyond; whether it does before it is over, or the time is."""
    while time.monotonic() < until:
        last = rundir.read_state(folder)
        if last is not None and last.state != "running" and last.step >= step:
            return True
        if last is None or last.state in ENDED:
            break
        time.sleep(0.02)
    return False


def examine_run(run: str | None, as_json: bool) -> int:
    """`makemore doctor`."""
    folder = rundir.find_run(run)
    chart = Chart()
    for snapshot in snapshots(RecordReader(folder / rundir.RECORD).read()):
        chart.see(snapshot)
    last = newest(folder)
    chart.see(last)
    found, checks = chart.examine()
    twin = chart.twin.examine() if chart.twin else None
    if as_json:
        told = {"run": folder.name, "findings": found, "checks": checks, "twin": twin and twin._asdict()}
        click.echo(to_json(msgspec.to_builtins(told)))
        return Exit.TROUBLE if found else Exit.DONE
    if not found:
        so_far = " so far" * (not all(check.seen for check in checks))
        say(f"{folder.name}: nothing to report{so_far}" + "; of its twin there is" * bool(twin and twin.findings))
    for finding in found:
        wanted = finding.suggestion + ("; from the seed" if finding.fix and finding.fresh else "")
        for text in (finding.what, f"    {finding.evidence}", f"    {finding.why}", f"    try: {wanted}"):
            say(text)
        if command := _command_for(finding, folder, last):
            say(f"      {command}")
    say_checks("looked at", checks)
    if twin:
        say_checks("its twin", twin.checks)
        for finding in twin.findings:
            say(f"of its twin: {finding.what}: {finding.evidence}")
    return Exit.TROUBLE if found else Exit.DONE


def _command_for(finding: Finding, folder: Path, last: Snapshot) -> str:
    """What tries the fix of a finding: on the run where somebody trains it, else on a new one like it. Empty where it
    cannot be said, or not in one line.
    """
    fix, manifest = dict(finding.fix or {}), rundir.read_manifest(folder)
    try:
        settings.Config().replace({**last.config, **fix})
    except (ValueError, TypeError):  # of another program
        return ""
    if not fix or printable(manifest.data) != manifest.data:
        return ""
    if not rundir.absent(folder):
        ctl = f"makemore ctl {shlex.quote(rundir.called(folder))}"
        anew = finding.fresh and settings.keeps_weights(fix, live=False) and last.state != "diverged"
        return " ".join([ctl, "set", *_pairs(fix), *["&&", ctl, "restart"] * anew])
    preset = goes_by(last.preset if last.preset in PRESETS else DEFAULT, last.config)[0]
    wanted = {**last.config, **fix}
    other = {
        name: wanted[name]
        for name, value in PRESETS[preset].config().as_dict().items()
        if wanted.get(name, value) != value
    }
    data = ["--data", shlex.quote(manifest.data)] if manifest.data else []
    sets = (word for one in _pairs(other) for word in ("--set", one))
    return " ".join(["makemore train --preset", preset, *data, *sets])


def _pairs(changes: Mapping[str, Value]) -> list[str]:
    """Changed settings as a command line takes them; a gain as the lecture writes it."""
    return [f"{name}={'5/3' if name == 'gain' and shown(value) == '5/3' else value}" for name, value in changes.items()]


def say_checks(title: str, checks: Sequence[Check]) -> None:
    """What the doctor has looked at, what it is about marked `!`."""
    rows = [
        [f"{'!' if check.found else ' '} {check.name}", check.seen or "not judged yet", check.limit] for check in checks
    ]
    for text in in_columns([[f"  {title}", "seen", "limit"], *rows], None, ()):
        say(text)
