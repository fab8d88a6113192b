"""The page: our conversation panel in HTML, and Gradio's components for voices and settings beside it.

The conversation does not go through Gradio: `static/talk.js` talks to the WebSocket. Settings are handed to it in the
browser; voices are files of this server, so their handlers run here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app.web.person import RANGES, defaults
from app.web.voices import OWN, Candidate, VoiceLibrary
from asr import limits
from audio_io.base import PLAYBACK_HZ
from configs.schema import MAX_REFERENCE_S, AppConfig
from tts.base import SynthesisError, VoiceError

STATIC = Path(__file__).parent / "static"
TITLE = "Voice assistant"
PREVIEW = "Good morning, it is nice to meet you."

_SET = "value => { window.assistant.set(%s, value); }"
_AUDIO_TYPES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Page:
    """Gradio's part of the page and what its document needs."""

    blocks: gr.Blocks
    head: str
    css: str
    theme: gr.themes.Base


def build(config: AppConfig, library: VoiceLibrary) -> Page:
    """Make the page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as blocks:
        with gr.Row(elem_id="va-columns", equal_height=False):
            with gr.Column(scale=3, min_width=320, elem_id="va-main"):
                gr.HTML((STATIC / "talk.html").read_text("utf-8"), apply_default_css=False, padding=False)
                if weak := limits(config.asr):
                    gr.Markdown(f"<small>{_plain(weak)}</small>", elem_id="va-limits")
            with gr.Column(scale=2, min_width=320, elem_id="va-side"):
                chosen = gr.Dropdown(
                    [OWN, *library.names()],
                    value=OWN,
                    label="Voice",
                    info="The next reply is spoken in it.",
                    elem_id="va-voice",
                )
                chosen.input(None, [chosen], None, js=_SET % '"voice"', queue=False)
                with gr.Accordion("Add a voice", open=False, elem_id="va-add"):
                    _voice_maker(library, chosen)
                with gr.Accordion("Settings", open=False, elem_id="va-settings"):
                    settings = _settings(config)
                with gr.Accordion("Latency", open=True, elem_id="va-latency-box"):
                    gr.HTML('<div id="va-latency"></div>', apply_default_css=False, padding=False)
        settings = {"voice": chosen, **settings}
        shown = list(settings.values())
        kept = f"(...shown) => window.assistant ? window.assistant.kept({json.dumps(list(settings))}, shown) : shown"
        blocks.load(
            lambda: gr.Dropdown([OWN, *library.names()]),
            None,
            [chosen],
            show_progress="hidden",
            api_visibility="private",
        ).then(None, shown, shown, js=kept)
    head = (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="/talk/static/icon.svg" type="image/svg+xml">'
        '<script type="module" src="/talk/static/talk.js"></script>'
    )
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    return Page(blocks, head, (STATIC / "page.css").read_text("utf-8"), theme)


def _settings(config: AppConfig) -> dict[str, Any]:
    """Sliders and the system prompt by the names of their settings; each takes effect at the next turn."""
    start = defaults(config)
    sliders = {
        "speed": gr.Slider(*RANGES["speed"], start["speed"], step=0.05, label="Speaking rate"),
        "silence_ms": gr.Slider(
            *RANGES["silence_ms"],
            start["silence_ms"],
            step=50,
            label="Silence that ends your turn (ms)",
            info="Shorter after whole questions, longer after a trailing word such as 'and'.",
        ),
        "temperature": gr.Slider(
            *RANGES["temperature"], start["temperature"], step=0.05, label="Temperature of the language model"
        ),
        "lookahead": gr.Slider(
            *RANGES["lookahead"], start["lookahead"], step=1, label="Look-ahead of the voice (text tokens)"
        ),
    }
    for key, slider in sliders.items():
        slider.input(None, [slider], None, js=_SET % json.dumps(key), queue=False)
    prompt = gr.Textbox(
        start["system_prompt"], lines=2, max_lines=6, label="System prompt", max_length=2000, elem_id="va-prompt"
    )
    prompt.blur(None, [prompt], None, js=_SET % '"system_prompt"', queue=False)
    return {**sliders, "system_prompt": prompt}


def _voice_maker(library: VoiceLibrary, chosen: gr.Dropdown) -> None:
    """Record or upload, check, hear, name, keep; and delete."""
    state = gr.State(None)
    recording = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label=f"3 to {MAX_REFERENCE_S:g} seconds of one person, without music",
        editable=False,
        elem_id="va-reference",
    )
    verdict = gr.Markdown("", elem_id="va-verdict", visible=False)
    with gr.Group(visible=False, elem_id="va-candidate") as details:
        transcript = gr.Textbox(label="What is said in it", info="Correct it where it is wrong.", lines=2)
        with gr.Row():
            sentence = gr.Textbox(PREVIEW, label="Say something", max_length=200, scale=3, min_width=160)
            preview = gr.Button("Preview", scale=1, min_width=100, elem_id="va-preview")
        heard = gr.Audio(label="Preview", interactive=False, visible=False, autoplay=True, elem_id="va-heard")
        name = gr.Textbox(label="Name", max_length=40, placeholder="for example: Anna", elem_id="va-name")
        consent = gr.Checkbox(
            label="The speaker agrees that this voice is used here.", value=False, elem_id="va-consent"
        )
        keep = gr.Button("Save and use this voice", variant="primary", elem_id="va-keep")
    with gr.Row():
        unwanted = gr.Dropdown(
            library.names(), value=None, label="Delete a voice", scale=3, min_width=160, elem_id="va-unwanted"
        )
        delete = gr.Button("Delete", variant="stop", scale=1, min_width=100, elem_id="va-delete")

    def complaint(text: str) -> Any:
        return gr.Markdown(f"⚠ {_plain(text)}", visible=True)

    def fine(candidate: Candidate, notes: tuple[str, ...] = ()) -> Any:
        told = "".join(f"\n- {_plain(note)}" for note in (*candidate.notes, *notes))
        return gr.Markdown(f"✓ {candidate.seconds:.1f} s of speech, trimmed and levelled.{told}", visible=True)

    async def examine(path: str | None) -> tuple[Any, ...]:
        if not path:
            return None, gr.Markdown("", visible=False), gr.Group(visible=False), "", gr.Audio(visible=False)
        try:
            if Path(path).suffix.lower() not in _AUDIO_TYPES:
                raise VoiceError(f"{Path(path).name}: give a WAV, FLAC, OGG or MP3 recording.")
            candidate = await library.examine(Path(path))
        except VoiceError as error:
            return None, complaint(str(error)), gr.Group(visible=False), "", gr.Audio(visible=False)
        return candidate, fine(candidate), gr.Group(visible=True), candidate.transcript, gr.Audio(visible=False)

    async def hear(candidate: Candidate | None, text: str, said: str) -> tuple[Any, Any]:
        if candidate is None:
            return gr.skip(), complaint("choose a recording first.")
        try:
            made = await library.preview(candidate, text, said)
        except SynthesisError as error:
            return gr.skip(), complaint(str(error))
        pcm = (np.clip(made.samples, -1, 1) * 32767).astype(np.int16)
        return gr.Audio((PLAYBACK_HZ, pcm), visible=True), fine(candidate, made.notes)

    async def save(candidate: Candidate | None, text: str, called: str, agreed: bool) -> tuple[Any, ...]:
        nothing = (gr.skip(),) * 6
        if candidate is None:
            return complaint("choose a recording first."), *nothing
        try:
            await library.save(called, candidate, text, consent=agreed)
        except VoiceError as error:
            return complaint(str(error)), *nothing
        called = " ".join(called.split())
        return (
            gr.Markdown(f"✓ The next reply is spoken by {_plain(called)}.", visible=True),
            gr.Dropdown([OWN, *library.names()], value=called),
            gr.Dropdown(library.names(), value=None),
            None,
            gr.Group(visible=False),
            "",
            False,
        )

    async def remove(called: str | None, using: str | None) -> tuple[Any, ...]:
        if not called:
            return complaint("choose the voice to delete."), gr.skip(), gr.skip()
        try:
            library.delete(called)
        except VoiceError as error:
            return complaint(str(error)), gr.skip(), gr.skip()
        names = library.names()
        return (
            gr.Markdown(f"✓ {_plain(called)} was deleted.", visible=True),
            gr.Dropdown([OWN, *names], value=OWN if using == called or using not in names else using),
            gr.Dropdown(names, value=None),
        )

    use = _SET % '"voice"'
    recording.input(
        examine,
        [recording],
        [state, verdict, details, transcript, heard],
        show_progress_on=[verdict],
        trigger_mode="always_last",  # a recording that comes while another one is examined must not be dropped
        api_visibility="private",
    )
    preview.click(hear, [state, sentence, transcript], [heard, verdict], api_visibility="private")
    keep.click(
        save,
        [state, transcript, name, consent],
        [verdict, chosen, unwanted, recording, details, name, consent],
        api_visibility="private",
    ).then(None, [chosen], None, js=use)
    delete.click(remove, [unwanted, chosen], [verdict, chosen, unwanted], api_visibility="private").then(
        None, [chosen], None, js=use
    )


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()<>#+-!|" else char for char in text)
