"""A tiny app over the driver, with a trainer in a thread, that does on request what could leave a terminal broken.

    python -m tests.terminal_app RECORD [--idle] [--late-hup]

The trainer writes its step into the file RECORD, followed by what became of the view, so that a test sees it train on
after the terminal is gone. With --late-hup its loss is seen before SIGHUP tells of it, which comes a moment later.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path

from rich.text import Text
from textual.app import App, ComposeResult
from textual.widgets import Static

from app import driver
from app.driver import TerminalDriver, run_app
from app.terminal import Exit, require_terminal


class Trainer(threading.Thread):
    """Counts as fast as a trainer might, writing each step down."""

    def __init__(self, record: Path) -> None:
        super().__init__(daemon=True)
        self._record = os.open(record, os.O_RDWR | os.O_CREAT)
        self.step, self.view = 0, "view shown "
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            self.step += 1
            os.pwrite(self._record, f"{self.step:9} {self.view} {os.getpid():9}\n".encode(), 0)
            time.sleep(0.002)


class Grid(Static):
    """Fills its space with a text that depends on the size only, and can be told to fail."""

    broken = False

    def render(self) -> Text:
        if self.broken:
            raise RuntimeError("cannot draw")
        width, height = self.size
        rows = [f"{row:3} " + "0123456789" * (width // 10) for row in range(height)]
        return Text("\n".join(row[:width] for row in rows), no_wrap=True)


class TerminalApp(App[None]):
    """Each key is a calamity; `q` ends well."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Grid { height: 1fr; } #status { height: 1; }"
    BINDINGS = [("q", "quit"), ("ctrl+z", "suspend_process")]  # noqa: RUF012

    def __init__(self, trainer: Trainer, idle: bool) -> None:
        super().__init__()
        self.trainer = trainer
        self.idle = idle

    def compose(self) -> ComposeResult:
        yield Static("ready", id="status", markup=False)
        yield Grid()

    def on_mount(self) -> None:
        self.trainer.start()
        if not self.idle:
            self.set_interval(1 / 20, self.draw)

    def draw(self) -> None:
        assert isinstance(self._driver, TerminalDriver)
        self.trainer.view = "view behind" if self._driver._left_out else "view shown "
        self.query_one("#status", Static).update(f"ready, step {self.trainer.step}")
        self.query_one(Grid).refresh()

    def key_e(self) -> None:
        self.exit(return_code=7)

    def key_m(self) -> None:
        self.exit(message="saved in runs/a")

    def key_h(self) -> None:
        raise RuntimeError("cannot handle\n\x1b[31mthis")

    def key_d(self) -> None:
        Grid.broken = True
        self.query_one(Grid).refresh()

    def key_w(self) -> None:
        self.run_worker(self.fail, thread=True)

    def key_t(self) -> None:
        threading.Thread(target=self.fail).start()

    def key_x(self) -> None:
        raise SystemExit(9)

    def key_p(self) -> None:
        self.panic("in panic")

    async def key_a(self) -> None:
        await asyncio.Event().wait()

    def key_b(self) -> None:
        self.call_after_refresh(self.block)

    def block(self) -> None:
        os.write(1, b"\x1b[1;1Hblocked")  # not through the app, which may not get round to it any more
        while True:
            time.sleep(0.01)

    def key_k(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def key_f(self) -> None:
        if os.fork() == 0:
            atexit._run_exitfuncs()
            os._exit(0)
        os.wait()

    def key_u(self) -> None:
        self.query_one("#status", Static).update("ünïcode █▓")

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "1":
            self.query_one("#status", Static).update("got 1")

    def fail(self) -> None:
        raise ValueError("n=3: has to be odd")


def main() -> int:
    try:
        require_terminal("train --headless")
    except ValueError as error:
        print(f"makemore: {error}", file=sys.stderr)
        return Exit.BAD_INPUT
    trainer = Trainer(Path(sys.argv[1]))
    outlive_terminal = driver.outlive_terminal

    def late() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        outlive_terminal()

    if "--late-hup" in sys.argv:
        driver.outlive_terminal = late  # type: ignore[attr-defined]

    def on_lost() -> None:
        trainer.view = "view lost  "

    status = run_app(TerminalApp(trainer, "--idle" in sys.argv), on_lost=on_lost)
    if status == Exit.LOST:
        print("nobody reads this")
        trainer.view = "view ended "
        trainer.join()
    return status


if __name__ == "__main__":
    sys.exit(main())
