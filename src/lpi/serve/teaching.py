"""Teaching and forgetting over HTTP: one job at a time, in a thread of its own, on trial until somebody adopts it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lpi.counting import Learning
from lpi.errors import ConfigError, DataError, LpiError
from lpi.search.index import SearchIndex
from lpi.search.recorded import HELD_OUT
from lpi.search.teaching import (
    Lesson,
    adopt,
    captioned_domain,
    learn,
    read_domain,
    seconds_per_picture,
    training_settings,
    ways,
)
from lpi.search.writer import Writer, change
from lpi.serve.limits import Limits, RefusedError
from lpi.serve.sending import SENT, Sent, check_shapes, drop_abandoned
from lpi.tasks.stream import Task

STOP_SECONDS = 5.0
State = Literal["sending", "working", "stopping", "ready", "done", "failed"]
log = logging.getLogger("lpi.serve")


class StoppedError(LpiError):
    """Somebody gave the job up."""


@dataclass
class Job:
    """A domain on its way into the index, or out of it.

    Attributes:
        domain: its name.
        sent: the captioned pictures that were sent, unless ``captions`` are given.
        captions: those of pictures of the index, by file.
        forgets: it is to be forgotten.
        state: ``sending``, ``working``, ``stopping``, ``ready`` to be adopted, ``done`` or ``failed``.
        what, done, total: what is going on, and how far it is.
        since, expected: when that began, and how many seconds it may take where nothing counts them.
        deeper, found_less: there is nothing deeper to learn; what was learned deeper finds less than the closed form.
        lesson, model: what was learned on trial, and the model that the index had then.
        problem: why it failed.
        stage: that it led to.
    """

    domain: str
    sent: Sent
    captions: dict[Path, Sequence[str]] = field(default_factory=dict)
    forgets: bool = False
    state: State = "sending"
    what: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    expected: float | None = None
    deeper: bool = False
    found_less: bool = False
    lesson: Lesson | None = None
    model: str = ""
    problem: str = ""
    stage: int | None = None

    def count(self, what: str, done: int = 0, total: int = 0) -> None:
        """Note how far it is.

        Raises:
            StoppedError: it was given up.
        """
        if self.state == "stopping":
            raise StoppedError("stopped")
        if what != self.what:
            self.what, self.since, self.expected = what, time.monotonic(), None
        self.done, self.total = done, total

    def step(self, step: Learning) -> None:
        """Note a step of training; see :meth:`count`."""
        self.count("learning", step.step, step.steps)
        self.expected = time.monotonic() - self.since + step.seconds_left

    @property
    def seconds_left(self) -> float | None:
        """How long what is going on will take; ``None`` where nobody can say."""
        passed = time.monotonic() - self.since
        if self.expected is not None:
            return max(0.0, self.expected - passed)
        return passed / self.done * (self.total - self.done) if self.done else None


class Teacher:
    """Whoever teaches an index over HTTP: one domain at a time. The index stays as it is until one is adopted.

    Args:
        index: that is served; its writer's lock is held only while a job works.
        limits: of what is sent.
    """

    def __init__(self, index: SearchIndex, limits: Limits) -> None:
        self.index, self.limits = index, limits
        self.job: Job | None = None
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()

    def begin(self, domain: str, captions: Mapping[str, str], *, forgets: bool = False) -> Job:
        """Begin to teach a domain, or to forget one, at once.

        Args:
            domain: its name.
            captions: of pictures of the index by their ids; without any, files are to be sent.
            forgets: take it away instead.

        Raises:
            RefusedError: another one is being taught.
            ConfigError: it has no name that a domain can have, or has been taught already.
            UnknownNameError: there is no such picture, or no such domain to forget.
        """
        with self._beginning:
            if self.job is not None and self.job.state not in ("done", "failed"):
                raise RefusedError(409, f"{self.job.domain!r} is being taught just now. Adopt it or let it go first.")
            name = " ".join(domain.split())
            if not forgets and (not name or not name.isprintable() or len(name) > 80 or name == HELD_OUT):
                raise ConfigError(f"the domain needs another name; got {ascii(domain)[:80]}.")
            if not forgets and name in self.index.tasks:
                raise ConfigError(f"{name!r} was taught already. Forget it first, or give the new one another name.")
            files = {self.index.path(key): (" ".join(words.split()),) for key, words in captions.items()}
            if any(not words[0] for words in files.values()):
                raise ConfigError(
                    "every picture needs words that say what it is. Write some for each, or leave it out."
                )
            sent = Sent(self.index.folder / SENT / secrets.token_hex(8), self.limits)
            self.drop()
            self.job = Job(domain if forgets else name, sent, dict(files), forgets)
            if forgets:
                self._work(self._forget)
            elif files:
                self.learn()
            return self.job

    def current(self, *states: State) -> Job:
        """The job, which must be in one of these states.

        Raises:
            RefusedError: there is none, or it isn't.
        """
        if self.job is None or self.job.state not in states:
            now = "nothing is being taught" if self.job is None else f"{self.job.domain!r} is {self.job.state}"
            raise RefusedError(409, f"{now}. Begin with the name of a domain.")
        return self.job

    def send(self, name: str, content: bytes, at: int) -> Job:
        """Keep a file to be learned from, or the next piece of one; see :meth:`lpi.serve.sending.Sent.add`."""
        job = self.current("sending")
        job.sent.add(name, content, at)
        return job

    def learn(self, *, deeper: bool = False) -> Job:
        """Learn the domain on trial, and measure it: in the closed form first, where the method has one."""
        job = self.current("ready" if deeper else "sending")
        job.deeper = deeper
        return self._work(self._learn)

    def adopt(self) -> Job:
        """Search with what was learned from now on."""
        self.current("ready")
        return self._work(self._adopt)

    def drop(self) -> None:
        """Give the job up; what works is stopped where it next counts something."""
        job = self.job
        if job is None:
            return
        if job.state in ("working", "stopping"):
            job.state = "stopping"
            return
        if job.state != "done":
            job.sent.drop()
        self.job = None

    def close(self) -> None:
        """Give the job up, and wait a while for its end."""
        self.drop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    # ---- at work -----------------------------------------------------------------------------------------------------

    def _work(self, work: Callable[[Job], None]) -> Job:
        job = self.job
        assert job is not None
        job.state, job.what, job.problem = "working", "", ""
        job.count("beginning")
        # the index is whole whenever a process ends, so that this one needn't wait for it
        self._thread = threading.Thread(target=self._worked, args=(job, work), name="lpi-teach", daemon=True)
        self._thread.start()
        return job

    def _worked(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        except StoppedError:
            job.sent.drop()
            self.job = None
        except Exception as error:
            if not isinstance(error, LpiError):
                log.exception("teaching %r failed", job.domain)
            known = str(error) if isinstance(error, LpiError) else "something went wrong; the server's log says what."
            for place in (job.sent.folder, self.index.folder, self.index.root):
                known = known.replace(f"{place}/", "")
            job.problem = known
            job.state = "failed" if job.lesson is None else "ready"  # what was learned still can be adopted
            if job.state == "failed":
                job.sent.drop()

    def _change(self) -> AbstractContextManager[Writer]:
        device = self.index.method().backbone.device.type
        return change(self.index.folder, device=device, method_file=self.index.method_file)

    def _domain(self, job: Job) -> Task:
        job.count("reading what was sent")
        if job.captions:
            return captioned_domain(job.domain, job.captions)
        if not job.sent.files:
            raise DataError("no picture was sent. Drop a folder or a zip of pictures with their captions.")
        domain = read_domain(job.sent.unpack(), job.domain)
        check_shapes((*domain.train, *domain.validation, *domain.test), self.limits.pixels)
        return domain

    def _learn(self, job: Job) -> None:
        with self._change() as writer:
            drop_abandoned(writer.folder)
            domain, settings = self._domain(job), training_settings(writer, {})
            way = ways(writer.method, settings, deeper=job.deeper)[-1]
            pictures = len(domain.train) + len(domain.validation) + 2 * len(domain.test)
            job.count("learning")
            job.expected = pictures * seconds_per_picture(writer, writer.method)
            lesson = learn(writer, domain, settings=way, again=job.deeper, on_step=job.step, on_progress=job.count)
            job.found_less = job.lesson is not None and lesson.found <= job.lesson.found
            if not job.found_less:
                job.lesson = lesson
            job.model = writer.manifest.current.model
            job.deeper = way is settings  # there is nothing deeper
        job.state = "ready"

    def _adopt(self, job: Job) -> None:
        assert job.lesson is not None
        with self._change() as writer:
            if writer.manifest.current.model != job.model:
                raise ConfigError("the index learned or forgot something else meanwhile. Teach this domain again.")
            job.stage = adopt(writer, job.lesson, on_progress=job.count).number
        job.state, job.lesson = "done", None

    def _forget(self, job: Job) -> None:
        with self._change() as writer:
            job.stage = writer.forget(job.domain, on_progress=job.count).number
        job.state = "done"
