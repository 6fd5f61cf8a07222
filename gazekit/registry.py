"""Names for models, datasets and backbones: a name maps to a factory imported only when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gazekit.errors import InputError


def unknown_name(kind: str, name: object, known: list[str], mend: str = "") -> InputError:
    """The error for a name nobody registered: what was asked, the nearest known one, all of them."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(sorted(known)) if len(known) <= 40 else f"{len(known)} names"
    return InputError(f"no {kind} named {name!r}; {hint}known: {listed}{mend}")


class Registry(Mapping[str, str]):
    """Name -> ``"module:attribute"``; reading a name never imports it, :meth:`load` does.

    Args:
        kind: What the entries are, in the singular; it opens every error message.
        entries: One line per entry, ``{"name": "package.module:attribute"}``.

    """

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        if name not in self._entries:
            raise unknown_name(self.kind, name, list(self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Callable[..., Any]:
        """Import and return the factory registered under `name`.

        Raises:
            InputError: The name is not registered; the message lists the nearest and all names.

        """
        module, attribute = self[name].split(":")
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return factory
