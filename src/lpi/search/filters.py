"""Which pictures a search may find: by folder, task and date."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from lpi.errors import ConfigError, UnknownNameError, did_you_mean


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
        since, until: taken on these days or between, as ``YYYY-MM-DD`` (or with a time behind ``T``).

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
                    datetime.fromisoformat(value)
                except ValueError as error:
                    raise ConfigError(f"{name} must be a date like 2024-05-31; got {value!r}.") from error

    def check(self, tasks: Collection[str]) -> None:
        """Refuse a task that isn't there.

        Args:
            tasks: those that are.

        Raises:
            UnknownNameError: the filter names another one.
        """
        if self.task and self.task not in tasks:
            raise UnknownNameError(f"No task is called {self.task!r}. {did_you_mean(self.task, tasks)}")

    def sql(self) -> str | None:
        """The condition on the store's rows; ``None`` for no condition."""
        parts = []
        if self.folder is not None:
            folder = self.folder.replace("\\", "/").strip("/").removeprefix("./") or "."
            parts.append(f"array_has(folders, {quoted(folder)})")
        if self.task is not None:
            parts.append(f"task = {quoted(self.task)}")
        if self.since is not None:
            parts.append(f"date >= {quoted(datetime.fromisoformat(self.since).isoformat())}")
        if self.until is not None:
            parts.append(f"date <= {quoted(_end(self.until))}")
        return " AND ".join(parts) or None


def _end(until: str) -> str:
    """The last second that counts: a day counts to its end."""
    try:
        return f"{date.fromisoformat(until).isoformat()}T23:59:59"
    except ValueError:
        return datetime.fromisoformat(until).isoformat()
