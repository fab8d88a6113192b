"""What a program has sent of the user's voice: handed to the session as it listens, or kept until it is committed."""

import asyncio
from collections import deque
from collections.abc import Callable

from app.serve.wire import BYTES_PER_MS, PCM_HZ, ApiError, samples_of
from app.session import Session
from app.turn_taking import State
from audio_io.browser import BrowserDevice

_PIECE = 250 * BYTES_PER_MS  # given to the session at once
_QUIET_S = 0.5  # a voice that stops coming for so long has stopped
_SILENCE_S = 0.1


class Ears:
    """The input audio buffer. All calls belong to one event loop."""

    def __init__(
        self, device: BrowserDevice, session: Session, *, max_waiting_s: float, nothing: Callable[[], None]
    ) -> None:
        """`nothing`: called when a turn is to end that has not begun."""
        self._device, self._session, self._nothing = device, session, nothing
        self._limit = round(max_waiting_s * 1000) * BYTES_PER_MS
        self._manual = False
        self._held = bytearray()  # if so
        self._waiting: deque[bytes | None] = deque()  # for the session; None: the turn ends here
        self._num_waiting = 0
        self._changed = asyncio.Event()

    @property
    def manual(self) -> bool:
        """The program says when a turn is over."""
        return self._manual

    @manual.setter
    def manual(self, on: bool) -> None:
        self._manual = on
        self._changed.set()

    def append(self, pcm: bytes) -> None:
        """More of the voice. Raises ApiError when too much waits."""
        if len(self._held) + self._num_waiting + len(pcm) > self._limit:
            longest = self._limit // BYTES_PER_MS // 1000
            raise ApiError(
                f"more than {longest} s of sound wait; commit or clear them.", code="input_audio_buffer_full"
            )
        if self._manual:
            self._held += pcm
            return
        for start in range(0, len(pcm), _PIECE):
            self._waiting.append(pcm[start : start + _PIECE])
        self._num_waiting += len(pcm)
        self._changed.set()

    def end_turn(self) -> None:
        """What was appended so far is all of the turn."""
        self._waiting.append(None)
        self._changed.set()

    def take(self) -> bytes:
        """What is kept; it is kept no longer."""
        pcm = bytes(self._held)
        self._held.clear()
        return pcm

    async def clear(self) -> None:
        """Forget what was appended."""
        self._held.clear()
        self._waiting.clear()
        self._num_waiting = 0
        await self._session.forget_turn()

    def state_changed(self) -> None:
        """It may matter now that nothing comes."""
        self._changed.set()

    async def run(self) -> None:
        """Hand the voice on as fast as the session listens; where it just stops in a turn, silence follows."""
        quiet = False
        while True:
            if self._waiting:
                quiet = False
                await self._give(self._waiting.popleft())
                continue
            self._changed.clear()
            silence_s = _SILENCE_S if quiet else _QUIET_S
            idle = self.manual or self._session.state is State.LISTENING
            try:
                async with asyncio.timeout(None if idle else silence_s):
                    await self._changed.wait()
                if idle and self._waiting:
                    self._device.resume()
            except TimeoutError:
                quiet = True
                await self._give(bytes(round(silence_s * PCM_HZ) * 2))

    async def _give(self, pcm: bytes | None) -> None:
        if pcm is None:
            if self._session.state is State.USER_SPEAKING:
                await self._session.end_turn()
            else:
                self._nothing()
            return
        self._num_waiting = max(0, self._num_waiting - len(pcm))
        self._device.capture(samples_of(pcm))
        await self._device.taken()
