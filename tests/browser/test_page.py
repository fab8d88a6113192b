"""The page in a real browser with a microphone made of a recording, and the bundled models behind it.

Needs Debian's chromium; skipped without it, unless ASSISTANT_REQUIRE_CHROMIUM is set. Screenshots: build/screenshots.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from app.ask import SAMPLE_QUESTION
from app.small.judges import hear_moonshine
from audio_io.base import PLAYBACK_HZ
from audio_io.file import read_audio, write_wav
from audio_io.resample import resample

CHROMIUM = shutil.which("chromium")
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "screenshots"
WAIT_MS = 60_000
LOOKED_AT = 6_000  # a quarter of a second of the reply
BLOCKED = "Content Security Policy"  # what Gradio's document would fetch from elsewhere

# Everything that goes to the loudspeaker also goes to `window.heard`.
TAP = """
const connect = AudioNode.prototype.connect;
window.heard = [];
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode) {
    const context = this.context;
    if (!context.tap) {
      context.tap = context.createScriptProcessor(16384, 1, 1);
      context.tap.onaudioprocess = (event) => window.heard.push(Array.from(event.inputBuffer.getChannelData(0)));
      connect.call(context.tap, context.destination);
      window.heardHz = context.sampleRate;
    }
    connect.call(this, context.tap);
  }
  return connect.call(this, to, ...rest);
};
"""

if CHROMIUM is None and not os.environ.get("ASSISTANT_REQUIRE_CHROMIUM"):
    pytest.skip("chromium is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Where the page keeps voices."""
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def address(voices):
    """`launch.py web`, running."""
    command = [sys.executable, "launch.py", "web", "--port", "0", "--set", f"web.voices={voices}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            yield found[0]
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    """What the microphone hears: a second of silence, the sample question, a long silence."""
    samples = read_audio(SAMPLE_QUESTION, 48_000).samples
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    write_wav(path, np.concatenate([np.zeros(48_000, np.float32), samples, np.zeros(60 * 48_000, np.float32)]), 48_000)
    return path


@pytest.fixture(scope="module")
def browser(question):
    """Chromium with that microphone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={question}%noloop", "--disable-background-networking",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )  # fmt: skip
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser, address):
    """Opens pages; none of them may report an error of its own."""
    contexts, errors = [], []

    def failed(request):
        # a request that the page itself gave up, as when it is closed or loaded again, is no error
        if address in request.url and "ERR_ABORTED" not in (request.failure or ""):
            errors.append(f"{request.failure} {request.url}")

    def new(width=1280, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.add_init_script(TAP)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", failed)
        page.goto(address)
        page.wait_for_selector("#va[data-bound]")
        return page

    yield new
    for context in contexts:
        context.close()
    assert [error for error in errors if BLOCKED not in error] == []


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def best_match(samples, part):
    """Where a part of a recording is in a longer one, and its correlation with what is there."""
    match = signal.correlate(samples, part, "valid")
    energy = np.cumsum(np.concatenate(([0.0], samples.astype(np.float64) ** 2)))
    norm = np.sqrt(np.maximum(energy[len(part) :] - energy[: -len(part)], 1e-6)) * np.linalg.norm(part)
    alike = match / norm
    best = int(alike.argmax())
    return best, float(alike[best])


def type_line(page, text):
    page.fill("#va-text", text)
    page.press("#va-text", "Enter")


def test_a_person_asks_aloud_and_hears_the_answer(new_page, tmp_path):
    page = new_page()
    shot(page, "idle-1280-light")
    assert "asr.backend=moonshine" in page.inner_text("#va-limits")
    page.click("#va-talk")
    page.wait_for_selector(".va-user:not(.va-partial) >> text=two plus three")
    page.wait_for_selector(".va-word.va-now")  # words light up while they sound
    shot(page, "speaking-1280-light")
    page.wait_for_selector(".va-latency")
    page.wait_for_timeout(500)
    assert "five" in page.inner_text(".va-assistant").lower()
    assert page.inner_text("#va-state") == "Listening"
    assert page.locator("#va-latency .va-tile").count() == 3
    heard = np.array(page.evaluate("window.heard.flat()"), np.float32)
    heard = resample(heard, page.evaluate("window.heardHz"), PLAYBACK_HZ)
    with page.expect_download() as download:
        page.click("#va-recording")
    download.value.save_as(tmp_path / "both.wav")
    both, rate = soundfile.read(tmp_path / "both.wav", dtype="float32")
    assert rate == PLAYBACK_HZ
    reply = both[np.flatnonzero(np.abs(both[:, 1]) > 0.003)[0] :, 1]
    reply = reply[: np.flatnonzero(np.abs(reply) > 0.003)[-1] + 1]
    begin = best_match(heard, reply[:LOOKED_AT])[0]
    alike = []
    for start in range(0, len(reply) - LOOKED_AT + 1, LOOKED_AT):
        # on a busy machine the loudspeaker runs dry for a moment: parts are looked for one by one, and a gap may be in one
        first = max(0, begin + start - LOOKED_AT)
        alike.append(best_match(heard[first : first + 4 * LOOKED_AT], reply[start : start + LOOKED_AT])[1] > 0.9)
    assert np.mean(alike) > 0.7  # what the loudspeaker got is what the recording says it got
    assert {"five", "5"} & set(re.findall(r"\w+", hear_moonshine(heard, PLAYBACK_HZ).lower()))


def test_a_person_interrupts_by_speaking_over_the_reply(new_page):
    page = new_page()
    type_line(page, "tell me a story about a fox")
    page.wait_for_selector("#va[data-state='bot speaking']")
    page.click("#va-talk")  # the question is in the microphone a second later
    page.wait_for_selector(".va-turn:nth-of-type(1) .va-mark >> text=interrupted")
    unheard = page.locator(".va-turn:nth-of-type(1) .va-unheard")
    assert unheard.inner_text().strip()
    assert unheard.evaluate("tail => Number(getComputedStyle(tail).opacity)") < 0.6
    shot(page, "interrupted-by-voice-1280-light")
    page.wait_for_selector(".va-turn:nth-of-type(2) .va-user:not(.va-partial) >> text=two plus three")
    page.wait_for_selector(".va-turn:nth-of-type(2) .va-latency")
    assert "five" in page.inner_text(".va-turn:nth-of-type(2) .va-assistant").lower()


def test_typing_stopping_and_loading_again(new_page):
    page = new_page(390, 844, "dark")
    type_line(page, "tell me a story about a fox")
    page.wait_for_selector("#va[data-state='bot speaking']")
    page.wait_for_timeout(700)
    page.click("#va-stop")
    page.wait_for_selector(".va-mark >> text=interrupted")
    assert page.locator(".va-unheard").count() == 1
    shot(page, "interrupted-390-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.reload()
    page.wait_for_selector(".va-user >> text=tell me a story about a fox")
    assert page.inner_text("#va-talk") == "Continue talking"
    type_line(page, "hello there")
    page.wait_for_selector(".va-turn:nth-of-type(2) .va-latency")
    assert page.locator(".va-user").count() == 2


def test_two_tabs_are_two_conversations(new_page):
    one, two = new_page(), new_page(390, 844)
    type_line(one, "hello there")
    type_line(two, "what is the opposite of hot")
    one.wait_for_selector(".va-latency")
    two.wait_for_selector(".va-latency")
    assert one.inner_text(".va-user") == "hello there"
    assert "cold" in two.inner_text(".va-assistant").lower()
    shot(two, "turn-390-light")


def test_a_voice_is_uploaded_checked_named_used_and_deleted(new_page, voices, tmp_path):
    page = new_page(scheme="dark")
    page.click("#va-add >> text=Add a voice")
    letter = tmp_path / "letter.wav"
    letter.write_text("Dear Sir or Madam, this is a letter. " * 50)
    page.set_input_files("#va-reference input[type=file]", letter)
    page.wait_for_selector("#va-verdict >> text=cannot be read as audio")
    page.click("#va-reference button[aria-label='Clear']")
    samples = read_audio(SAMPLE_QUESTION, 24_000).samples
    good = tmp_path / "good.wav"
    write_wav(good, np.concatenate([samples, np.zeros(9_600, np.float32)] * 3), 24_000)
    page.set_input_files("#va-reference input[type=file]", good)
    page.wait_for_selector("#va-verdict >> text=trimmed and levelled")
    assert "two plus three" in page.input_value("#va-candidate textarea").lower()
    page.fill("#va-name input, #va-name textarea", "Sam")
    page.click("#va-keep")
    page.wait_for_selector("#va-verdict >> text=agrees")
    page.check("#va-consent input")
    page.click("#va-keep")
    page.wait_for_selector("#va-verdict >> text=spoken by Sam")
    shot(page, "voice-1280-dark")
    assert page.input_value("#va-voice input") == "Sam"
    type_line(page, "hello there")
    page.wait_for_selector(".va-latency")
    assert page.evaluate("window.assistant.settings.voice") == "Sam"
    (kept,) = voices.iterdir()
    page.click("#va-delete")
    page.wait_for_selector("#va-verdict >> text=choose the voice to delete")
    assert kept.exists()
    page.click("#va-unwanted input")
    page.click("[role=option] >> text=Sam")
    page.click("#va-delete")
    page.wait_for_selector("#va-verdict >> text=Sam was deleted")
    assert not kept.exists()
    page.wait_for_function("document.querySelector('#va-voice input').value !== 'Sam'")
    for dropdown in ("#va-unwanted", "#va-voice"):
        page.click(f"{dropdown} input")
        assert "Sam" not in page.locator("[role=option]").all_inner_texts()
        page.keyboard.press("Escape")
    type_line(page, "hello there")
    page.wait_for_selector(".va-turn:nth-of-type(2) .va-latency")
    assert page.evaluate("window.assistant.settings.voice") != "Sam"
