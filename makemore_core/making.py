"""Exhibits in the making: what was asked for, a part at a time, so that training goes on in between."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from makemore_core.command import Look
from makemore_core.looking import Maker, Options, Parts, copy_of
from makemore_core.snapshot import Exhibit
from makemore_core.trainer import Trainer


class Begun(NamedTuple):
    """An exhibit that was asked for, at which step, and the parts that are still to come of it."""

    look: Look
    step: int
    parts: Parts[msgspec.Struct]


class Making:
    """Of each name one exhibit at a time; the newest other request for it follows, so that none starves another."""

    def __init__(self) -> None:
        self._begun: dict[str, Begun] = {}
        self._next: dict[str, Look] = {}

    def __bool__(self) -> bool:
        return bool(self._begun or self._next)

    def ask(self, look: Look, trainer: Trainer) -> Exhibit | None:
        """Begin it, or have it follow; the exhibit if that is all. Raises ValueError where there is none to be had."""
        from makemore_core.exhibits import EXHIBITS  # heavy, and only on request

        name = look.name
        if name not in EXHIBITS:
            raise ValueError(f"{name}: no such exhibit; there are {', '.join(EXHIBITS)}")
        if name not in self._begun:
            self._begun[name] = Begun(look, trainer.step, _parts(EXHIBITS[name], look.options, trainer))
            return self._part(name)
        if look != self._begun[name].look:
            self._next[name] = look
        return None

    def go_on(self, trainer: Trainer) -> Exhibit | None:
        """The next part of one, in turn; the exhibit after its last. Raises ValueError where it cannot be made."""
        for name in self._next:
            if name not in self._begun:
                return self.ask(self._next.pop(name), trainer)
        return self._part(next(iter(self._begun)))

    def _part(self, name: str) -> Exhibit | None:
        begun = self._begun.pop(name)
        try:
            next(begun.parts)
        except StopIteration as done:
            return Exhibit(name, begun.step, msgspec.to_builtins(done.value), begun.look.options)
        except ValueError:
            raise
        except Exception as error:  # whatever it is, whoever looks is told, and the training goes on
            raise ValueError(f"{name}: {type(error).__name__}: {error}") from error
        self._begun[name] = begun
        return None


def _parts(make: Maker, options: Options, trainer: Trainer) -> Parts[msgspec.Struct]:
    """Of the net as it is when the first is asked for; its copy is made in that, where it can go wrong as any part."""
    return (yield from make(copy_of(trainer), options))
