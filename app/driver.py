"""The Textual driver that always puts the terminal back, and `run_app`, which outlives the terminal's loss.

Stands alone because it leans on private parts of one Textual version. It replaces both of Textual's threads by
callbacks of the event loop over a non-blocking handle: an input thread that spins at the end of file, and a writer
thread whose full queue blocks the loop, make the stock driver burn a core or hang when a terminal goes away.
"""

from __future__ import annotations

import asyncio
import atexit
import codecs
import functools
import io
import os
import re
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from rich.console import Console
from textual import constants, events
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.message import Message
from textual.worker import WorkerFailed

from app.terminal import LEAVE, Exit, by_signal, is_gone, outlive_terminal, report, tell

Result = TypeVar("Result")

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
HANDLED = (*ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

PATIENCE = 0.3
"""Seconds that drawings may queue before newer ones are left out; once they move the whole screen is drawn again."""
GRACE = 0.7
"""Seconds that the app has to end by itself once it was told to."""
INSISTING = 1.0
"""Seconds after which another signal is no longer an echo of the first one, and ends the process at once."""

ENTER = (
    "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no line wrap
    "\x1b[?1004h\x1b[?2004h"  # focus, bracketed paste
)
QUESTIONS = "\x1b[?2026$p\x1b[?2048$p"
"""Does it know synchronised output, can it report its size? Two that do not know such questions print their end."""
ASKABLE = os.environ.get("TERM_PROGRAM") != "Apple_Terminal" and os.environ.get("TERM") != "linux"
GROUND = "\x1b]11;?\x1b\\"
"""What colour is its background? Terminals that do not know the question keep quiet, but for the Linux console."""
KITTY_KEYS = "\x1b[>25u"
CLEAR = b"\x1b[0m\x1b[2J"
"""Sent before the alternate screen is left: tmux 3.2 and 3.3 leave wide rows of it above the shell's where the window
was made wider meanwhile."""
CANCEL = b"\x18"
"""Ends a sequence that was cut."""


class TerminalDriver(LinuxDriver):
    """Input and output of one app on one terminal; all of it happens on the event loop.

    What ended the app, if it was not the app: `lost`, its terminal went away; `signal`, or 0; `error`, one that its
    messages did not raise.
    """

    def __init__(
        self,
        app: App[object],
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        on_light: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self.lost = False
        self.signal = 0
        self.error: BaseException | None = None
        self._on_lost = on_lost
        self._told_at = 0.0
        self._main = asyncio.current_task()
        self._pid = os.getpid()
        self._shown = False
        self._gone = False
        self.fileno = own_handle(self.fileno)
        self._size = size or self._get_terminal_size()
        self._parser = Parser(debug, on_light or (lambda: None))
        self._questions = QUESTIONS * ASKABLE + GROUND * (on_light is not None and os.environ.get("TERM") != "linux")
        self._decoder = codecs.getincrementaldecoder(sys.__stdin__.encoding if sys.__stdin__ else "utf-8")("replace")
        self._encoding = sys.__stdout__.encoding if sys.__stdout__ else "utf-8"
        self._unsent = bytearray()
        self._unsent_since = 0.0
        self._left_out = False
        self._loop.set_exception_handler(self._callback_failed)
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # started by nohup: so be it
                signal.signal(number, self._told_to_end)

    # Showing and hiding

    def start_application_mode(self) -> None:
        """Take the terminal, now or as soon as this is the foreground job; harmless where it is taken already."""
        if self._shown or self._gone or self.fileno < 0:
            return
        if not self._in_foreground():
            self._loop.call_later(0.2, self.start_application_mode)
            return
        try:
            self.attrs_before = termios.tcgetattr(self.fileno)
        except termios.error:
            self._lose()
            return
        self._shown = True
        atexit.register(self._put_back)
        self._loop.add_signal_handler(signal.SIGWINCH, self._resized)
        self._loop.add_reader(self.fileno, self._read)
        self._enter()
        if not constants.DISABLE_KITTY_KEY:
            self.write(KITTY_KEYS)
        if self._must_signal_resume:
            self._must_signal_resume = False
            self.send_message(self.SignalResume())

    def _enter(self) -> None:
        """Raw input, all modes on, everything drawn: also right where it was so before."""
        assert self.attrs_before is not None
        iflag, oflag, cflag, lflag, input_speed, output_speed, characters = self.attrs_before
        characters = [*characters]
        characters[termios.VMIN] = 1
        iflag, lflag = self._patch_iflag(iflag), self._patch_lflag(lflag)
        raw = [iflag, oflag, cflag, lflag, input_speed, output_speed, characters]
        with suppress(termios.error):  # gone: the reader sees that too
            termios.tcsetattr(self.fileno, termios.TCSANOW, raw)
        self._in_band_window_resize = False
        self.write(ENTER + self._questions)
        self._resized()
        self._app.refresh()

    def stop_application_mode(self) -> None:
        """Give the terminal back as it was; harmless where it is not taken. Never waits."""
        self._stop_watching()
        self._put_back()

    def suspend_application_mode(self) -> None:
        """Give the terminal back for a while."""
        self.stop_application_mode()

    def disable_input(self) -> None:
        """Read no more."""
        if self.fileno >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self.fileno)

    def _stop_watching(self) -> None:
        self.disable_input()
        if self.fileno >= 0 and not self._loop.is_closed():
            self._loop.remove_writer(self.fileno)

    def close(self) -> None:
        """Give the terminal back and let go of it."""
        self.stop_application_mode()
        if self.fileno >= 0:
            if not self._loop.is_closed():
                self._loop.remove_signal_handler(signal.SIGWINCH)
            os.close(self.fileno)
            self.fileno = -1

    def _put_back(self) -> None:
        """Restore modes and attributes; what a stalled terminal has not taken yet is thrown away to make room."""
        if not self._shown or os.getpid() != self._pid:  # a fork's terminal is its parent's
            return
        self._shown = False
        atexit.unregister(self._put_back)
        mine = self._in_foreground()  # another job's picture and attributes are not ours to change
        leave = bytearray(CANCEL * bool(self._unsent) + CLEAR * mine + LEAVE.encode())
        self._unsent.clear()
        with suppress(OSError, termios.error):  # gone, with nothing left to put back
            self._push(leave)
            if leave and mine:
                termios.tcflush(self.fileno, termios.TCOFLUSH)
                self._push(bytearray(CANCEL + LEAVE.encode()))
            if mine:
                termios.tcsetattr(self.fileno, termios.TCSANOW, self.attrs_before or [])
                termios.tcflush(self.fileno, termios.TCIFLUSH)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.fileno) == os.getpgrp()
        except OSError:  # not our controlling terminal: nobody to ask
            return True

    # Input and output

    def _read(self) -> None:
        try:
            data = os.read(self.fileno, 1 << 14)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if is_gone(self.fileno):
                self._lose()
            elif not self._in_foreground():
                self._hide()
            return
        if text := self._decoder.decode(data):
            for event in self._parser.feed(text):
                self.process_message(event)
            self._loop.call_later(constants.ESCAPE_DELAY + 0.01, self._tick)

    def _tick(self) -> None:
        """A lone escape is a key once nothing followed it."""
        for event in self._parser.tick():
            self.process_message(event)

    def write(self, data: str) -> None:
        """Queue output; never waits. What nobody could see in time is left out, and all is drawn again later."""
        if threading.current_thread() is not threading.main_thread():
            self._soon(self.write, data)
        elif not self._shown:
            return
        elif self._unsent and time.monotonic() - self._unsent_since > PATIENCE:
            self._left_out = True
        else:
            if not self._unsent:
                self._unsent_since = time.monotonic()
                self._loop.call_soon(self._send)
            self._unsent += data.encode(self._encoding, "replace")

    def _send(self) -> None:
        if not self._shown:
            return
        try:
            self._push(self._unsent)
        except OSError:
            self._lose()
            return
        if self._unsent:
            self._loop.add_writer(self.fileno, self._send)
            return
        self._loop.remove_writer(self.fileno)
        if self._left_out:
            self._left_out = False
            self._app.refresh()

    def _push(self, data: bytearray) -> None:
        """Write as much as the terminal takes now, and cut that off. Raises OSError where it is gone."""
        with suppress(BlockingIOError):
            while data:
                del data[: os.write(self.fileno, data)]

    def _get_terminal_size(self) -> tuple[int, int]:
        """The terminal's own word: COLUMNS and LINES in the environment would hold still when it is resized."""
        try:
            width, height = os.get_terminal_size(self.fileno)
        except OSError:
            width = height = 0
        return width or 80, height or 24

    def _resized(self) -> None:
        if not self._in_band_window_resize:
            size = Size(*self._get_terminal_size())
            self.send_message(events.Resize(size, size))

    # Suspending

    def _sigtstp_application(self, *_: object) -> None:
        self._soon(self._suspend)

    def _sigcont_application(self, *_: object) -> None:
        self._soon(self._continue)

    def _suspend(self) -> None:
        """Stop the whole job as the shell would, which does nothing where no shell could wake it again."""
        if self._auto_restart:
            self._must_signal_resume = self._shown
            self.stop_application_mode()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)
        self._loop.call_later(0.05, self._continue)

    def _continue(self) -> None:
        """Show again after a stop: also after one that could not be caught, or after none."""
        signal.signal(signal.SIGTSTP, self._sigtstp_application)
        if not self._auto_restart:
            return
        if not self._shown:
            self.start_application_mode()
        elif self._in_foreground():
            self._enter()
        else:
            self._hide()

    def _hide(self) -> None:
        """The terminal was taken by another job: leave it alone until it is ours again."""
        self._shown = False
        self._stop_watching()
        self._unsent.clear()
        self.start_application_mode()

    # Ending

    def _told_to_end(self, number: int, _: FrameType | None) -> None:
        if self.signal in (0, signal.SIGHUP) and number != self.signal:
            self.signal = number
            self._told_at = time.monotonic()
            self._soon(self._end, number)
        elif number != signal.SIGHUP and time.monotonic() - self._told_at > INSISTING:  # somebody insists
            signal.signal(number, signal.SIG_IGN)  # and goes on to
            self._put_back()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _end(self, number: int) -> None:
        if number == signal.SIGHUP and (self._gone or (self.fileno >= 0 and is_gone(self.fileno))):
            self._lose()
        else:
            self._quit(by_signal(number))

    def _lose(self) -> None:
        """Nothing must write to the terminal any more, nor be told once more that it hung up."""
        if self._gone:
            return
        self._gone = True
        self._shown = False
        self._stop_watching()
        self._unsent.clear()
        outlive_terminal()
        if self.signal == signal.SIGHUP:  # now that none can come any more: one comes with the end of what is read
            self.signal = 0
        if not self._app._exit:  # it was not about to end anyway
            self.lost = True
            self._quit(Exit.LOST)
            self._on_lost()

    def fail(self, error: BaseException) -> None:
        """End the app because of an error that its messages did not raise; from any thread."""
        self.error = self.error or error
        self._soon(self._quit, Exit.ERROR)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception):
            self.fail(error)
        else:
            loop.default_exception_handler(context)

    def _quit(self, status: int) -> None:
        self._app.exit(return_code=status)
        if self._main is not None:
            self._loop.call_later(GRACE, self._main.cancel)

    def _soon(self, callback: Callable[..., None], *arguments: object) -> None:
        """From a signal handler or a thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)


class Parser(XTermParser):
    """Textual's, for which a broken sequence of a noisy line would be the end: `ESC [ : 1 ~` is no number.

    It would take what the terminal says of its background for keys, so that is kept from it, in however many pieces it
    comes; `on_light` is called where the background is light.
    """

    SAID = re.compile(r"\x1b?\]11;([rgba:/0-9A-Fa-f]*+)(?:\x07|\x1b\\|(?=[^\x1b]|\x1b[^\\]))")
    BEGUN = re.compile(r"\x1b(?:\](?:1(?:1(?:;[rgba:/0-9A-Fa-f]*\x1b?)?)?)?)?\Z")

    def __init__(self, debug: bool = False, on_light: Callable[[], None] = lambda: None) -> None:
        super().__init__(debug)
        self._on_light = on_light
        self._begun, self._begun_at = "", 0.0

    def feed(self, data: str) -> Iterator[Message]:
        data = self._begun + data
        for said in self.SAID.findall(data):
            if is_light(said):
                self._on_light()
        data = self.SAID.sub("", data)
        begun = self.BEGUN.search(data)
        self._begun, self._begun_at = begun[0] if begun else "", time.monotonic()
        if data := data.removesuffix(self._begun):
            yield from super().feed(data)

    def tick(self) -> Iterator[Message]:
        if self._begun in ("\x1b", "\x1b]") and time.monotonic() - self._begun_at >= constants.ESCAPE_DELAY:
            if self._begun == "\x1b":  # nothing followed: the key
                yield events.Key("escape", "\x1b")
            self._begun = ""
        yield from super().tick()

    def parse_mouse_code(self, code: str) -> Message | None:
        try:
            return super().parse_mouse_code(code)
        except (ValueError, OverflowError, ZeroDivisionError):  # of a terminal that says it has no pixels, too
            return None

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterator[events.Key]:
        try:
            yield from super()._sequence_to_key_events(sequence, alt)
        except (ValueError, OverflowError):
            return


def is_light(said: str) -> bool:
    """Whether a colour as a terminal tells it, `rgb:ffff/ffff/ffff` in any number of digits, is nearer to white."""
    found = re.match(r"rgba?:([0-9A-Fa-f]+)/([0-9A-Fa-f]+)/([0-9A-Fa-f]+)", said)
    shares: list[float] = [int(digits, 16) / int("f" * len(digits), 16) for digits in found.groups()] if found else []
    return sum(share * weight for share, weight in zip(shares, (0.21, 0.72, 0.07), strict=False)) > 0.5


def own_handle(fd: int) -> int:
    """A non-blocking handle of our own on the terminal: made non-blocking, the shared one would be so for the shell."""
    names = []
    with suppress(OSError):
        names.append(os.ttyname(fd))
    with suppress(OSError):  # fails where it is not our controlling terminal
        os.tcgetpgrp(fd)
        names.append("/dev/tty")  # where su has left us a terminal that we may not open by name
    for name in names:
        with suppress(OSError):
            return os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(fd)


def run_app(app: App[Result], *, on_lost: Callable[[], None], on_light: Callable[[], None] | None = None) -> int:
    """Run the app on this terminal and give the terminal back whatever happens; the exit status.

    `Exit.LOST`: the terminal went away; `on_lost` was called, on the event loop, as soon as that was seen. Standard
    input and output are /dev/null by then and SIGHUP is ignored, so that the caller can go on without a view.
    `on_light`, if given, is called where the terminal says that its background is light, some time after the first
    picture.
    An error, in a thread too, is told on stderr in one line and gives `Exit.ERROR`; a signal gives 128 + its number.
    To be called in the main thread. A thread that is to outlive the view has to be one of `threading`, since those of
    Textual's workers are waited for.
    """
    said = io.StringIO()
    app.error_console = Console(file=said, width=80)
    app.driver_class = functools.partial(TerminalDriver, on_lost=on_lost, on_light=on_light)  # type: ignore[assignment]
    app._fatal_error = app._close_messages_no_wait  # type: ignore[method-assign]  # no second spent on a traceback
    error: BaseException | None = None
    with signals_kept(app), thread_errors_to(app):
        try:
            app.run(mouse=False)
        except asyncio.CancelledError:
            pass  # it was told to end and did not
        except Exception as raised:
            error = raised
        finally:
            driver = app._driver
            if driver:
                driver.close()
    assert driver is None or isinstance(driver, TerminalDriver)
    error = (driver and driver.error) or app._exception or error
    if error is not None:
        report(error.error if isinstance(error, WorkerFailed) else error)
    if driver and driver.lost and not driver.signal:
        return Exit.LOST
    if error is not None:
        return Exit.ERROR
    tell(said.getvalue())
    if driver and driver.signal:
        return by_signal(driver.signal)
    return Exit.ERROR if app.return_code is None else app.return_code


@contextmanager
def signals_kept(app: App[Result]) -> Iterator[None]:
    """Signal handlers are as before at the end, save two: a SIGHUP ignored on the way stays so, and where a signal
    ended the app the driver still minds the next one, so that only insisting cuts off what the caller has to save.
    """
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        driver = app._driver
        ended = isinstance(driver, TerminalDriver) and driver.signal
        for number, handler in before.items():
            if ended and number in ENDING:
                atexit.register(signal.signal, number, signal.SIG_IGN)  # Python's own end would let it kill
            elif signal.getsignal(number) != signal.SIG_IGN and handler is not None:
                signal.signal(number, handler)


@contextmanager
def thread_errors_to(app: App[Result]) -> Iterator[None]:
    """An error that ends a thread ends the app: on the screen nobody would see it, and the app would wait for ever."""
    before = threading.excepthook

    def failed(args: threading.ExceptHookArgs) -> None:
        driver = app._driver
        if isinstance(driver, TerminalDriver) and isinstance(args.exc_value, Exception):
            driver.fail(args.exc_value)
        else:
            before(args)

    threading.excepthook = failed
    try:
        yield
    finally:
        threading.excepthook = before
