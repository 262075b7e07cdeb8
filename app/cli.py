"""The command line: every command in a few lines, and whatever is slow to load only where it is needed."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from app.terminal import Exit, report, require_terminal, reset_terminal, tell
from makemore_core import __version__
from makemore_core.command import COLDEST, HOTTEST, Channel, Command
from makemore_core.config import pair, printable
from makemore_core.watch import Watch

if TYPE_CHECKING:
    from app.history import Beside

Function = TypeVar("Function", bound=Callable[..., object])

RUN = "run"
ASCII = "Draw with ASCII alone. Default: where the locale has no UTF-8, or TERM is linux or vt100."


class Number(click.FloatRange):
    """A number in a range, of which NaN passes for none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Commands(click.Group):
    """`makemore` alone, or with options first, is `makemore train`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A preset in the place of a command is answered by how it is started."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from makemore_core.presets import PRESETS

            if args[0] in PRESETS:
                raise ValueError(f"{args[0]}: is a preset: makemore --preset {args[0]}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version")):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done; 1 a finding, a run that diverged or does not answer, or something could not be "
    "written; 2 bad input; 3 an unexpected error; 4 the terminal was lost; 128 + n ended by signal n.",
)
@click.version_option(__version__, prog_name="makemore")
def cli() -> None:
    """Train a small character model in your terminal and see inside every layer, live.

    Without a command the studio opens and trains the default net on the embedded names; it takes the options of
    `makemore train`.
    """


def training(function: Function) -> Function:
    """The options that say what is trained."""
    options = [
        click.option("--steps", metavar="N", help="Updates of the whole run."),
        click.option("--engine", metavar="auto|plain|fast|manual", help="How the updates are computed."),
    ]
    return net(_with(options, function))


def net(function: Function) -> Function:
    """The options that say what net is made, of what data."""
    options = [
        click.option("--preset", metavar="P", help="An experiment of the lectures; `makemore presets` lists them."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated."
        ),
        click.option("--data", metavar="FILE", help="UTF-8 text, one item a line. Default: the embedded names."),
        click.option("--seed", metavar="N", help="Of the weights and the minibatches."),
        click.option("--device", metavar="auto|cpu|cuda", help="Where the net is trained."),
    ]
    return _with(options, function)


def _with(options: Sequence[Callable[[Function], Function]], function: Function) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


BESIDE = click.option("--beside", metavar="RUN", help="Draw the loss of another run behind this one's.")


def watching(function: Function) -> Function:
    """The options that say how closely a run is watched, and how it is shown."""
    options = [
        click.option("--headless", is_flag=True, help="No screen: a progress bar, or lines in a pipe."),
        click.option("--json", "as_json", is_flag=True, help="With --headless or --detach: JSON, one object a line."),
        click.option("--probe-every", type=click.IntRange(1), metavar="N", help="Look every N steps, not by time."),
        click.option("--fps", type=Number(0.1, 60), default=10.0, help="Looks and pictures a second."),
        click.option(
            "--budget",
            type=Number(0.001, 1),
            default=0.03,
            help="Share of time for looking, after the first look at a net.",
        ),
        click.option("--pace", type=Number(0.1, 1e6), metavar="N", help="Begin in slow motion, N steps a second."),
        click.option("--paused", is_flag=True, help="Begin in a pause; a new net after its first update."),
        click.option("--ascii/--no-ascii", "ascii_only", default=None, help=ASCII),
        BESIDE,
    ]
    return _with(options, function)


def config_changes(settings: tuple[str, ...], **named: str | None) -> dict[str, str]:
    """`--set` pairs and the options that stand for a setting. Raises ValueError for a pair without `=`."""
    from app.launch import naming

    with naming("--set"):
        changes = dict(map(pair, settings))
    return changes | {name: value for name, value in named.items() if value is not None}


DETACH = click.option("--detach", is_flag=True, help="Train in the background and say how to attach.")


MOVED = click.option("--data", metavar="FILE", help="Where the run's data is now, if it was moved.")


def detached(folder: Path, watch: Watch, as_json: bool, steps: str | None = None) -> int:
    """Train a run in the background and say how to attach."""
    from app import launch

    pid = launch.in_background(folder, watch, steps)
    click.echo(launch.as_json(pid, folder) if as_json else launch.to_look("training", pid, folder))
    return Exit.DONE


@cli.command()
@training
@click.option("--run", metavar="DIR", help="Name or path of the new run. Default: runs/PRESET-N.")
@click.option("--twin", multiple=True, metavar="KEY=VALUE|P", help="Train a second net that differs so, in lock-step.")
@DETACH
@watching
def train(
    preset: str | None,
    settings: tuple[str, ...],
    data: str | None,
    steps: str | None,
    seed: str | None,
    device: str | None,
    engine: str | None,
    run: str | None,
    twin: tuple[str, ...],
    detach: bool,
    headless: bool,
    as_json: bool,
    probe_every: int | None,
    fps: float,
    budget: float,
    pace: float | None,
    paused: bool,
    ascii_only: bool | None,
    beside: str | None,
) -> int:
    """Train a new run: in the studio, without a screen, or in the background."""
    from app import launch

    changes = config_changes(settings, steps=steps, seed=seed, device=device, engine=engine)
    plan = launch.plan(preset, changes, data, twin)
    check_front_end(headless, as_json, detach, beside, "train")
    curves = curves_beside(beside)
    folder, watch = launch.begin(plan, run), Watch(probe_every, fps, budget, pace, paused)
    try:
        if not detach:
            return front_end(folder, headless, as_json, watch, ascii_only, beside=curves)
        return detached(folder, watch, as_json)
    except BaseException:
        launch.forget(folder)
        raise


@cli.command()
@click.argument(RUN, required=False)
@click.option(
    "--steps",
    metavar="N",
    help="Updates of the whole run, for one that has finished or was stopped: go on up to there.",
)
@MOVED
@DETACH
@watching
def resume(
    run: str | None,
    steps: str | None,
    data: str | None,
    detach: bool,
    headless: bool,
    as_json: bool,
    probe_every: int | None,
    fps: float,
    budget: float,
    pace: float | None,
    paused: bool,
    ascii_only: bool | None,
    beside: str | None,
) -> int:
    """Go on from the last good checkpoint of a run."""
    from app import launch
    from makemore_core.rundir import absent, find_run, held_by, liveness, read_manifest

    folder = find_run(run)
    read_manifest(folder)
    if holder := held_by(folder):
        raise ValueError(f"{folder.name}: is being trained already, by process {holder.pid}; makemore attach shows it")
    check_front_end(headless, as_json, detach, beside, "resume")
    curves = curves_beside(beside)
    if data is not None:
        launch.moved(folder, data)
    first = launch.longer(folder, steps) if steps is not None else []
    watch = Watch(probe_every, fps, budget, pace, paused)
    if detach and not first and (state := liveness(folder)) in ("finished", "diverged"):
        if state == "diverged":  # as it would again
            raise click.ClickException(f"{folder.name}: {absent(folder, state)}")
        click.echo(launch.FINISHED, err=True)
        if as_json:
            click.echo(launch.as_json(None, folder))
        return Exit.DONE
    if detach:
        return detached(folder, watch, as_json, steps)
    return front_end(folder, headless, as_json, watch, ascii_only, first, curves)


def curves_beside(run: str | None) -> Beside | None:
    """What is to be drawn behind, if anything. Raises ValueError for a run of which nothing is recorded."""
    if run is None:
        return None
    from app.session_view import curves_of

    return curves_of(run)


def check_front_end(headless: bool, as_json: bool, detach: bool, beside: str | None, command: str) -> None:
    """Raises ValueError where nobody would write the JSON lines or draw another run, or the studio has no terminal."""
    if beside is not None and (headless or detach):
        raise ValueError("--beside: needs the studio, without --headless and --detach")
    if as_json and not (headless or detach):
        raise ValueError("--json: goes with --headless or --detach")
    if not headless and not detach:
        require_terminal(f"{command} --headless")


def front_end(
    folder: Path,
    headless: bool,
    as_json: bool,
    watch: Watch,
    ascii_only: bool | None,
    first: Sequence[Command] = (),
    beside: Beside | None = None,
) -> int:
    """Train what is in the folder, with or without a screen, after the `first` commands; the exit status."""
    channel = Channel()
    for command in first:
        channel.send(command)
    if headless:
        from app.headless import train_headless

        return train_headless(folder, as_json, watch, ascii_only, channel)
    from app.session_view import train_in_studio

    return train_in_studio(folder, watch, ascii_only, channel, beside)


@cli.command()
@click.argument(RUN, required=False)
@click.option("--readonly", is_flag=True, help="Look only: the trainer refuses this view's commands.")
@click.option("--fps", type=Number(0.1, 60), default=10.0, help="Pictures a second.")
@click.option("--ascii/--no-ascii", "ascii_only", default=None, help=ASCII)
@BESIDE
def attach(run: str | None, readonly: bool, fps: float, ascii_only: bool | None, beside: str | None) -> int:
    """Watch and control a run that another process trains; the latest one if none is named."""
    from makemore_core.aside import Aside
    from makemore_core.rundir import find_run, read_manifest

    folder = find_run(run)
    read_manifest(folder)
    require_terminal("show")
    aside = Aside(folder)
    from app.session_view import attach_studio

    return attach_studio(folder, readonly, fps, ascii_only, aside, curves_beside(beside))


@cli.command()
@click.argument(RUN, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--all", "whole", is_flag=True, help="With --json: everything that was recorded, one object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="What was recorded of the net as it is now, one row a step.")
def show(run: str | None, as_json: bool, whole: bool, as_csv: bool) -> int:
    """The latest snapshot of a run, once; of live, finished and crashed runs."""
    from app.report import show_record, show_run, show_table

    if whole and not as_json:
        raise click.UsageError("--all goes with --json")
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: one of the two")
    return show_table(run) if as_csv else show_record(run) if whole else show_run(run, as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
def runs(as_json: bool) -> int:
    """Every run: state, step, loss (of about the last 500 minibatches), validation loss, age, preset."""
    from app.report import list_all

    return list_all(as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a preset.")
def presets(as_json: bool) -> int:
    """The lectures' experiments: what each shows and what to look at."""
    from app.report import list_presets

    return list_presets(as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a setting.")
def settings(as_json: bool) -> int:
    """Every setting that --set takes: its default, what it is for, what is allowed."""
    from app.report import list_settings

    return list_settings(as_json)


@cli.command(context_settings={"ignore_unknown_options": True})  # so that a negative number is told as such
@click.argument(RUN)
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="pause|resume|step N|pace N|set KEY=VALUE|restart|back|forth|checkpoint|stop",
)
@click.option("--live", is_flag=True, help="With set: apply to the weights as they are, or not at all.")
@click.option("--timeout", type=Number(0.1, 600), default=10.0, help="Seconds to wait for the answer.")
def ctl(run: str, words: tuple[str, ...], live: bool, timeout: float) -> int:
    """Control a run from a script; returns when the command has been applied, and steps are done.

    pace N holds it to so many steps a second; pace full lets it go. back undoes a restart or a live change: the run
    goes on with the net that was left; forth undoes that.
    """
    from app.report import control_run

    if run.startswith("-"):  # what looks like an option among the words may be a negative number
        raise click.NoSuchOption(run)
    return control_run(run, words, live, timeout)


@cli.command()
@click.argument(RUN, required=False)
@click.option("-n", "count", type=click.IntRange(1, 100_000), default=20, help="How many names.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Default: the lecture's.")
@click.option("--temperature", type=Number(COLDEST, HOTTEST), default=1.0, help="Divides the logits.")
@click.option("--start", metavar="TEXT", default="", help="What every name begins with.")
@MOVED
def sample(run: str | None, count: int, seed: int | None, temperature: float, start: str, data: str | None) -> int:
    """Names from the model of a run."""
    from app.model_of import sample_run

    return sample_run(run, data, count, seed, temperature, start)


@cli.command(name="eval")
@click.argument(RUN, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@MOVED
def evaluate(run: str | None, as_json: bool, data: str | None) -> int:
    """Losses of a run over the whole train, val and test splits."""
    from app.model_of import evaluate_run

    return evaluate_run(run, data, as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--data", metavar="FILE", help="UTF-8 text, one item a line. Default: the embedded names.")
def gradcheck(as_json: bool, data: str | None) -> int:
    """Every gradient by hand against autograd and finite differences; exit 1 if one is wrong."""
    from makemore_core.gradcheck import run

    return run(as_json, data)


@cli.command()
@click.argument(RUN, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(run: str | None, as_json: bool) -> int:
    """What is wrong with a run, why, and what to try; exit 1 if anything is."""
    from app.report import examine_run

    return examine_run(run, as_json)


@cli.command()
@click.option("--quick", is_flag=True, help="Fewer steps, in under a minute, against what those should give.")
@click.option("--data", metavar="FILE", help="The lectures' names.txt. Default: the embedded names.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reproduce(quick: bool, data: str | None, as_json: bool) -> int:
    """Run the lectures' experiments and print each published number beside the measured one."""
    from makemore_core.reproduce import run

    return run(data, quick, as_json)


@cli.command(name="find-lr")
@click.argument(RUN, required=False)
@net
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def find_lr(
    run: str | None,
    preset: str | None,
    settings: tuple[str, ...],
    data: str | None,
    seed: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Learning-rate range test: the loss at rates from 0.001 to 1, and a suggestion.

    Of a fresh net, or of a copy of a run's net as it is now.
    """
    from app import launch

    changes = config_changes(settings, seed=seed, device=device)
    if run is None:
        config = launch.plan(preset, changes, data).config
        from makemore_core import dataset
        from makemore_core.trainer import Trainer

        trainer = Trainer(config, dataset.read(data))
    elif preset is not None or changes:
        raise click.UsageError("of a run no other settings can be tested: RUN, or --preset, --set, --seed, --device")
    else:
        from app.model_of import net_of

        trainer, _ = net_of(run, data)
    from makemore_core import find_lr as finder

    return finder.run(trainer, json=as_json)


@cli.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter turns; no whole run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(quick: bool, as_json: bool) -> int:
    """Speed and cost of this build on this machine, speeds as ratios to a reference."""
    from makemore_core.bench import run

    return run(quick, as_json)


@cli.command(name="reset-terminal")
def reset() -> int:
    """Put the terminal back after a view was killed."""
    reset_terminal()
    return Exit.DONE


def main() -> None:
    """Run the command; bad input is one line on stderr and exit 2, anything unexpected one line and exit 3.

    A plain `ClickException` is what could not be done, though it was rightly asked for: one line and exit 1.
    """
    open_streams()
    warnings.simplefilter("ignore")  # torch's are about statistics of one number, and would land on the screen
    status: int | str | None
    try:
        status = cli.main(standalone_mode=False, prog_name="makemore")
        sys.stdout.flush()
    except click.ClickException as error:
        status = complain(error.format_message(), error.exit_code)
    except ValueError as error:
        status = complain(str(error))
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except SystemExit as ended:  # click's way out when whoever read has had enough; it leaves a wrapper as stdout
        status = ended.code if isinstance(sys.stdout, io.TextIOBase) else Exit.DONE
    except Exception as error:
        status = failed(error)
    leave(int(status or 0))


def failed(error: Exception) -> int:
    """Tell of what nobody expected, but of a full disk and of too little memory as what they are; the exit status."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what found no room is not tried again at the end
        tell(f"makemore: cannot write: {error.strerror}\n")
        return Exit.TROUBLE
    words = str(error).lower()  # torch has no kind of its own for it
    if isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words:
        said = str(error) if isinstance(error, MemoryError) else ""
        tell(f"makemore: not enough memory{f': {said}' if said else ' for a net and minibatches of this size'}\n")
        return Exit.BAD_INPUT
    report(error)
    return Exit.ERROR


def open_streams() -> None:
    """Have somewhere to write to, also where the caller closed it, and characters that can be written there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


def leave(status: int) -> NoReturn:
    """End the process. Everything is saved and closed by now, and torch would take a second to take itself apart."""
    if "torch" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it any more
                stream.flush()
        os._exit(status)
    sys.exit(status)


def complain(text: str, status: int = Exit.BAD_INPUT) -> int:
    """One line for people, of characters that every terminal may be sent; the exit status."""
    line = " ".join(text.split())
    tell(f"makemore: {printable(line)}\n")
    return status
