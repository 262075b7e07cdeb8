"""The program's commands, each in a process of its own, without the price of a cold start for each.

One process loads what all commands share and forks for every command; a fork is as real as a process gets, with its
own streams, signals and exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).parent.parent

SERVER = """
import json, os, resource, sys, warnings
import app.cli, app.headless, app.launch, app.model_of, app.report
for name in sys.argv[1:]:
    __import__(name)
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for fd, path, flags in ((0, "/dev/null", os.O_RDONLY), (1, request["out"], 577), (2, request["err"], 577)):
        os.dup2(os.open(path, flags, 0o600), fd)
    if request["most"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["most"], request["most"]))
    if request["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    sys.argv = ["makemore", *request["argv"]]
    try:
        app.cli.main()
    except SystemExit as end:
        if request["loaded"]:
            with open(request["loaded"], "w") as file:
                file.write(" ".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
"""


class Ended(NamedTuple):
    """What a command left: exit status, what it wrote, and what it had loaded where that was asked for."""

    status: int
    out: str
    err: str
    loaded: frozenset[str]
    seconds: float


class Running:
    """A command on its way."""

    def __init__(self, commands: Commands, pid: int, folder: Path) -> None:
        self._commands, self.pid, self._folder = commands, pid, folder
        self._began = time.monotonic()

    @property
    def out(self) -> str:
        """What it has written so far."""
        return self._read("out")

    @property
    def err(self) -> str:
        return self._read("err")

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text("utf-8", errors="surrogateescape") if path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end."""
        status = int(self._commands.ask({"wait": self.pid}))
        self._commands.running.discard(self.pid)
        loaded = self._folder / "loaded"
        modules = frozenset(loaded.read_text().split()) if loaded.exists() else frozenset[str]()
        return Ended(status, self.out, self.err, modules, time.monotonic() - self._began)


class Commands:
    """Starts commands in `cwd`."""

    def __init__(self, server: subprocess.Popen[str], cwd: Path) -> None:
        self._server, self.cwd = server, cwd
        self.running: set[int] = set()

    def ask(self, request: dict[str, object]) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()

    def start(
        self, *argv: str, most: int = 0, memory: int = 0, env: dict[str, str] | None = None, out: str = ""
    ) -> Running:
        """`most`: bytes that a file may have, as on a full disk; `memory`: of bytes; `out`: a file for stdout."""
        folder = Path(tempfile.mkdtemp(dir=self.cwd.parent))
        pid = self.ask(
            {"argv": argv, "cwd": str(self.cwd), "out": out or str(folder / "out"), "err": str(folder / "err"),
             "loaded": str(folder / "loaded"), "most": most, "memory": memory, "env": env or {}}
        )  # fmt: skip
        self.running.add(int(pid))
        return Running(self, int(pid), folder)

    def run(
        self, *argv: str, most: int = 0, memory: int = 0, env: dict[str, str] | None = None, out: str = ""
    ) -> Ended:
        """Start a command and wait for its end."""
        return self.start(*argv, most=most, memory=memory, env=env, out=out).wait()


@contextmanager
def commands(cwd: Path, *loaded: str) -> Iterator[Commands]:
    """Commands that run in `cwd`; `loaded`: modules that are in memory before."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *loaded],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
    )
    started = Commands(server, cwd)
    try:
        yield started
    finally:
        for pid in started.running:  # of tests that failed
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert server.stdin is not None
        server.stdin.close()
        server.wait(60)


def strict(text: str | bytes) -> Any:
    """Parse JSON that knows no NaN."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)
