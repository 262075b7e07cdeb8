"""The terminal and the exit status as the command line sees them: find it, put it back, outlive it, say what failed.

Stands apart from the driver because commands without a screen need these too, without loading textual.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | a check failed, the doctor found something, a run diverged, did not answer, or something could not be written |
| 2 | bad input, or no terminal where one is needed |
| 3 | an unexpected error; the details are in the file that the message names |
| 4 | the terminal was lost while only a view ran |
| 128 + n | ended by signal n: 129 SIGHUP, 130 SIGINT (ctrl-c), 131 SIGQUIT, 143 SIGTERM |
"""

from __future__ import annotations

import errno
import os
import platform
import select
import signal
import sys
import tempfile
import termios
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType
from typing import Any

from makemore_core.command import Channel, Stop
from makemore_core.config import printable


class Exit(IntEnum):
    """The exit statuses of every command; a signal's is `by_signal`."""

    DONE = 0
    TROUBLE = 1
    BAD_INPUT = 2
    ERROR = 3
    LOST = 4


def by_signal(number: int) -> int:
    """The exit status after the signal, as shells count: 143 for SIGTERM."""
    return 128 + number


# Ends whatever textual may have begun. Kitty's keyboard stack belongs to the alternate screen, so it goes first.
LEAVE = (
    "\x1b[?2026l"  # synchronised output
    "\x1b[?1004l\x1b[?2004l\x1b[?2048l"  # focus, bracketed paste, reports of the size
    "\x1b[<u\x1b[0m\x1b[?7h"  # kitty keys, colours, line wrap on
    "\x1b[?1049l\x1b[?25h"  # alternate screen, cursor on
)
SOFT_RESET = "\x1b[!p"
DARK = ("0", "1", "2", "3", "4", "5", "6", "8")
"""The dark ones of 16 colours, as vim takes them."""


def require_terminal(instead: str) -> None:
    """Raises ValueError where no full-screen view can be shown: no terminal, one that knows no escape codes, no such
    theme.

    `instead`: the command that does without.
    """
    for name, stream in (("stdin", sys.__stdin__), ("stdout", sys.__stdout__)):
        if stream is None or stream.closed or not stream.isatty():
            raise ValueError(f"{name} is not a terminal, and the studio needs one; `makemore {instead}` does not")
    if is_dumb():
        raise ValueError(f"TERM=dumb: a terminal that cannot show the studio; `makemore {instead}` needs no more")
    light_wanted()


def is_dumb() -> bool:
    """Whether the terminal knows no escape codes."""
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")


def ascii_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal is likely to show nothing but ASCII: by the locale, or a terminal with few glyphs."""
    chosen = [environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if chosen[0] == "" and chosen[1] == "C.UTF-8" and chosen[2] in ("C", "POSIX"):
        del chosen[1]  # Python's own doing (PEP 538)
    encoding = next(filter(None, chosen), "")
    return "utf" not in encoding.lower() or environ.get("TERM", "") in ("linux", "dumb", "vt100")


def light_wanted(environ: Mapping[str, str] = os.environ) -> bool | None:
    """Whether the background is light: by $MAKEMORE_THEME, or the colour of 16 that some terminals tell in $COLORFGBG.

    None where neither tells. Raises ValueError for a theme that there is not.
    """
    if theme := environ.get("MAKEMORE_THEME"):
        if theme not in ("dark", "light"):
            raise ValueError(f"MAKEMORE_THEME={theme}: has to be dark or light")
        return theme == "light"
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return background not in DARK if background.isdecimal() else None


def reset_terminal() -> None:
    """Put back a terminal that a killed program left raw. Raises ValueError where stdout is not a terminal."""
    try:
        attributes = termios.tcgetattr(1)
    except termios.error:
        raise ValueError("stdout is not a terminal: nothing to reset") from None
    termios.tcsetattr(1, termios.TCSANOW, sane(attributes))
    termios.tcflush(1, termios.TCIFLUSH)
    os.write(1, (LEAVE + SOFT_RESET).encode())


def outlive_terminal() -> None:
    """Go on without the terminal, which went away: it is no longer written to or read, and SIGHUP is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if is_gone(fd):
            os.dup2(nothing, fd)
    os.close(nothing)


def is_gone(fd: int) -> bool:
    """Whether the other end of the file descriptor hung up, as that of a closed terminal has."""
    terminal = select.poll()
    terminal.register(fd, 0)
    return bool(terminal.poll(0))


@contextmanager
def stopped_by_signals(channel: Channel) -> Iterator[list[int]]:
    """Meanwhile the signals that end a program ask the run to stop instead; what was caught is in the list.

    Where SIGHUP tells that the terminal is gone, the run goes on without it.
    """
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        channel.send(Stop())

    def hung_up(number: int, frame: FrameType | None) -> None:
        if any(is_gone(fd) for fd in (0, 1, 2)):
            outlive_terminal()
        else:
            stop(number, frame)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: hung_up}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup, or the terminal went before
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield caught
    finally:
        for number, was in before.items():
            if signal.getsignal(number) == handlers[number]:
                signal.signal(number, was)


@contextmanager
def without_terminal_if_lost(lost: list[OSError] | None = None) -> Iterator[None]:
    """What cannot be shown does not stop the training.

    Where the terminal or the reader of a pipe is gone it is not missed later either; a full disk may have room again,
    and what it has cost goes into `lost`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EIO, errno.EPIPE):
            outlive_terminal()
        elif lost is not None:
            lost.append(error)


def sane(attributes: list[Any]) -> list[Any]:
    """Terminal attributes after which lines are read, echoed and ended as usual; the rest is kept."""
    iflag, oflag, cflag, lflag, input_speed, output_speed, characters = attributes
    iflag = iflag & ~(termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXOFF) | termios.ICRNL | termios.IXON
    lflag |= termios.ISIG | termios.ICANON | termios.IEXTEN
    lflag |= termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHOCTL | termios.ECHOKE
    wanted = {
        termios.VINTR: b"\x03",
        termios.VQUIT: b"\x1c",
        termios.VERASE: b"\x7f",
        termios.VKILL: b"\x15",
        termios.VEOF: b"\x04",
        termios.VSTART: b"\x11",
        termios.VSTOP: b"\x13",
        termios.VSUSP: b"\x1a",
    }
    characters = [wanted.get(index, character) for index, character in enumerate(characters)]
    return [iflag, oflag | termios.OPOST | termios.ONLCR, cflag, lflag, input_speed, output_speed, characters]


def report(error: BaseException) -> None:
    """Tell a person of an unexpected error in one line on stderr; the traceback goes into a file that it names."""
    tell(f"makemore: {in_one_line(error)}; details in {write_details(error)}\n")


def tell(text: str) -> None:
    """Write on stderr, if there is still somebody to tell."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def in_one_line(error: BaseException) -> str:
    """`ValueError: what it says`, without line breaks and control characters, cut at 200 characters."""
    said = printable(" ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":"))
    return said if len(said) <= 200 else said[:199] + "…"


def write_details(error: BaseException) -> str:
    """The traceback in a new file that only its owner can read; its path, or why there is none."""
    try:
        file, path = tempfile.mkstemp(prefix="makemore-error-", suffix=".txt")
        with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as details:
            details.write(f"{' '.join(sys.argv)}\npython {platform.python_version()}, {platform.platform()}\n\n")
            details.write("".join(traceback.format_exception(error)))
    except OSError as failed:
        return f"no file ({failed.strerror})"
    return path
