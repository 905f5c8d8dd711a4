"""Questions that come at the same time, answered together: those that are alike become one call in a thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from lpi.serve.limits import RefusedError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")

OnBatch = Callable[[str, int, float], None]


@dataclass(frozen=True, eq=False)
class _Asked(Generic[Key, Item, Answer]):
    key: Key
    item: Item
    answer: asyncio.Future[Answer]


class Batcher(Generic[Key, Item, Answer]):
    """Work that is done in threads, for all who wait for the same kind of it at once.

    Nobody is made to wait so that a batch gets larger: whenever a thread is free, it takes whoever waits longest,
    and with them all others of the same key. Under load the batches grow by themselves.

    Args:
        name: what it is called in metrics and messages.
        work: gives an answer for each item of one key.
        most: items of a batch at most.
        waiting: questions that may wait; one more is refused.
        workers: threads.
        on_start: called in each thread before its first batch.
        on_batch: told its name, the size of a batch and the seconds that it took.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Key, Sequence[Item]], Sequence[Answer]],
        *,
        most: int = 64,
        waiting: int = 256,
        workers: int = 1,
        on_start: Callable[[], None] = lambda: None,
        on_batch: OnBatch = lambda name, size, seconds: None,
    ) -> None:
        self.name, self.most, self.room = name, most, waiting
        self._work, self._on_batch = work, on_batch
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"lpi-{name}", initializer=on_start)
        self._free = workers
        self._waiting: deque[_Asked[Key, Item, Answer]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._woken = False

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    async def ask(self, key: Key, item: Item) -> Answer:
        """The answer for one item. Who stops waiting is passed over.

        Args:
            key: only items of equal keys are answered together.
            item: what to answer.

        Raises:
            RefusedError: too many wait already.
        """
        if len(self._waiting) >= self.room:
            self._waiting = deque(asked for asked in self._waiting if not asked.answer.done())
        if len(self._waiting) >= self.room:
            raise RefusedError(503, f"{len(self._waiting)} requests wait already. Try again in a moment.")
        asked = _Asked[Key, Item, Answer](key, item, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._wake_soon()
        return await asked.answer

    def close(self) -> None:
        """Let the threads end. What waits is not begun any more."""
        for asked in self._waiting:
            asked.answer.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _wake_soon(self) -> None:
        """Look for work when everybody who is about to ask has asked."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._woken = False
        while self._free and (batch := self._take()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)  # the loop itself keeps no hold on it
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[_Asked[Key, Item, Answer]]:
        batch: list[_Asked[Key, Item, Answer]] = []
        others: deque[_Asked[Key, Item, Answer]] = deque()
        for asked in self._waiting:
            if asked.answer.done():  # whoever asked has gone
                continue
            fits = not batch or (len(batch) < self.most and asked.key == batch[0].key)
            (batch if fits else others).append(asked)
        self._waiting = others
        return batch

    async def _run(self, batch: list[_Asked[Key, Item, Answer]]) -> None:
        items = [asked.item for asked in batch]
        started = time.perf_counter()
        answers: Sequence[Answer | BaseException]
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._threads, self._answers, batch[0].key, items)
        except RuntimeError as error:  # the threads were told to end
            answers = [error] * len(batch)
        self._free += 1
        self._wake_soon()
        self._on_batch(self.name, len(batch), time.perf_counter() - started)
        for asked, answer in zip(batch, answers, strict=True):
            if asked.answer.done():
                continue
            if isinstance(answer, BaseException):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)

    def _answers(self, key: Key, items: Sequence[Item]) -> list[Answer | Exception]:
        """In a thread: an answer for each, or why there is none. What is wrong with one spoils no other's."""
        try:
            return list(self._work(key, items))
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [answer for item in items for answer in self._answers(key, [item])]
