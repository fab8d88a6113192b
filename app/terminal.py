"""The terminal of a live conversation: levels, what is being said, one line per turn; and the keys."""

import asyncio
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from app.events import BotSpeaking, Failed, Interrupted, ReplyText, SessionEvent, TurnDone, UserSpeaking, UserText
from app.live import LiveDevice
from app.trace import waterfall_line
from app.turn_taking import State

REFRESH_HZ = 12
_QUIET_DB = -60.0
_BAR = 12
LEAVE = "\x04"  # what a terminal sends for the end of input
HELP = "m mute · t type · s stop · space push-to-talk · Ctrl+C stop, twice leave · q leave"
_SHOWN = {
    State.LISTENING: ("listening", "green"),
    State.USER_SPEAKING: ("hearing you", "cyan"),
    State.THINKING: ("thinking", "yellow"),
    State.BOT_SPEAKING: ("speaking", "magenta"),
}


class TalkScreen:
    """Draws the running turn at the bottom; finished turns scroll up. Use it in `with`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.device: LiveDevice | None = None
        self.state: Callable[[], State] = lambda: State.LISTENING
        self.push_to_talk = False
        self.typed: str | None = None  # a line that is being typed
        self._user, self._words, self._spoken, self._note = "", list[str](), 0, ""
        self._live = Live(
            console=console,
            refresh_per_second=REFRESH_HZ,
            get_renderable=self._draw,
            transient=True,
            redirect_stderr=False,
        )

    def __enter__(self) -> "TalkScreen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """One line of news."""
        self._console.print(Text(text, style="dim"))

    def show(self, event: SessionEvent) -> None:
        """Take one event of the session."""
        match event:
            case UserSpeaking():
                self._user, self._words, self._spoken = "", [], 0
            case UserText(text=text, final=final):
                self._user = text
                if final:
                    self._console.print(Text.assemble(("you  ", "bold cyan"), text))
                    self._words, self._spoken = [], 0
            case ReplyText(text=text):
                self._words.append(text)
            case BotSpeaking(token_end=end):
                self._spoken = max(self._spoken, end)
            case Interrupted() | Failed():
                pass
            case TurnDone(trace=trace):
                said, unheard = trace.heard.strip(), trace.reply[len(trace.heard) :].rstrip()
                line = Text.assemble(("assistant  ", "bold magenta"), said, (unheard, "dim"))
                if trace.error:
                    line.append(f" [{trace.error}]", style="red")
                self._console.print(line)
                self._console.print(Text(waterfall_line(trace), style="dim"))
                self._user, self._words, self._spoken = "", [], 0

    def _draw(self) -> Group:
        device, (name, colour) = self.device, _SHOWN[self.state()]
        muted = device is not None and not device.open
        head = Text.assemble(
            ("● ", colour), (name.ljust(12), colour), "mic ", _bar(device.input_level if device else 0.0),
            "  out ", _bar(device.output_level if device else 0.0),
            ("  muted" if muted and not self.push_to_talk else "", "bold red"),
            ("  push to talk: space" if self.push_to_talk else "", "yellow"),
        )  # fmt: skip
        lines = [head]
        if self._user and not self._words:
            lines.append(Text.assemble(("you  ", "cyan"), self._user, " …"))
        if self._words:
            spoken, waiting = "".join(self._words[: self._spoken]), "".join(self._words[self._spoken :])
            lines.append(Text.assemble(("assistant  ", "magenta"), spoken.lstrip(), (waiting, "dim")))
        lines.append(
            Text(f"> {self.typed}▏" if self.typed is not None else HELP, style="" if self.typed is not None else "dim")
        )
        return Group(*lines)


def _bar(level: float) -> Text:
    """A meter from -60 to 0 dBFS."""
    db = 20 * math.log10(max(level, 1e-6))
    filled = round(_BAR * min(1.0, max(0.0, 1 - db / _QUIET_DB)))
    return Text("▮" * filled + "▯" * (_BAR - filled), style="green" if db < -6 else "red")


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call `on_key` for every character typed, without waiting for Enter; `LEAVE` when the terminal is gone."""
    import termios
    import tty

    stream, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(stream)

    def read() -> None:
        try:
            typed = os.read(stream, 1024)
        except OSError:
            typed = b""
        if not typed:  # hung up: it would be readable for ever
            loop.remove_reader(stream)
        for character in typed.decode(errors="ignore") or LEAVE:
            on_key(character)

    tty.setcbreak(stream)
    loop.add_reader(stream, read)
    try:
        yield
    finally:
        loop.remove_reader(stream)
        with suppress(termios.error):
            termios.tcsetattr(stream, termios.TCSADRAIN, before)
