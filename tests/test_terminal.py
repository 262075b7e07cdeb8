"""The terminal is always put back, and its loss ends the view only: a tiny app over the driver in real terminals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest
from textual.events import Key

from app.driver import Parser
from app.panel import sgr
from app.terminal import Exit, ascii_wanted, by_signal, in_one_line, light_wanted, sane
from tests.terminal import Terminal, environment

APP = [sys.executable, "-m", "tests.terminal_app"]
STUDIO = [sys.executable, "-m", "tests.canned"]
SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


def step(record: Path) -> int:
    return int(record.read_text().split()[0])


def trains_on(record: Path, steps: int = 20) -> Callable[[], bool]:
    """Whether the trainer did `steps` more since the call."""
    begin = step(record)
    return lambda: step(record) >= begin + steps


def says(record: Path, what: str) -> Callable[[], bool]:
    """Whether the trainer has noted this of its view."""
    return lambda: what in record.read_text()


@contextlib.contextmanager
def app_in_shell(
    record: Path, ending: str = "", shell: Sequence[str] = SHELL, columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """The app as a job of an interactive shell, whose prompt is `[shell]`."""
    with Terminal(shell, columns=columns, rows=rows, env={"PS1": "[shell] "}) as terminal:
        terminal.wait_for("[shell]")
        terminal.type(f"{' '.join(APP)} {record}{ending}\r")
        yield terminal


# The ways to end


@pytest.mark.parametrize("modern", [False, True])
def test_quitting_leaves_the_terminal_as_it_was(record: Path, modern: bool) -> None:
    with Terminal([*APP, str(record)], modern=modern) as terminal:
        terminal.wait_for("ready")
        terminal.wait_until(lambda: not modern or "resize reports" in terminal.not_restored())  # one follows
        assert set(terminal.not_restored()) > {"alternate screen", "cursor", "attributes"}
        terminal.press("q")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []
        assert terminal.text == ""


def test_nothing_of_the_picture_is_left_behind_where_the_window_grew(record: Path) -> None:
    """tmux 3.2 and 3.3 leave wide rows of an alternate screen above the shell's: it has to be blank when it is left."""
    with app_in_shell(record, " --idle", columns=60, rows=5) as terminal:
        terminal.wait_for("ready")
        terminal.resize(100, 30)
        terminal.wait_until(shows(terminal, 100, 30))
        terminal.press("q")
        terminal.wait_until(lambda: terminal.text.count("[shell]") == 2, what="the prompt")
        assert terminal.left == ""
        assert "tests.terminal_app" in terminal.text.replace("\n", "")  # the shell's own screen is as it was


@pytest.mark.parametrize(("key", "status", "said"), [("e", 7, ""), ("m", 0, "saved in runs/a"), ("x", 9, "")])
def test_exit_status_and_message_of_the_app_reach_the_shell(record: Path, key: str, status: int, said: str) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.press(key)
        assert terminal.wait_end() == status
        assert terminal.not_restored() == []
        assert terminal.text == said


@pytest.mark.parametrize(
    ("key", "where", "message"),
    [
        ("h", "key_h", "RuntimeError: cannot handle \\x1b[31mthis"),
        ("d", "render", "RuntimeError: cannot draw"),
        ("w", "fail", "ValueError: n=3: has to be odd"),
        ("t", "fail", "ValueError: n=3: has to be odd"),
    ],
    ids=["handler", "drawing", "worker", "thread"],
)
def test_an_error_is_one_line_and_never_status_0(tmp_path: Path, key: str, where: str, message: str) -> None:
    with Terminal([*APP, str(tmp_path / "record")], columns=200, env={"TMPDIR": str(tmp_path)}) as terminal:
        terminal.wait_for("ready")
        terminal.press(key)
        assert terminal.wait_end() == Exit.ERROR
        assert terminal.not_restored() == []
        (details,) = tmp_path.glob("makemore-error-*.txt")
        assert terminal.text == f"makemore: {message}; details in {details}"
        assert f"in {where}\n" in details.read_text()
        assert details.stat().st_mode & 0o777 == 0o600


def test_a_panic_is_an_error(record: Path) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.press("p")
        assert terminal.wait_end() == Exit.ERROR
        assert terminal.not_restored() == []
        assert terminal.text == "in panic"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1])
def test_a_signal_ends_the_app_and_is_its_exit_status(record: Path, number: signal.Signals) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.signal(number)
        terminal.signal(number)  # as `timeout` sends it: to the process, then to its group
        assert terminal.wait_end() == by_signal(number)
        assert terminal.not_restored() == []
        assert terminal.text == ""


def test_a_signal_ends_an_app_whose_handler_waits_for_ever(record: Path) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.press("a")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait_end() == by_signal(signal.SIGTERM)
        assert terminal.not_restored() == []


def test_insisting_ends_an_app_that_is_blocked(record: Path) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.press("b")
        terminal.wait_for("blocked")

        def ends() -> bool:
            terminal.signal(signal.SIGTERM)
            return terminal.exit_status() is not None

        terminal.wait_until(ends)
        assert terminal.wait_end() == -signal.SIGTERM
        assert terminal.not_restored() == []


def test_reset_terminal_after_a_kill(record: Path) -> None:
    kill_and_wait = f"{' '.join(APP)} {record}; read line; "
    reset = f"{sys.executable} -c 'from app.terminal import reset_terminal; reset_terminal()'"
    with Terminal(["sh", "-c", kill_and_wait + reset]) as terminal:
        terminal.wait_for("ready")
        terminal.press("k")
        terminal.wait_until(lambda: not record.exists() or "Killed" in terminal.text)
        assert set(terminal.not_restored()) > {"alternate screen", "cursor", "kitty keys", "attributes"}
        terminal.type("\n")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []


def test_a_fork_that_exits_leaves_its_parents_terminal_alone(record: Path) -> None:
    with Terminal([*APP, str(record), "--idle"]) as terminal:
        terminal.wait_for("ready")
        terminal.press("f", "1")
        terminal.wait_for("got 1")
        assert "alternate screen" in terminal.not_restored()


# Suspending


def test_suspended_by_ctrl_z_and_shown_again(record: Path) -> None:
    with app_in_shell(record) as terminal:
        terminal.wait_for("ready")
        terminal.press("ctrl+z")
        terminal.wait_for("Stopped")
        assert terminal.not_restored() == []
        terminal.type("fg\r")
        terminal.wait_for("ready, step")
        terminal.wait_for("22 0123")
        terminal.press("q")
        terminal.wait_until(lambda: terminal.text.rstrip().endswith("[shell]"), what="the prompt")
        terminal.type("echo status $?\r")
        terminal.wait_for("status 0")


def test_in_the_background_it_trains_unseen_and_comes_back(record: Path) -> None:
    with app_in_shell(record, " &") as terminal:
        terminal.wait_until(lambda: record.exists() and record.read_text() != "")
        terminal.wait_until(trains_on(record))
        assert "alternate screen" not in terminal.not_restored()
        terminal.type("fg\r")
        terminal.wait_for("22 0123")
        terminal.press("ctrl+z")
        terminal.wait_for("Stopped")
        terminal.type("bg\r")
        terminal.wait_until(trains_on(record))
        terminal.type("fg\r")
        terminal.wait_for("ready, step")
        terminal.press("q")
        terminal.wait_for("[shell]")


def test_suspending_without_a_shell_changes_nothing(record: Path) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.press("ctrl+z")
        terminal.wait_until(lambda: terminal.sent.count(b"\x1b[?1049h") == 2)
        terminal.wait_for("22 0123")
        terminal.press("q")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []


def test_stray_continues_start_nothing_twice(record: Path) -> None:
    with Terminal([*APP, str(record), "--idle"]) as terminal:
        terminal.wait_for("22 0123")
        threads, raw = terminal.threads(), terminal.attributes()
        terminal.set_attributes(terminal.attributes_before)  # as a shell does while the app is stopped
        for _ in range(20):
            terminal.signal(signal.SIGCONT)
        terminal.wait_until(lambda: terminal.attributes() == raw)
        terminal.press("1")
        terminal.wait_for("got 1")
        terminal.wait_for("22 0123")
        assert terminal.threads() == threads
        terminal.press("q")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []


# Losing the terminal


def test_the_view_ends_when_the_terminal_closes_and_training_goes_on(tmp_path: Path) -> None:
    cases = list(product([True, False], repeat=3))
    with contextlib.ExitStack() as stack:
        terminals = []
        for controlling, ignore_hup, idle in cases:
            command = [*APP, str(tmp_path / f"{controlling}{ignore_hup}{idle}"), *["--idle"] * idle]
            terminals.append(stack.enter_context(Terminal(command, controlling=controlling, ignore_hup=ignore_hup)))
        for case, terminal in zip(cases, terminals, strict=True):
            record = tmp_path / "{}{}{}".format(*case)
            terminal.wait_for("ready")
            terminal.close()
            terminal.wait_until(says(record, "view ended"), what=f"{case}")
            terminal.signal(signal.SIGHUP)  # a shell passes on the one it got
            terminal.wait_until(trains_on(record))
            assert {terminal.fd(number) for number in (0, 1, 2)} == {"/dev/null"}
            assert terminal.threads() == 2
            assert terminal.exit_status() is None
        before = [terminal.cpu_seconds() for terminal in terminals]
        time.sleep(0.5)  # the stretch that is measured
        burnt = [terminal.cpu_seconds() - cpu for terminal, cpu in zip(terminals, before, strict=True)]
        assert max(burnt) < 0.25, burnt
        for terminal in terminals:
            terminal.signal(signal.SIGTERM)
            assert terminal.wait_end() == -signal.SIGTERM


def test_a_loss_that_is_seen_before_the_signal_that_tells_of_it_is_one_loss(record: Path) -> None:
    with Terminal([*APP, str(record), "--late-hup"], controlling=False) as terminal:
        terminal.wait_for("ready")
        terminal.close()
        terminal.wait_until(says(record, "view ended"))
        terminal.wait_until(trains_on(record))


@pytest.mark.skipif(shutil.which("dash") is None, reason="bash sends SIGTERM too, which is obeyed")
def test_training_goes_on_when_the_shell_of_a_suspended_run_is_closed(record: Path) -> None:
    with app_in_shell(record, shell=["dash", "-i"]) as terminal:
        terminal.wait_for("ready")
        terminal.press("ctrl+z")
        terminal.wait_for("Stopped")
        terminal.close()
        terminal.wait_until(says(record, "view ended"))
        terminal.wait_until(trains_on(record))
        os.kill(int(record.read_text().split()[-1]), signal.SIGTERM)


def test_told_to_end_while_the_terminal_closes(record: Path) -> None:
    with Terminal([*APP, str(record)]) as terminal:
        terminal.wait_for("ready")
        terminal.close()
        terminal.signal(signal.SIGTERM)
        # by the app, or the trainer after it
        assert terminal.wait_end() in (by_signal(signal.SIGTERM), -signal.SIGTERM)


@pytest.mark.parametrize("ending", ["q", "SIGTERM"])
def test_a_stalled_terminal_blocks_nothing(record: Path, ending: str) -> None:
    with Terminal([*APP, str(record)], columns=200, rows=50) as terminal:
        terminal.wait_for("ready")
        with terminal.stalled():
            terminal.wait_until(says(record, "view behind"))
            terminal.wait_until(trains_on(record))
            if ending == "q":
                terminal.press("q")
            else:
                terminal.signal(signal.SIGTERM)
            status = terminal.wait_end()
        assert status == (0 if ending == "q" else by_signal(signal.SIGTERM))
        terminal.wait_end()  # now somebody reads what was left
        assert terminal.not_restored() == []
        assert terminal.text == ""


def test_after_a_stall_the_picture_is_whole(record: Path) -> None:
    with Terminal([*APP, str(record)], columns=200, rows=50) as terminal:
        terminal.wait_for("ready")
        with terminal.stalled():
            terminal.wait_until(says(record, "view behind"))
        terminal.wait_until(says(record, "view shown"))
        at = step(record)
        terminal.wait_until(lambda: int(terminal.lines[0].split()[-1]) > at)
        assert shows(terminal, 200, 50)()


# Sizes


def shows(terminal: Terminal, columns: int, rows: int) -> Callable[[], bool]:
    """Whether all below the first line is what the app draws at this size."""
    grid = [f"{row:3} {'0123456789' * (columns // 10)}"[:columns].rstrip() for row in range(rows - 1)]
    return lambda: terminal.lines[1:] == grid


@pytest.mark.parametrize("modern", [False, True])
def test_the_picture_follows_the_size(record: Path, modern: bool) -> None:
    misleading = {"COLUMNS": "40", "LINES": "10"}
    with Terminal([*APP, str(record), "--idle"], modern=modern, env=misleading) as terminal:
        for columns, rows in [(80, 24), (1, 1), (220, 60), (37, 5), (100, 30)]:
            terminal.resize(columns, rows)
            terminal.wait_until(shows(terminal, columns, rows))


def test_a_terminal_that_knows_no_size_counts_as_80x24(record: Path) -> None:
    with Terminal([*APP, str(record), "--idle"], columns=0, rows=0) as terminal:
        terminal.wait_until(lambda: b" 22 0123456" in terminal.sent and b" 23 0123456" not in terminal.sent)


@pytest.mark.torture
def test_a_thousand_resizes(record: Path) -> None:
    with Terminal([*APP, str(record), "--idle"]) as terminal:
        terminal.wait_until(shows(terminal, 80, 24))
        memory = terminal.rss_mb()
        for count in range(1000):
            columns, rows = 1 + count * 37 % 220, 1 + count * 23 % 60
            terminal.resize(columns, rows)
            terminal.read_for(0.01)
        terminal.resize(120, 40)
        terminal.wait_until(shows(terminal, 120, 40), seconds=30)
        assert terminal.rss_mb() - memory < 15


# What is typed and printed


def test_noise_on_the_line_is_survived(record: Path) -> None:
    noise = b"\x1b[:1~ \x1b[1:R \x1b[999999999999u \x1b[<9;9;9M \xff\xfe\xc3 \x1b[?2026;9$y \x1b[\x00\x1b]0;?"
    with Terminal([*APP, str(record), "--idle"]) as terminal:
        terminal.wait_for("ready")
        terminal.type(noise)
        terminal.press("1")
        terminal.wait_for("got 1")
        terminal.press("q")
        assert terminal.wait_end() == 0


def test_what_an_encoding_lacks_is_a_question_mark(record: Path) -> None:
    with Terminal([*APP, str(record), "--idle"], env={"PYTHONIOENCODING": "ascii"}) as terminal:
        terminal.wait_for("ready")
        terminal.press("u")
        terminal.wait_for("?n?code ??")


def test_a_log_of_stderr_gets_no_escape_codes(record: Path, tmp_path: Path) -> None:
    with Terminal([*APP, str(record)], stderr=tmp_path / "log", env={"TMPDIR": str(tmp_path)}) as terminal:
        terminal.wait_for("ready")
        terminal.press("h")
        assert terminal.wait_end() == Exit.ERROR
        assert terminal.not_restored() == []
        said = (tmp_path / "log").read_text()
        assert said.startswith("makemore: RuntimeError: cannot handle \\x1b[31mthis; details in")


# Words and tables


def test_an_error_is_said_in_one_printable_line() -> None:
    assert in_one_line(ValueError("lr=0:\n has\tto be \x1b[31m> 0")) == "ValueError: lr=0: has to be \\x1b[31m> 0"
    assert in_one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(in_one_line(ValueError("x" * 1000))) == 200


def test_sane_attributes_are_cooked() -> None:
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    raw: list[int | list[bytes | int]] = [0, 0, before[2], 0, *before[4:]]
    termios.tcsetattr(slave, termios.TCSANOW, sane(raw))
    after = termios.tcgetattr(slave)
    assert after[:4] == before[:4]
    os.close(master)
    os.close(slave)


def test_the_command_line_can_ask_for_a_terminal_without_loading_textual() -> None:
    code = "import sys, app.terminal; sys.exit('textual' in sys.modules or 'rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment({}), cwd=Path(__file__).parent.parent)


# What it says of its background


@pytest.mark.parametrize("end", ["\x07", "\x1b\\"])
def test_what_the_terminal_says_of_its_background_is_no_key(end: str) -> None:
    for said, light in (("rgb:ffff/fafa/f0f0", 1), ("rgba:ff/ff/ff/ff", 1), ("rgb:1e1e/1e1e/1e1e", 0), ("", 0)):
        text = f"x\x1b]11;{said}{end}y"
        for cut in range(len(text)):
            seen: list[bool] = []
            parser = Parser(on_light=lambda seen=seen: seen.append(True))  # type: ignore[misc]
            assert keys(parser, text[:cut], text[cut:]) == ["x", "y"]
            assert len(seen) == light
    assert keys(Parser(), "x\x1b]11;rgb:ff", "quit") == [*"xquit"]  # cut short


@pytest.mark.parametrize("size", ["48;30;100;0;0", "48;0;0;0;0"])
def test_a_terminal_without_pixels_may_have_a_mouse(size: str) -> None:
    assert keys(Parser(), f"\x1b[{size}t", "\x1b[<35;5;5M", "x") == ["x"]


def test_escape_is_a_key_once_nothing_followed() -> None:
    parser = Parser()
    assert keys(parser, "\x1b") == keys(parser, "[A", "\x1b")[1:] == []
    deadline = time.monotonic() + 10
    while not (came := list(parser.tick())):
        assert time.monotonic() < deadline
    assert [event.key for event in came if isinstance(event, Key)] == ["escape"]


def keys(parser: Parser, *pieces: str) -> list[str]:
    """The keys that the pieces are taken for."""
    return [event.key for piece in pieces for event in parser.feed(piece) if isinstance(event, Key)]


def test_the_studio_takes_light_colours_where_the_terminal_says_so() -> None:
    blue = [sgr("activation", "dark", "256").encode(), sgr("activation", "light", "256").encode()]
    with Terminal(STUDIO, ground=b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\", columns=160, rows=48) as terminal:
        terminal.wait_until(lambda: blue[1] in terminal.sent)
        terminal.wait_for("parameters")
        assert "attempt" not in terminal.text  # no letter of the answer was a key
    with Terminal(STUDIO, ground=b"\x1b]11;rgb:0000/0000/0000\x1b\\") as terminal:
        terminal.wait_until(lambda: terminal.sent.count(blue[0]) > 2)
        assert blue[1] not in terminal.sent
    for env in ({"MAKEMORE_THEME": "dark"}, {"NO_COLOR": "1"}, {"TERM": "linux"}):
        with Terminal(STUDIO, env=env) as terminal:
            terminal.wait_for("act")
            assert b"\x1b]11" not in terminal.sent


# What is known of it beforehand


@pytest.mark.parametrize(
    ("locale", "wanted"),
    [
        ({"LANG": "C"}, True),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "POSIX"}, True),
        ({"LANG": "C", "LC_CTYPE": "de_DE.utf8"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # what Python makes of LANG=C
        ({"LC_CTYPE": "C.UTF-8"}, False),  # and of no locale at all
        ({"LC_CTYPE": "C", "LC_ALL": "C.UTF-8"}, False),
    ],
)
def test_ascii_where_the_locale_has_no_utf_8(locale: dict[str, str], wanted: bool) -> None:
    assert ascii_wanted(locale | {"TERM": "xterm-256color"}) == wanted
    assert ascii_wanted(locale | {"TERM": "linux"})


@pytest.mark.parametrize(
    ("told", "light"),
    [
        ({}, None),
        ({"COLORFGBG": "15;0"}, False),
        ({"COLORFGBG": "12;8"}, False),
        ({"COLORFGBG": "0;15"}, True),
        ({"COLORFGBG": "0;default;7"}, True),
        ({"COLORFGBG": "0;default"}, None),
        ({"COLORFGBG": "0;15", "MAKEMORE_THEME": "dark"}, False),
        ({"COLORFGBG": "15;0", "MAKEMORE_THEME": "light"}, True),
    ],
)
def test_light_where_that_is_chosen_or_told(told: dict[str, str], light: bool | None) -> None:
    assert light_wanted(told) is light


def test_a_theme_that_there_is_not_is_told_before_anything_begins(record: Path) -> None:
    with Terminal([*APP, str(record)], env={"MAKEMORE_THEME": "blue"}) as terminal:
        assert terminal.wait_end() == Exit.BAD_INPUT
        assert terminal.text == "makemore: MAKEMORE_THEME=blue: has to be dark or light"
