"""A real pseudo-terminal with a person at it: start a command, type, wait for text on the screen, pull the plug.

Stands alone because every test of the real program needs it, and because a terminal emulated inside the program could
not tell whether the terminal was put back. Nothing here sleeps for a state: waiting means reading until it is there.
Linux only, since it looks into /proc.

    with Terminal([sys.executable, "-m", "app"], columns=80, rows=24) as terminal:
        terminal.wait_for("training")
        terminal.press("q", "enter")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

ROOT = Path(__file__).parent.parent

KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "space": " ",
    "backspace": "\x7f",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
}
MODES = {
    7: "line wrap",
    25: "cursor",
    1000: "mouse",
    1003: "mouse motion",
    1004: "focus",
    1006: "mouse as text",
    1015: "mouse as decimals",
    1016: "mouse pixels",
    1049: "alternate screen",
    2004: "bracketed paste",
    2048: "resize reports",
}
ON_AT_START = {7, 25}

# Runs in the new process, so that nothing of the test's own process is forked.
LAUNCH = """
import fcntl, os, signal, sys, termios
controlling, ignore_hup, *argv = sys.argv[1:]
if controlling == "1":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if ignore_hup == "1":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(argv[0], argv)
"""

# What pyte would print instead of obeying: private sequences, questions about modes, device control, titles.
UNKNOWN = re.compile(
    rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1bP[^\x1b]*\x1b\\|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
)
UNFINISHED = re.compile(rb"\x1b(?:\[[\x20-\x3f]*|[P\]][^\x07\x1b]*\x1b?)?$")


class Terminal:
    """A command in a pseudo-terminal of its own, killed at the end of the `with` if it has not ended by itself.

    `controlling`: whether the terminal is the command's controlling one; `ignore_hup`: start as nohup does;
    `modern`: answer as terminals do that have synchronised output and report their size in band;
    `ground`: what it answers to the question for its background;
    `env`: added to an environment without the tester's own TERM, NO_COLOR, COLUMNS and the like;
    `stdout`, `stderr`: a file to send these to, instead of the terminal.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        controlling: bool = True,
        ignore_hup: bool = False,
        modern: bool = False,
        ground: bytes = b"",
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._covered = self.screen  # the normal screen while the alternate one is shown
        self.left = ""
        """What the alternate screen showed when it was left."""
        self._unfinished = b""
        self.sent = bytearray()
        self.modern, self.ground = modern, ground
        self.closed = False
        self._reading = True
        self._master, self._slave = os.openpty()
        self._tell_size()
        self.attributes_before = self.attributes()
        with contextlib.ExitStack() as files:
            out, err = (files.enter_context(path.open("wb")) if path else self._slave for path in (stdout, stderr))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LAUNCH, "01"[controlling], "01"[ignore_hup], *argv],
                stdin=self._slave,
                stdout=out,
                stderr=err,
                env=environment(env or {}),
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.close()

    # The screen

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without trailing blanks."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip("\n")

    def wait_for(self, text: str, seconds: float = 10) -> None:
        """Read until `text` is on the screen."""
        self.wait_until(lambda: text in self.text, seconds, f"{text!r} on the screen")

    def wait_until(self, condition: Callable[[], bool], seconds: float = 10, what: str = "the condition") -> None:
        """Read until the condition holds; fails with the screen as it is then, or at once where the command ended.

        Goes on after `close`, when what the command left behind is looked at.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            ended = not self.closed and self.exit_status() is not None
            if not self._read(0.02) and (ended or time.monotonic() > deadline) and not condition():
                why = f"the command ended with {self.exit_status()}" if ended else f"not within {seconds} s"
                raise AssertionError(f"{what}: {why}; the screen:\n{self.text}")

    def read_for(self, seconds: float) -> int:
        """Read for a stretch of time, where time itself is what is measured; the number of bytes that came."""
        before, deadline = len(self.sent), time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read(0.02)
        return len(self.sent) - before

    def _read(self, seconds: float) -> bool:
        """Take in what the command sends next; whether anything came."""
        if self.closed or not self._reading or not select.select([self._master], [], [], seconds)[0]:
            if self.closed or not self._reading:
                time.sleep(min(seconds, 0.005))
            return False
        data = os.read(self._master, 1 << 16)
        self.sent += data
        if self.modern:
            self._answer(data)
        if self.ground and b"\x1b]11;?" in data:
            self.type(self.ground)
        data = UNKNOWN.sub(b"", self._unfinished + data)
        tail = UNFINISHED.search(data)
        self._unfinished = data[tail.start() :] if tail else b""
        self._draw(data[: tail.start()] if tail else data)
        return True

    def _draw(self, data: bytes) -> None:
        """Feed the emulator, with the alternate screen that it does not have."""
        for part in re.split(rb"(\x1b\[\?1049[hl])", data):
            if part == b"\x1b[?1049h":
                self.screen = pyte.Screen(self._covered.columns, self._covered.lines)
            elif part == b"\x1b[?1049l":
                self.left = self.text if self.screen is not self._covered else self.left
                self._covered.resize(self.screen.lines, self.screen.columns)
                self.screen = self._covered
            else:
                self._stream.feed(part)
                continue
            self._stream = pyte.ByteStream(self.screen)

    # The person

    def press(self, *keys: str) -> None:
        """Characters, names of KEYS, or ctrl+x."""
        for key in keys:
            control = re.fullmatch(r"ctrl\+(.)", key)
            self.type(chr(ord(control[1].upper()) & 0x1F) if control else KEYS.get(key, key))

    def type(self, text: str | bytes) -> None:
        """Send text as it is."""
        os.write(self._master, text if isinstance(text, bytes) else text.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._tell_size()
        if self.modern and self._modes().get(2048):
            self.type(f"\x1b[48;{rows};{columns};{rows * 20};{columns * 10}t")

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Nobody reads what the command sends, as with a frozen link; waiting still works."""
        self._reading = False
        try:
            yield
        finally:
            self._reading = True

    def close(self) -> None:
        """Pull the plug, as a dropped connection does."""
        if not self.closed:
            self.closed = True
            os.close(self._slave)
            os.close(self._master)

    def _tell_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _answer(self, data: bytes) -> None:
        for mode in re.findall(rb"\x1b\[\?(2026|2048)\$p", data):
            self.type(b"\x1b[?" + mode + b";2$y")
        if b"\x1b[?2048h" in data:
            self.resize(self.screen.columns, self.screen.lines)

    # The process

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def exit_status(self) -> int | None:
        """None while the command runs; minus the signal's number where one killed it."""
        return self._process.poll()

    def wait_end(self, seconds: float = 10) -> int:
        """Read until the command has ended, and what it sent last; its exit status."""
        deadline = time.monotonic() + seconds
        while (status := self.exit_status()) is None:
            if not self._read(0.01) and time.monotonic() > deadline:
                raise AssertionError(f"still running after {seconds} s; the screen:\n{self.text}")
        while self._read(0):
            pass
        return status

    def cpu_seconds(self) -> float:
        """Processor time used so far, by all threads."""
        user, system = self._stat()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def fd(self, number: int) -> str:
        """What one of its file descriptors is open on."""
        return os.readlink(f"/proc/{self.pid}/fd/{number}")

    def rss_mb(self) -> float:
        """Memory resident now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _stat(self) -> list[str]:
        """The fields of /proc/PID/stat from the state on."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()

    # Whether all was put back

    def not_restored(self) -> list[str]:
        """What the command left other than it found it: modes, the keyboard protocol, terminal attributes."""
        left = [MODES.get(mode, f"mode {mode}") for mode, on in self._modes().items() if on != (mode in ON_AT_START)]
        if self.sent.count(b"\x1b[<u") < len(re.findall(rb"\x1b\[>\d+u", self.sent)):
            left.append("kitty keys")
        if self.attributes() != self.attributes_before:
            left.append("attributes")
        return left

    def attributes(self) -> list[int]:
        """How the terminal treats input, output, control and lines now."""
        return [flags for flags in termios.tcgetattr(self._slave)[:4] if isinstance(flags, int)]

    def set_attributes(self, flags: list[int]) -> None:
        """Change them behind the command's back."""
        termios.tcsetattr(self._slave, termios.TCSANOW, [*flags, *termios.tcgetattr(self._slave)[4:]])

    def _modes(self) -> dict[int, bool]:
        """Every private mode that was switched, and whether it is on now."""
        modes = {}
        for numbers, switch in re.findall(rb"\x1b\[\?([0-9;]+)([hl])", self.sent):
            modes.update({int(number): switch == b"h" for number in numbers.split(b";")})
        return modes


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The tester's environment without what would change how a program draws, and a well-known terminal."""
    drawing = ("TERM", "NO_COLOR", "FORCE_COLOR", "COLOR", "MAKEMORE_THEME", "COLUMNS", "LINES", "LANG", "LC_")
    drawing += ("TEXTUAL", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drawing)}
    return kept | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"} | dict(more)
