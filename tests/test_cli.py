"""The command line keeps its word: exit statuses, one line for bad input, plain JSON, nothing slow without need."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import click
import msgspec
import pytest
from msgspec import to_builtins

from app.cli import cli
from app.glyphs import width_of
from app.report import COLUMNS, DROPPED, ask, command_of, in_columns, line
from makemore_core import rundir
from makemore_core.command import Back, Command, Pause, Restart, Set, Step, Stop
from makemore_core.config import LIVE_FIELDS, LIVE_IF_ASKED_FIELDS, Config
from makemore_core.control import ControlClient, Reply
from makemore_core.dataset import Dataset
from makemore_core.find_lr import range_test
from makemore_core.looking import at_once
from makemore_core.model import evaluate
from makemore_core.presets import PRESETS
from makemore_core.recorder import load_attempt
from makemore_core.snapshot import UNSAVED, to_json
from tests import canned
from tests.commands import ROOT, Commands, commands, strict
from tests.trainers import Order, new_run, opened, trainer_process, wait_for

SMALL = Config(n_layer=2, n_hidden=16, n_embd=4, batch_size=8, steps=60, lr=0.02, engine="plain")
HOSTILE = "\x1b[31m\x9b0m\x07\u202e"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, few_names_file: Path) -> Path:
    """A folder with runs in it: one finished, one stopped, one crashed, one hostile; and with bad data."""
    place = tmp_path_factory.mktemp("place") / "here"
    (place / "runs").mkdir(parents=True)
    opened(new_run(place / "runs/done", SMALL, few_names_file), Order(0, 30, Set({"lr": 0.01}))).run()
    opened(new_run(place / "runs/halfway", SMALL, few_names_file), Order(0, 30, Stop())).run()
    new_run(place / "runs/never", SMALL, few_names_file)
    for name, content in {
        "empty": b"", "blank": b"\n \r\n\n", "two": b"anna\nben\n", "nul": b"anna\nb\0en\nclara\n",
        "latin": b"anna\nb\xfcen\nclara\n", f"hostile{HOSTILE}": b"anna\n",
    }.items():  # fmt: skip
        (place / name).write_bytes(content)
    os.mkfifo(place / "fifo")
    return place


@pytest.fixture(scope="module")
def makemore(place: Path) -> Iterator[Commands]:
    """Commands, without torch in memory."""
    with commands(place) as started:
        yield started


@pytest.fixture(scope="module")
def trained(place: Path) -> Iterator[Commands]:
    """Commands that need torch, with it in memory already."""
    with commands(place, "makemore_core.recorder") as started:
        yield started


# Bad input


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --data none", "none: no such file"),
        ("train --data .", ".: is a folder"),
        ("train --data fifo", "fifo: not a regular file"),
        ("train --data empty", "empty: no items: the file is empty"),
        ("train --data blank", "blank: no items: every line is blank"),
        ("train --data two", "two: 2 items: at least 3 are needed"),
        ("train --data latin", "latin: not UTF-8 text: byte 6 cannot be read"),
        ("train --data nul", "nul: not a text file: NUL at byte 6"),
        ("train --set lr", "--set lr: has to be KEY=VALUE"),
        ("train --set =1", "--set =1: has to be KEY=VALUE"),
        ("train --data=", "data: the name of a file is needed"),
        ("train --set lr=", "lr=: has to be a number"),
        ("train --set lr=-1", "lr=-1"),
        ("train --set lr=nan", "lr=nan: has to be a number"),
        ("train --set gian=2", "gian: no such setting; did you mean gain?"),
        ("train --set n_layer=0", "n_layer=0: has to be a whole number at least 1"),
        ("train --set norm=group --set norm_groups=7", "norm_groups=7: has to divide n_hidden=100"),
        ("train --preset deep-tahn", "--preset deep-tahn: no such preset; did you mean deep-tanh?"),
        ("train --steps many", "steps=many: has to be a whole number"),
        ("train --seed -1", "seed=-1: has to be a whole number"),
        ("train --device tpu", "device=tpu: has to be"),
        ("train --engine warp", "engine=warp: has to be"),
        ("train --twin batch_size=7", "--twin batch_size=7: a twin sees the same minibatches, 32 each"),
        ("train --twin steps=3", "--twin steps=3: a twin takes the same steps, 200,000"),
        ("train --twin bogus", "--twin bogus: no such preset; see makemore presets"),
        ("train --steps 7 --twin lr=0.1", "--twin lr=0.1: differs in nothing from the run itself"),
        ("train --headless --run done", "is there already"),
        ("train --headless --run no/such/\x1b", "run=no/such/"),
        ("train --json", "--json: goes with --headless or --detach"),
        ("train --headless --beside done", "--beside: needs the studio, without --headless and --detach"),
        ("train --probe-every 0", "--probe-every"),
        ("train --fps fast", "--fps"),
        ("train --pace 0", "'--pace': 0.0 is not in the range 0.1<=x<="),
        ("train --fps nan", "'--fps': nan is not a number"),
        ("train --budget nan", "'--budget': nan is not a number"),
        ("ctl done pause --timeout nan", "'--timeout': nan is not a number"),
        ("sample done --temperature 1e-38", "'--temperature': 1e-38 is not in the range 0.001<=x<=100.0"),
        ("sample done --seed 99999999999999999999999", "'--seed': 99999999999999999999999 is not in the range 0<="),
        ("train --budget 2", "--budget"),
        ("train --nope", "--nope"),
        ("train", "is not a terminal"),
        ("", "is not a terminal"),
        ("--data none", "none: no such file"),
        ("frobnicate", "frobnicate"),
        ("show dnoe", "run=dnoe: no such run; did you mean done?"),
        ("show never", "never: nothing has been recorded yet"),
        ("show done and more", "and more"),
        ("sample nope", "run=nope: no such run"),
        ("sample done -n 0", "0"),
        ("eval nope", "run=nope: no such run"),
        ("resume nope --headless", "run=nope: no such run"),
        ("resume done", "is not a terminal, and the studio needs one; `makemore resume --headless` does not"),
        ("attach nope", "run=nope: no such run"),
        ("attach done", "is not a terminal, and the studio needs one; `makemore show` does not"),
        ("find-lr --steps 100", "No such option"),
        ("find-lr done --set n_layer=2", "of a run no other settings can be tested: RUN, or --preset, --set, --seed"),
        ("find-lr --engine fast", "No such option"),
        ("doctor nope", "run=nope: no such run"),
        ("ctl", "RUN"),
        ("ctl done", "pause"),
        ("ctl nope pause", "run=nope: no such run"),
        ("ctl done dance", "dance: has to be one of pause, resume, step N, pace N, set KEY=VALUE, restart, back"),
        ("ctl done pace slow", "pace slow: has to be a number of steps a second, or full"),
        ("ctl done pace 0", "pace 0: has to be at least 0.1"),
        ("ctl done pace nan", "pace nan: has to be at least 0.1"),
        ("ctl done pause now", "pause now: has to be"),
        ("ctl --jsno done pause", "No such option '--jsno'"),
        ("ctl done step x", "step x: has to be a whole number at least 1 and at most 1,000,000"),
        ("ctl done step 0", "step 0: has to be a whole number at least 1"),
        ("ctl done step -3", "step -3: has to be a whole number at least 1"),
        ("ctl done step 99999999999999999999", "has to be a whole number at least 1 and at most 1,000,000"),
        ("ctl done set", "set: needs KEY=VALUE"),
        ("ctl done set lr", "lr: has to be KEY=VALUE"),
        ("ctl done set lr=fast", "lr=fast: has to be a number"),
        ("ctl done set gian=1", "did you mean gain?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(makemore: Commands, argv: str, said: str) -> None:
    ended = makemore.run(*argv.split())

    assert ended.status == 2
    assert ended.out == ""
    assert said in ended.err
    assert re.fullmatch(r"makemore: [^\n]+\n", ended.err)
    assert ended.err[:-1].isprintable()
    assert "torch" not in ended.loaded


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--data", f"hostile{HOSTILE}"],
        ["train", "--set", f"{HOSTILE}=1"],
        ["train", "--set", f"lr={HOSTILE}"],
        ["train", "--preset", HOSTILE],
        ["train", "--headless", "--run", f"x{HOSTILE}"],
        ["train", f"--{HOSTILE}"],
        [HOSTILE],
        ["show", HOSTILE],
        ["ctl", "done", HOSTILE],
        ["ctl", "done", "set", f"lr={HOSTILE}"],
        ["train", "--data", "un\udce4decodable"],
        ["train", "--data", "line\nbreak"],
    ],
)
def test_control_characters_never_reach_the_terminal(makemore: Commands, argv: list[str]) -> None:
    ended = makemore.run(*argv)

    assert ended.status == 2
    assert re.fullmatch(r"makemore: [^\n]+\n", ended.err)
    assert ended.err[:-1].isprintable()


def test_no_run_is_left_of_what_was_refused(makemore: Commands) -> None:
    before = sorted(os.listdir(makemore.cwd / "runs"))
    for argv in ("train --headless --data two", "train --headless --set lr=x", "train", "train --json"):
        assert makemore.run(*argv.split()).status == 2
    assert sorted(os.listdir(makemore.cwd / "runs")) == before


def test_without_a_gpu_the_cpu_trains_and_one_line_says_so(trained: Commands) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    ended = trained.run("train", "--headless", "--device", "cuda", "--steps", "3", "--run", "onagpu")
    assert ended.status == 0
    assert "running: no GPU that torch can use on this machine: training on the CPU\n" in ended.err
    ended = trained.run("find-lr", "--device", "cuda", "--set", "n_layer=1")
    assert (ended.status, ended.err) == (0, "no GPU that torch can use on this machine: training on the CPU\n")
    assert json.loads(trained.run("show", "onagpu", "--json").out)["device"] == "cpu"


# What is quick


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(cli.commands))])
def test_help_of_every_command(makemore: Commands, command: list[str]) -> None:
    ended = makemore.run(*command, "--help")

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("Usage: makemore")
    assert max(map(len, ended.out.splitlines())) <= 100
    assert not ended.loaded & {"torch", "textual", "numpy"}


def test_what_only_reads_loads_no_torch(makemore: Commands) -> None:
    for argv in ("--version", "runs", "presets", "settings", "show done", "show done --json", "doctor done"):
        ended = makemore.run(*argv.split())
        assert ended.status in ((0, 1) if "doctor" in argv else (0,)), ended.err
        assert ended.out
        assert not ended.loaded & {"torch", "textual", "numpy"}, argv


def test_a_cold_start_says_what_is_wrong(place: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app", "train", "--data", "none"],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "makemore: none: no such file\n")


@pytest.mark.parametrize(("argv", "loading", "said"), [([], "click", ""), (["presets"], "app.report", "\n")])
def test_ctrl_c_while_it_is_loading_is_quiet(argv: list[str], loading: str, said: str) -> None:
    interrupted = f"""
import os, runpy, signal, sys
class Interrupts:
    def find_spec(name, *_):
        if name == "{loading}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts)
runpy.run_module("app", run_name="__main__")
"""
    ran = subprocess.run(
        [sys.executable, "-c", interrupted, *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", said)


# What is printed


def test_show_json_has_what_was_promised(makemore: Commands) -> None:
    shown = strict(makemore.run("show", "done", "--json").out)

    assert isinstance(shown, dict)
    wanted = "run state step steps loss params config splits layers weights interventions overhead"
    assert set(wanted.split()) <= shown.keys()
    assert (shown["run"], shown["state"], shown["step"], shown["steps"]) == ("done", "finished", 60, 60)
    assert shown["config"]["lr"] == 0.01
    assert shown["splits"].keys() >= {"train", "val"}
    assert 0 <= shown["overhead"] <= 1
    assert [layer["index"] for layer in shown["layers"]] == [2, 5]
    for layer in shown["layers"]:
        assert layer.keys() >= {"index", "kind", "activation", "gradient"}
        assert layer["activation"].keys() >= {"mean", "std", "saturated", "dead", "histogram"}
        assert 0 <= layer["activation"]["saturated"] <= 1
        assert isinstance(layer["activation"]["dead"], int)
        assert layer["gradient"].keys() >= {"mean", "std", "histogram"}
    weight = {"name", "shape", "grad_mean", "grad_std", "data_std", "grad_data_ratio", "update_data_log10"}
    assert all(one.keys() >= weight for one in shown["weights"])
    (mark,) = shown["interventions"]
    assert mark["what"] == "lr 0.02 → 0.01"
    assert mark["step"] >= 30


def test_a_run_that_measures_its_losses_after_the_last_step_says_so() -> None:
    for step, told in ((900, "  5,000 steps/s  running"), (1000, "  measuring the losses")):
        snapshot = canned.snapshot(step=step, steps=1000, steps_per_second=5000.0)
        assert line(snapshot).endswith(told)
        assert ("steps/s" in line(snapshot)) == (step < 1000)


def test_show_says_it_in_words(makemore: Commands) -> None:
    said = makemore.run("show", "done").out
    assert said.startswith("done  deep-batchnorm with n_layer 2, n_hidden 16, ")
    assert "step 60/60" in said
    assert "finished" in said
    assert re.search(r"^  2 Tanh ", said, re.MULTILINE)
    assert re.search(r"^at step \d+: lr 0.02 → 0.01$", said, re.MULTILINE)


def test_runs_are_listed_with_their_state(makemore: Commands) -> None:
    header, *rows = [line.split() for line in makemore.run("runs").out.splitlines()]
    assert header == COLUMNS
    states = {row[0]: row[1] for row in rows}
    assert states["done"] == "finished"
    assert states["halfway"] == "stopped"
    assert states["never"] == "crashed"
    listed = [strict(line) for line in makemore.run("runs", "--json").out.splitlines()]
    assert {row["run"]: row["state"] for row in listed if isinstance(row, dict)} == states
    assert all(" ".join(row).endswith((" own settings", " deep-batchnorm")) for row in rows)
    shown = strict(makemore.run("show", "done", "--json").out)
    (done,) = (row for row in listed if isinstance(row, dict) and row["run"] == "done")
    assert isinstance(shown, dict)
    assert done["preset"] is None
    assert [done[name] for name in ("loss", "smoothed_loss")] == [shown[name] for name in ("loss", "smoothed_loss")]


def test_a_run_whose_manifest_is_damaged_is_listed_as_that(makemore: Commands) -> None:
    folder = makemore.cwd / "runs/bad"
    folder.mkdir()
    (folder / rundir.MANIFEST).write_bytes(b"null")
    os.utime(folder, (1e9, 1e9))
    try:
        assert re.search(r"^bad +damaged +\d{4,} d$", makemore.run("runs").out, re.MULTILINE)
    finally:
        shutil.rmtree(folder)


def test_no_runs_are_told(makemore: Commands) -> None:
    ended = makemore.run("runs", env={"MAKEMORE_RUNS": "nowhere"})
    assert (ended.status, ended.out, ended.err) == (0, "", "no runs in nowhere yet; makemore begins one\n")
    ended = makemore.run("runs", env={"MAKEMORE_RUNS": os.devnull})
    assert (ended.status, ended.out, ended.err) == (2, "", "makemore: runs=/dev/null: Not a directory\n")


def test_runs_fit_into_a_terminal() -> None:
    rows = [
        ["deep-batchnorm-1", "finished", "200,000/200,000", "2.0123", "2.1031", "200k", "5 min", "deep-batchnorm"],
        ["n" * 40, "damaged", "", "", "", "", "3 d", ""],
    ]
    whole, wide, narrow = (list(in_columns(rows, width, DROPPED)) for width in (None, 80, 58))
    assert [" ".join(line.split()) for line in whole] == [" ".join(filter(None, row)) for row in rows]
    assert max(map(len, wide)) <= 80
    assert wide[0].endswith("  2.0123  2.1031  5 min")
    assert next(in_columns([["a", *rows[0][1:]]], 80, DROPPED)).endswith("  2.1031  200k  5 min  deep-batchnorm")
    assert wide[1].startswith(f"{'n' * 19}…  damaged ")
    assert max(map(len, narrow)) <= 58
    broad = list(in_columns([["日本語", *rows[0][1:]], ["日" * 20, *rows[0][1:]]], 80, DROPPED))  # two cells each
    assert [width_of(line.partition("  finished")[0].rstrip()) for line in broad] == [6, 19]
    assert len({width_of(line) for line in broad}) == 1


def test_a_run_without_its_state_file_is_shown_from_its_record(makemore: Commands, few_names_file: Path) -> None:
    folder = new_run(makemore.cwd / "runs/stateless", SMALL, few_names_file)
    opened(folder, Order(0, 30, Stop())).run()
    before = makemore.run("show", "stateless", "--json").out
    (folder / rundir.STATE).write_bytes(b"{")
    after = makemore.run("show", "stateless", "--json").out
    assert strict(after)["step"] == strict(before)["step"]  # type: ignore[index]


def test_a_whole_record_is_given_to_programs(makemore: Commands, few_names_file: Path) -> None:
    told = [strict(line) for line in makemore.run("show", "done", "--json", "--all").out.splitlines()]
    losses = [loss for snapshot in told for loss in snapshot["losses"]]  # type: ignore[index,union-attr]
    assert len(losses) == told[-1]["step"]  # type: ignore[index]
    assert makemore.run("show", "done", "--all").status == 2
    (makemore.cwd / "runs/done").rename(makemore.cwd / "runs/renamed")
    again = [strict(line) for line in makemore.run("show", "renamed", "--json", "--all").out.splitlines()]
    assert again == [snapshot | {"run": "renamed"} for snapshot in told]  # type: ignore[operator]
    (makemore.cwd / "runs/renamed").rename(makemore.cwd / "runs/done")
    new_run(makemore.cwd / "runs/empty", SMALL, few_names_file)
    ended = makemore.run("show", "empty", "--json", "--all")
    assert (ended.status, ended.err) == (2, "makemore: empty: nothing has been recorded yet\n")
    table = list(csv.DictReader(makemore.run("show", "done", "--csv").out.splitlines()))
    assert (table[0]["step"], table[-1]["step"]) == ("0", str(told[-1]["step"]))  # type: ignore[index]
    assert all(math.isfinite(float(row["loss"])) for row in table[1:])
    assert makemore.run("show", "done", "--csv", "--json").status == 2
    assert makemore.run("show", "empty", "--csv").err == ended.err


def test_a_preset_in_the_place_of_a_command_is_answered_by_how_it_is_started(makemore: Commands) -> None:
    ended = makemore.run("deep-tanh")
    assert (ended.status, ended.err) == (2, "makemore: deep-tanh: is a preset: makemore --preset deep-tanh\n")


def test_the_doctor_says_what_needs_a_new_net(makemore: Commands) -> None:
    folder = makemore.cwd / "runs" / "sure"
    folder.mkdir()
    (folder / rundir.MANIFEST).write_bytes((makemore.cwd / "runs/done" / rundir.MANIFEST).read_bytes())
    config = Config(last_shrink=1.0).as_dict()
    sure = msgspec.structs.replace(canned.snapshot(), config=config, first_loss=9.0, expected_loss=3.3)
    rundir.write_state(folder, to_json(msgspec.structs.replace(sure, twin=sure)))
    try:
        ended, as_json = (makemore.run("doctor", str(folder), *options) for options in ((), ("--json",)))
    finally:
        shutil.rmtree(folder)
    assert (ended.status, as_json.status) == (1, 1)
    (found, *_), told = strict(as_json.out)["findings"], ended.out
    assert f"of its twin: {found['what']}: {found['evidence']}\n" in told
    assert "bias 0 at the start; from the seed\n" in told
    looked_at = told[told.index("  looked at") :].splitlines()
    assert looked_at[0].split() == ["looked", "at", "seen", "limit"]
    assert looked_at[1].startswith("! first loss")
    assert looked_at[1].endswith("9.00, ln V is 3.30                 3.80 at most")


def test_a_hostile_run_is_listed_safely(makemore: Commands) -> None:
    folder = makemore.cwd / "runs" / f"x{HOSTILE}"
    folder.mkdir()
    (folder / rundir.MANIFEST).write_bytes((makemore.cwd / "runs/done" / rundir.MANIFEST).read_bytes())
    sick = canned.snapshot(canned.SICK)
    weights = tuple(msgspec.structs.replace(weight, name=weight.name + HOSTILE) for weight in sick.weights)
    rundir.write_state(folder, to_json(msgspec.structs.replace(sick, weights=weights)))
    try:
        ended = [makemore.run(*argv) for argv in (["runs"], ["show", str(folder)], ["doctor", str(folder)])]
    finally:
        shutil.rmtree(folder)
    assert [one.status for one in ended] == [0, 0, 1]
    assert all("C\\x1b[31m" in one.out for one in ended[1:])
    assert all(line.isprintable() for one in ended for line in one.out.splitlines())


def test_presets_and_settings(makemore: Commands) -> None:
    said = makemore.run("presets").out
    assert all(name in said for name in PRESETS)
    listed = [strict(line) for line in makemore.run("presets", "--json").out.splitlines()]
    assert [row["name"] for row in listed if isinstance(row, dict)] == list(PRESETS)
    listed = [strict(line) for line in makemore.run("settings", "--json").out.splitlines()]
    assert {row["name"]: row["default"] for row in listed if isinstance(row, dict)} == Config().as_dict()
    change = {row["name"]: row["change"] for row in listed if isinstance(row, dict)}
    assert {name for name, what in change.items() if what == "live"} == LIVE_FIELDS
    assert {name for name, what in change.items() if "--live" in str(what)} == LIVE_IF_ASKED_FIELDS
    said = makemore.run("settings").out
    assert all(f"{name} = " in said for name in Config().as_dict())


def test_names_and_losses_of_what_was_trained(trained: Commands, few_names: Dataset) -> None:
    names = trained.run("sample", "done", "-n", "5").out
    assert len(names.splitlines()) == 5
    assert trained.run("sample", "done", "-n", "5").out == names
    assert trained.run("sample", "done", "-n", "5", "--seed", "1").out != names
    assert {name[:2] for name in trained.run("sample", "done", "--start", "el").out.split()} == {"el"}
    ended = trained.run("sample", "done", "--start", "El")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("makemore: 'El': 'E' is not among the characters of the data, abc")

    trainer = load_attempt(trained.cwd / "runs/done")[0]
    found = strict(trained.run("find-lr", "done", "--json").out)
    assert found["step"] == 60  # type: ignore[index]
    assert found["data"] == to_builtins(at_once(range_test(trainer)))  # type: ignore[index]

    train, val, test = (evaluate(trainer.model, trainer.split(items)) for items in few_names[2:5])
    assert trained.run("eval", "done").out == f"step 60  train {train:.4f}  val {val:.4f}  test {test:.4f}\n"
    told = {"step": 60, "attempt": 1, "train": train, "val": val, "test": test}
    assert strict(trained.run("eval", "done", "--json").out) == told

    ended = trained.run("sample", "never")
    assert (ended.status, ended.err) == (2, "makemore: never: has no checkpoint yet\n")


def test_that_the_net_is_not_the_latest_of_a_crashed_run_is_told(trained: Commands, few_names_file: Path) -> None:
    folder = new_run(trained.cwd / "runs/crashed", SMALL, few_names_file)
    opened(folder, Order(0, 30, Stop())).run()
    state = rundir.read_state(folder)
    assert state is not None
    step = state.step
    assert trained.run("eval", "crashed").err == ""
    rundir.write_state(folder, to_json(msgspec.structs.replace(state, state="running", step=1234, attempt=1)))
    for command in ("eval", "sample"):
        ended = trained.run(command, "crashed")
        assert ended.status == 0
        assert ended.err == f"of step {step}, attempt 0; the run was last seen at step 1,234, attempt 1\n"


def test_what_the_doctor_says_can_be_tried_as_it_stands(trained: Commands, few_names_file: Path) -> None:
    sick = SMALL.replace({"batch_size": 2, "gain": 5 / 3, "n_layer": 3, "beta2": 0.99999})
    cured = sick.replace({"batch_size": 32})
    folder = new_run(trained.cwd / "runs/tiny batch", sick, few_names_file)

    def tried(run: str) -> list[list[str]]:
        lines = trained.run("doctor", run).out.splitlines()
        told = next(line.strip() for line in lines if line.startswith("      makemore "))
        return [shlex.split(command)[1:] for command in told.split("&&")]

    trainer = trainer_process(folder, [], stay=True)
    try:
        wait_for(lambda: rundir.liveness(folder) == "finished", "its end")
        live = tried("tiny batch")
        assert [argv[:2] for argv in live] == [["ctl", "tiny batch"]] * 2
        assert [trained.run(*argv).status for argv in live] == [0, 0]
        state = rundir.read_state(folder)
        assert state is not None
        assert (Config().replace(state.config), state.attempt) == (cured, 2)
    finally:
        trainer.kill()
        trainer.join()

    opened(new_run(trained.cwd / "runs/stopped", sick, few_names_file), Order(0, 30, Stop())).run()
    state = rundir.read_state(trained.cwd / "runs/stopped")
    assert state is not None
    foreign = msgspec.structs.replace(state, config=state.config | {"optimizer": "lion"})
    rundir.write_state(trained.cwd / "runs/stopped", to_json(foreign))
    told = trained.run("doctor", "stopped").out
    assert "looked at" in told
    assert "makemore train" not in told  # which could not be run
    rundir.write_state(trained.cwd / "runs/stopped", to_json(state))
    (again,) = tried("stopped")
    assert trained.run(*again, "--headless", "--run", "cured").status == 0
    manifest = rundir.read_manifest(trained.cwd / "runs/cured")
    assert (Config().replace(manifest.config), manifest.data) == (cured, str(few_names_file))


def test_a_trainer_that_refuses_to_save_is_told_and_the_net_as_last_saved_is_taken(
    trained: Commands, few_names_file: Path
) -> None:
    folder = new_run(
        trained.cwd / "runs/refuses", SMALL.replace({"norm": "none", "nonlinearity": "identity"}), few_names_file
    )
    opened(folder, Order(0, 30, Stop())).run()
    trainer = trainer_process(folder, [Order(0, 30, Set({"lr": 1e6}))], stay=True)
    try:
        wait_for(lambda: rundir.liveness(folder) == "diverged", "its end")
        ended = trained.run("sample", "refuses", "-n", "1")
        asked = trained.run("ctl", "refuses", "checkpoint")
        set_lr = trained.run("ctl", "refuses", "set", "lr=0.01")
    finally:
        trainer.kill()
        trainer.join()
    assert (ended.status, ended.out.count("\n")) == (0, 1)
    refused = "the run is diverged: there is nothing worth saving"
    first, second = ended.err.splitlines()
    assert first == f"not as it is now but as it was last saved: {refused}"
    assert re.fullmatch(r"of step 3\d, attempt 0; the run was last seen at step [34]\d, attempt 1", second)
    assert (asked.status, asked.err) == (1, f"makemore: refuses: {refused}\n")
    assert set_lr.out == "set lr=0.01: a new net begins from the seed\n"  # the ruined one is not worth going back to


def test_on_a_disk_that_refuses_nothing_is_said_to_be_undone_that_cannot_be(
    trained: Commands, few_names_file: Path
) -> None:
    folder = new_run(trained.cwd / "runs/full", SMALL.replace({"steps": 10**9}), few_names_file)
    trainer, saves = trainer_process(folder, []), folder / rundir.CHECKPOINTS
    try:
        wait_for(lambda: bool(rundir.checkpoints(folder)), "a checkpoint")
        saves.rename(folder / "saved")
        saves.write_bytes(b"")  # no folder, so that nothing can be saved
        begun, live = (trained.run("ctl", "full", "set", change) for change in ("gain=2", "lr=0.01"))
    finally:
        trainer.kill()
        trainer.join()
    assert (begun.status, begun.out) == (0, "set gain=2: a new net begins from the seed; it cannot be undone\n")
    assert re.fullmatch(r"set lr=0.01: applied before step [\d,]+; it cannot be undone\n", live.out)


def test_what_is_refused_for_a_full_disk_is_no_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, refused in (("this net is not left, for " + UNSAVED, click.ClickException), ("lr=x", ValueError)):
        reply = Reply(ok=False, error=error)
        monkeypatch.setattr(ControlClient, "request", lambda *_, reply=reply: reply)
        with pytest.raises(refused, match=error):
            ask(tmp_path, Restart())


def test_data_that_changed_is_one_line(trained: Commands, few_names_file: Path) -> None:
    data = trained.cwd / "mine.txt"
    data.write_bytes(few_names_file.read_bytes())
    opened(new_run(trained.cwd / "runs/mine", SMALL, data), Order(0, 30, Stop())).run()
    data.write_bytes(b"other\nnames\nhere\n")
    for argv in ("resume mine --headless", "sample mine", "eval mine"):
        ended = trained.run(*argv.split())
        assert (ended.status, ended.out) == (2, "")
        assert ended.err == f"makemore: {data}: has changed since mine was started\n"


def test_a_run_finds_its_data_where_it_was_moved_to(trained: Commands, few_names_file: Path) -> None:
    before, after = trained.cwd / "before.txt", trained.cwd / "after.txt"
    before.write_bytes(few_names_file.read_bytes())
    opened(new_run(trained.cwd / "runs/moved", SMALL, before), Order(0, 30, Stop())).run()
    names = trained.run("sample", "moved").out
    before.rename(after)
    other = trained.cwd / "other.txt"
    other.write_text("other\nnames\nhere\n")

    ended = trained.run("sample", "moved")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"makemore: {before}: no such file; --data tells where moved finds it now\n"
    ended = trained.run("eval", "moved", "--data", "other.txt")
    assert (ended.status, ended.err) == (2, "makemore: --data other.txt: is not what moved was started with\n")
    assert trained.run("sample", "moved", "--data", "after.txt").out == names
    assert trained.run("resume", "moved", "--headless", "--data", "after.txt").status == 0
    assert trained.run("sample", "moved").status == 0  # who goes on with it is told once


def test_folders_and_files_whose_names_are_not_utf_8(trained: Commands, few_names_file: Path) -> None:
    folder = trained.cwd / os.fsdecode(b"jos\xe9")
    folder.mkdir()
    (folder / "names").write_bytes(few_names_file.read_bytes())
    ended = trained.run("train", "--headless", "--steps", "5", "--run", f"{folder}/there")
    assert ended.status == 0
    assert "saved in " in ended.err
    ended = trained.run("train", "--headless", "--run", "odd", "--data", f"{folder}/names")
    assert ended.status == 2
    assert ended.err.endswith("names: a name that is not UTF-8 cannot be written down\n")
    assert not (trained.cwd / "runs/odd").exists()
    odd = {"TMPDIR": str(folder), "LOGNAME": os.fsdecode(b"jos\xe9")}
    assert trained.run("train", "--headless", "--steps", "5", "--run", "odd", env=odd).status == 0


# Control


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("pause", Pause()),
        ("step", Step(1)),
        ("step 7", Step(7)),
        ("restart", Restart()),
        ("back", Back()),
        ("forth", Back(forth=True)),
        ("stop", Stop()),
        ("set lr=0.05 norm=none", Set({"lr": 0.05, "norm": "none"})),
    ],
)
def test_words_of_ctl(words: str, command: Command) -> None:
    assert command_of(words.split(), live=False) == command


@pytest.fixture
def live(makemore: Commands, few_names_file: Path) -> Iterator[ForkServerProcess]:
    """A run called live that another process trains."""
    folder = new_run(makemore.cwd / "runs/live", SMALL.replace({"steps": 10**9, "engine": "fast"}), few_names_file)
    trainer = trainer_process(folder)
    wait_for(lambda: rundir.read_state(folder) is not None, "a trainer")
    yield trainer
    trainer.kill()
    trainer.join()


def test_a_live_run_is_controlled_from_a_script(makemore: Commands, live: ForkServerProcess) -> None:
    def ctl(*words: str) -> str:
        ended = makemore.run("ctl", "live", *words)
        assert (ended.status, ended.err) == (0, "")
        return ended.out

    paused = re.fullmatch(r"pause: applied before step ([\d,]+)\n", ctl("pause"))
    assert paused
    at = int(paused[1].replace(",", ""))
    assert ctl("step", "5") == f"5 steps done: at step {at + 5:,}\n"
    folder = makemore.cwd / "runs/live"

    def stands_at(step: int) -> bool:
        snapshot = rundir.read_state(folder)
        return snapshot is not None and (snapshot.state, snapshot.step) == ("paused", step)

    wait_for(lambda: stands_at(at + 5), "five steps")
    assert ctl("set", "lr=0.5") == f"set lr=0.5: applied before step {at + 5:,}\n"
    assert ctl("set", "lr_decay_at=1").endswith(f"applied before step {at + 5:,}\n")
    assert ctl("set", "lr=0.2") == f"set lr=0.2: applied before step {at + 5:,}; decayed by now to 0.02\n"
    assert "applied" in ctl("checkpoint")
    for words in ("set", "gain=2"), ("restart",):
        anew = "a new net begins from the seed; makemore ctl live back undoes it"
        assert ctl(*words) == f"{' '.join(words)}: {anew}\n"
        wait_for(lambda: stands_at(1), "the new net")
    ended = makemore.run("ctl", "live", "set", "norm=group", "norm_groups=7")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "makemore: live: norm_groups=7: has to divide n_hidden=16 without a remainder\n"
    ended = makemore.run("resume", "live", "--headless")
    assert (ended.status, ended.err) == (
        2,
        f"makemore: live: is being trained already, by process {live.pid}; makemore attach shows it\n",
    )
    assert strict(makemore.run("show", "live", "--json").out)["state"] == "paused"  # type: ignore[index]
    ctl("resume")
    assert live.pid is not None
    os.kill(live.pid, signal.SIGSTOP)
    ended = makemore.run("ctl", "live", "pause", "--timeout", "0.2")
    os.kill(live.pid, signal.SIGCONT)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "makemore: live: no answer from its trainer in 0.2 s; it may still be applied\n"
    ctl("stop")
    live.join(30)
    assert live.exitcode == 0
    assert strict(makemore.run("show", "live", "--json").out)["state"] == "stopped"  # type: ignore[index]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("done", "it is finished; `makemore resume done` opens it with all its screens"),
        ("halfway", "it was stopped; `makemore resume halfway` goes on"),
        ("never", "its trainer is gone; `makemore resume never` begins again from the seed"),
    ],
)
def test_where_nobody_trains_a_run_control_says_how_to_go_on(makemore: Commands, run: str, said: str) -> None:
    ended = makemore.run("ctl", run, "pause")
    assert (ended.status, ended.out, ended.err) == (1, "", f"makemore: {run}: {said}\n")
    assert "torch" not in ended.loaded


def test_a_diverged_run_does_not_diverge_again_in_the_background(trained: Commands, few_names_file: Path) -> None:
    config = SMALL.replace({"norm": "none", "nonlinearity": "identity", "lr": 1e6})
    opened(new_run(trained.cwd / "runs/diverged", config, few_names_file)).run()
    ended = trained.run("resume", "diverged", "--detach")
    assert (ended.status, ended.out) == (1, "")
    told = "it diverged; `makemore resume diverged` opens it: D says what to change, u undoes what was"
    assert ended.err == f"makemore: diverged: {told}\n"


# Where the output goes


@pytest.mark.parametrize("argv", ["presets", "settings", "show done", "--help"])
def test_a_reader_that_leaves_early_is_no_error(place: Path, argv: str) -> None:
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -u -m app {argv} | head -1 > /dev/null"],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_file_that_finds_no_room_for_what_is_printed_is_told(makemore: Commands) -> None:
    ended = makemore.run("presets", most=100)
    assert ended.err.startswith("makemore: cannot write: File too large\n")


def test_an_old_locale_gets_what_it_can_show(place: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app", "show", "done"],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}, capture_output=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"lr 0.02 \\u2192 0.01" in ran.stdout
