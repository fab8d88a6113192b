"""Everybody who talks: at most so many at once, the others wait in line; who goes away is forgotten after a while."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from app.web.person import Person

log = logging.getLogger(__name__)

MAX_WAITING = 50


class FullError(Exception):
    """Too many people wait already."""


class People:
    """The running conversations. All calls belong to one event loop."""

    def __init__(self, new: Callable[[], Person], *, limit: int) -> None:
        self._new, self._limit = new, limit
        self._talking: dict[str, asyncio.Task[None]] = {}
        self._people: dict[str, Person] = {}
        self._waiting: deque[Place] = deque()
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._people)

    def find(self, name: str | None) -> Person | None:
        """A running conversation."""
        return self._people.get(name or "")

    def place(self, told: Callable[[int], None]) -> "Place":
        """Stand in line; `told` learns the position, from 1, whenever it changes. Raises FullError."""
        if len(self._waiting) >= MAX_WAITING:
            raise FullError("too many people are waiting; come back later.")
        place = Place(told)
        self._waiting.append(place)
        self._admit()
        return place

    def give_up(self, place: "Place") -> None:
        """Leave the line, or the conversation that nobody has begun."""
        if place in self._waiting:
            self._waiting.remove(place)
            self._admit()
        elif place.person.done() and not place.person.cancelled():
            self.leave(place.person.result())

    def stay(self, person: Person) -> None:
        """He is here (again)."""
        timer = self._leaving.pop(person.id, None)
        if timer:
            timer.cancel()

    def leave(self, person: Person, within_s: float = 0.0) -> None:
        """He is gone; forget him unless he is back in time."""
        self.stay(person)
        if within_s > 0:
            loop = asyncio.get_running_loop()
            self._leaving[person.id] = loop.call_later(within_s, self._forget, person)
        else:
            self._forget(person)

    async def close(self) -> None:
        """End every conversation."""
        tasks = list(self._talking.values())
        for person in list(self._people.values()):
            self.leave(person)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self) -> None:
        while self._waiting and len(self._talking) < self._limit:
            person = self._new()
            self._people[person.id] = person
            task = asyncio.create_task(person.run(), name=f"conversation {person.id[:6]}")
            self._talking[person.id] = task
            task.add_done_callback(partial(self._ended, person))
            self._waiting.popleft().person.set_result(person)
        for index, place in enumerate(self._waiting):
            place.told(index + 1)

    def _forget(self, person: Person) -> None:
        self._leaving.pop(person.id, None)
        self._people.pop(person.id, None)
        person.close()
        task = self._talking.get(person.id)
        if task:
            task.cancel()

    def _ended(self, person: Person, task: "asyncio.Task[None]") -> None:
        """A conversation's task is over: by itself, by an error, or cancelled; a place is free."""
        if not task.cancelled() and task.exception():
            log.error("a conversation ended: %s", task.exception())
            person.failed(str(task.exception()))
        self._talking.pop(person.id, None)
        self._people.pop(person.id, None)
        self.stay(person)
        self._admit()


class Place:
    """A place in the line; `person` is set when it is his turn."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self.told = told
        self.person: asyncio.Future[Person] = asyncio.get_running_loop().create_future()
