"""The program from its first moment on: `python -m app` and the command `makemore`."""

import os
import signal
from types import FrameType


def main() -> None:
    """Load the program and run it; ctrl-c while it is loading ends it without a word."""
    loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if loading:
        signal.signal(signal.SIGINT, leave)
    from app import cli

    if loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def leave(number: int, _: FrameType | None) -> None:
    """End at once."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
