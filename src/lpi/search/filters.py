"""Which pictures a search may find: by folder, task and date."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import date, datetime

from lpi.errors import ConfigError, UnknownNameError, did_you_mean
from lpi.reading import shown


def quoted(text: str) -> str:
    """A text as SQL writes it.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Filters:
    """What a picture must be to be found; what is ``None`` doesn't matter.

    Attributes:
        folder: it lies in this folder or below, relative to the indexed one.
        task: the router sent it to this task; an empty name means to none.
        since, until: taken on these days or between, as ``YYYY-MM-DD`` (or with a time behind ``T``; no camera notes a
            time zone).

    Raises:
        ConfigError: something that isn't a date.
    """

    folder: str | None = None
    task: str | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("since", self.since), ("until", self.until)):
            if value is not None:
                try:
                    zone = datetime.fromisoformat(value).tzinfo
                except ValueError as error:
                    raise ConfigError(f"{name} must be a date like 2024-05-31; got {shown(value)}.") from error
                if zone is not None:
                    raise ConfigError(f"{name} must be a date without a time zone; got {shown(value)}. Leave that out.")
        if self.since is not None and self.until is not None:
            since, until = datetime.fromisoformat(self.since).isoformat(), _end(self.until)
            if since > until:
                raise ConfigError(
                    f"since must not be after until; got {shown(self.since)} and {shown(self.until)}. Swap them."
                )

    def check(self, tasks: Collection[str]) -> None:
        """Refuse a task that isn't there.

        Args:
            tasks: those that are.

        Raises:
            UnknownNameError: the filter names another one.
        """
        if self.task and self.task not in tasks:
            raise UnknownNameError(f"No domain is called {shown(self.task)}. {did_you_mean(self.task, tasks)}")

    def in_folder(self, there: Callable[[str], bool], folders: Callable[[], Collection[str]]) -> Filters:
        """The same filters with the folder's name as the index spells it.

        A Mac writes an umlaut as two letters, and people type it as one.

        Args:
            there: whether any picture meets an SQL condition.
            folders: gives all folders, asked only where the name alone finds nothing.

        Raises:
            UnknownNameError: there is no such folder.
        """
        if self.folder is None or there(f"array_has(folders, {quoted(self._folder())})"):
            return self
        known = folders()
        same = [name for name in known if _normal(name) == _normal(self._folder())]
        if not same:
            near = did_you_mean(_normal(self._folder()), map(_normal, known))
            raise UnknownNameError(f"No folder is called {shown(self.folder)}. {near}")
        return replace(self, folder=same[0])

    def _folder(self) -> str:
        return (self.folder or "").replace("\\", "/").strip("/").removeprefix("./") or "."

    def sql(self) -> str | None:
        """The condition on the store's rows; ``None`` for no condition."""
        parts = []
        if self.folder is not None:
            parts.append(f"array_has(folders, {quoted(self._folder())})")
        if self.task is not None:
            parts.append(f"task = {quoted(self.task)}")
        if self.since is not None:
            parts.append(f"date >= {quoted(datetime.fromisoformat(self.since).isoformat())}")
        if self.until is not None:
            parts.append(f"date <= {quoted(_end(self.until))}")
        return " AND ".join(parts) or None


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _end(until: str) -> str:
    """The last second that counts: a day counts to its end."""
    try:
        return f"{date.fromisoformat(until).isoformat()}T23:59:59"
    except ValueError:
        return datetime.fromisoformat(until).isoformat()
