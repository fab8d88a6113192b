"""Every run-time knob: one frozen tree of dataclasses. Units are in the names; each knob has one line of documentation.

A path knob takes `bundled` for the small model that ships in the repository, or a folder.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

BUNDLED = "bundled"
NONE = "none"  # in the place of a model: there is none
SILERO = "silero"  # voice activity by the silero-vad package
MAX_REFERENCE_S = 15.0  # of a recording that a voice is made from


class ConfigError(Exception):
    """A configuration cannot be used; the message says what, where and what to do next."""


def knob(default: Any, doc: str, *, at_least: float = 0) -> Any:
    """A field with a default, its line of documentation, and the smallest number that it takes."""
    metadata = {"doc": doc, "at_least": at_least}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The process."""

    device: str = knob("auto", "where the models run: auto, cpu, cuda or cuda:N")
    num_threads: int = knob(1, "CPU threads of each model; small models are fastest with one", at_least=1)
    tts_workers: int = knob(
        0,
        "threads that speak, for replies at the same time; 0: as many as there are CPU cores in `web` and `serve`, one on a "
        "GPU and for a single conversation",
    )
    cuda_streams: Literal["one", "own"] = knob(
        "one",
        "on a GPU: one stream for all models, or one each for recogniser and voice, of which the voice's goes first",
    )
    log_level: Literal["debug", "info", "warning", "error"] = knob("warning", "how much is written to standard error")


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """The frames of the session and how far the reply may run ahead."""

    max_ahead_s: float = knob(5.0, "how far synthesis may run ahead of playback")
    flush_fade_ms: float = knob(5.0, "fade-out when the reply is interrupted")
    duck_gain: float = knob(0.2, "level of the reply while the user makes himself heard over it; 1 leaves it as it is")
    duck_fade_ms: float = knob(20.0, "fade to that level, and back when it was nothing")
    input_device: str = knob("", "microphone: id or part of the name; empty = the system's default")
    output_device: str = knob("", "loudspeaker: id or part of the name; empty = the system's default")
    echo: Literal["webrtc", "half_duplex", "off"] = knob(
        "webrtc",
        "webrtc takes the assistant's voice out of the microphone; half_duplex is deaf while it speaks; off for headphones",
    )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """When the user's turn is over."""

    complete_silence_ms: int = knob(300, "silence after words that are all, as good as surely")
    probable_silence_ms: int = knob(420, "silence after words that are probably all; another sentence may follow")
    min_silence_ms: int = knob(650, "silence where no word is known: another language, or gibberish")
    incomplete_silence_ms: int = knob(900, "silence after words that call for more ('what is the', 'tell me', 'uh')")
    sound: Literal["auto", "always", "never"] = knob(
        "auto",
        "judge by how the voice sounds, too; it knows synthetic voices only: auto is with the bundled recogniser alone",
    )
    smart_turn: str = knob(
        "", "Smart Turn's ONNX file, which judges people's voices too: asked by any recogniser, unless sound is never"
    )
    speculation: Literal["none", "llm", "tts"] = knob(
        "tts",
        "what is begun within that silence, unheard, and dropped when the user goes on: nothing, the reply's words, its voice",
    )
    backchannel: tuple[str, ...] = knob(
        (
            "uh",
            "uh-huh",
            "uhuh",
            "mhm",
            "mm-hmm",
            "mm",
            "hm",
            "hmm",
            "ah",
            "oh",
            "huh",
            "yeah",
            "yep",
            "yes",
            "okay",
            "ok",
            "right",
            "sure",
            "wow",
        ),
        "words over a reply that do not interrupt it, alone or one after another",
    )
    aside_ms: int = knob(
        800,
        "a voice over a reply is taken for words that interrupt it when it lasts longer, or when it ends; 0: at once",
    )
    max_turn_s: float = knob(30.0, "longest turn; a longer one is answered as far as it was recognised")


@dataclass(frozen=True, kw_only=True)
class AsrConfig:
    """Voice activity, recognition, end of turn."""

    backend: Literal["paraformer", "moonshine"] = knob(
        "paraformer", "FunASR's Paraformer, or Moonshine, which comes with its package and understands people's English"
    )
    model: str = knob(BUNDLED, "Paraformer of the final pass: bundled, a FunASR folder or name")
    streaming_model: str = knob(BUNDLED, "Paraformer of the partial transcripts: bundled, a FunASR folder or name")
    word_search: bool = knob(
        True, "choose the final words with a language model where the recogniser's folder names one"
    )
    vad: str = knob(SILERO, "what hears that there is a voice: silero, or the folder or name of FunASR's fsmn-vad")
    punctuation: str = knob(NONE, "none, or the folder or name of FunASR's ct-punc, for the recogniser's final words")
    vad_threshold: float = knob(0.5, "speech probability at which a voice counts as speaking")
    notice_threshold: float = knob(0.25, "speech probability at which the reply is ducked, until more is known")
    min_speech_ms: int = knob(120, "shorter bursts are no speech")
    sustained_ms: int = knob(
        250, "a voice of this length silences the reply, until it is known whether its words interrupt it"
    )
    pre_roll_ms: int = knob(300, "audio kept from before the detected start of speech")
    partial_interval_ms: int = knob(480, "how often a partial transcript is made", at_least=1)
    endpoint: EndpointConfig = knob(EndpointConfig, "end of turn")


@dataclass(frozen=True, kw_only=True)
class LlmConfig:
    """The chat model."""

    engine: Literal["auto", "transformers", "vllm", "openai"] = knob(
        "auto", "auto takes vLLM where it is installed and a GPU is there; openai asks the server at llm.url"
    )
    url: str = knob(
        "http://127.0.0.1:8000/v1", "server that speaks OpenAI's protocol, such as `vllm serve` (openai only)"
    )
    model: str = knob(BUNDLED, "bundled, a folder, or the name of a Qwen instruct model on a hub")
    vllm_process: Literal["own", "child"] = knob(
        "own", "where vLLM computes: in this process, or in a child that this process's interpreter lock cannot delay"
    )
    gpu_share: float = knob(
        0.0,
        "share of the GPU's memory for vLLM; 0 leaves to recogniser and voice what they need (see `launch.py doctor`)",
    )
    system_prompt: str = knob("You are a small, friendly voice assistant.", "the first message of every conversation")
    max_reply_tokens: int = knob(160, "longest reply", at_least=1)
    max_context_tokens: int = knob(
        640,
        "conversation kept for the model; beyond it the older half is dropped, so that the rest stays in its cache",
        at_least=1,
    )
    temperature: float = knob(0.0, "0 takes the likeliest token")
    top_p: float = knob(1.0, "nucleus of the sampling")
    max_ahead_tokens: int = knob(
        0,
        "the model pauses when it has written so many tokens more than are spoken, which leaves the CPU to the voice; 0: never",
    )
    first_token_timeout_s: float = knob(20.0, "a reply that has not begun by then, or not gone on, is given up")
    seed: int = knob(0, "seed of the sampling")


@dataclass(frozen=True, kw_only=True)
class InterleavedTtsConfig:
    """The interleaved text-speech model and its draft heads (backend interleaved only)."""

    model: str = knob(
        BUNDLED, "interleaved text-speech model: bundled, once it is trained, a folder, or CosyVoice 2's folder"
    )
    heads: str = knob(NONE, "draft heads, for several speech tokens per pass: none, bundled, once trained, or a folder")
    num_heads: int = knob(4, "draft heads that are used, the first ones of those there are", at_least=1)
    nodes: int = knob(
        0,
        "drafts read in one pass, the token before them included; 0: 64 on a GPU, 16 on a CPU, where what is read costs",
        at_least=0,
    )
    tolerance: int = knob(
        1, "times the model chooses before it turns a draft down; 1 speaks the same as without draft heads", at_least=1
    )


@dataclass(frozen=True, kw_only=True)
class TtsConfig:
    """The text-to-token model and its decoder."""

    backend: Literal["syncspeech", "interleaved"] = knob(
        "syncspeech", "text-to-token model: temporal masked transformer, or the autoregressive one it is compared with"
    )
    feeding: Literal["token", "sentence"] = knob(
        "token", "what the voice waits for: the next text token, or the end of the sentence, as in most assistants"
    )
    tmt: str = knob(BUNDLED, "temporal masked transformer: bundled or a folder")
    interleaved: InterleavedTtsConfig = knob(InterleavedTtsConfig, "interleaved text-speech model")
    flow: str = knob(BUNDLED, "flow-matching decoder: bundled, a folder, or a public flow.pt or s3gen.safetensors")
    vocoder: str = knob(BUNDLED, "vocoder: bundled, a folder, or a public hift.pt or s3gen.safetensors")
    speech_tokenizer: str = knob(
        BUNDLED,
        "speech tokenizer, needed for a voice from reference audio: bundled, a folder, or a public speech_tokenizer_v2.onnx "
        "or s3gen.safetensors",
    )
    speaker: str = knob(
        BUNDLED,
        "speaker encoder, needed for a voice from reference audio: bundled, a folder, campplus.onnx or s3gen.safetensors",
    )
    voice: str = knob(
        BUNDLED, "voice that speaks: bundled, a reference recording, or a speaker of CosyVoice's as spk2info.pt:NAME"
    )
    prompt_prosody: bool = knob(
        False,
        "go on from what a reference recording says, with its rate and its prosody, not with its sound alone (syncspeech only)",
    )
    voice_text: str = knob(
        "", "what the reference recording says; empty: as the recogniser hears it (prompt_prosody only)"
    )
    prompt_aligner: str = knob(
        "pocketsphinx",
        "finds the words of that text in the recording: pocketsphinx (English), or a transformers folder of a wav2vec 2.0 "
        "model with CTC",
    )
    speed: float = knob(1.0, "speaking rate; above 1 is faster (syncspeech only)")
    lookahead: int = knob(1, "text tokens that must be there beyond the one being spoken (syncspeech only)", at_least=1)
    early_text: bool = knob(
        False, "let each step read all text that has arrived, not only the look-ahead it waits for (syncspeech only)"
    )
    text_per_step: int = knob(
        1, "most text tokens spoken in one step where the text is ahead of the speech (syncspeech only)", at_least=1
    )
    refinements: int = knob(
        0, "further passes over a step's speech tokens, 0 to 3: slower, the surest ones stay (syncspeech only)"
    )
    duration_top_k: int = knob(
        3, "durations are drawn from the k likeliest; 1 takes the likeliest (syncspeech only)", at_least=1
    )
    cuda_graphs: bool = knob(True, "on a GPU, start what repeats in the voice by CUDA graphs, recorded at the start")
    num_flow_steps: int = knob(2, "Euler steps of the flow-matching decoder", at_least=1)
    flow_guidance: float = knob(
        -1.0,
        "strength of its classifier-free guidance; 0 switches it off, at half the cost; below 0: as the weights say",
        at_least=-1,
    )
    first_chunks: tuple[int, ...] = knob(
        (),
        "speech tokens of the decoder's first chunks; the ones after them are as its weights were made for. Small ones are "
        "heard sooner",
    )
    max_left_chunks: int = knob(
        0,
        "chunks before the current one, the voice's prompt included, that the decoder's attention keeps: bounds its memory and "
        "time over a long reply; 0: as the weights say, which for public ones is all",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = knob(
        "auto",
        "numbers of its matrices; auto is float32 on a CPU, bfloat16 on a GPU (norms, phases, spectra stay float32)",
    )
    match_timbre: bool = knob(
        False,
        "give each frame what the decoder loses of a reference's timbre: mean and deviation of each mel band",
    )
    flow_temperature: float = knob(0.6, "scale of the decoder's starting noise")
    apology: str = knob(
        "Sorry, something went wrong. Please say it again.",
        "said when a turn cannot be answered and the voice is not what failed; empty: nothing is said",
    )
    language: Literal["en", "zh", "none"] = knob(
        "en",
        "spoken form: en of numbers, abbreviations and symbols, zh of numbers in Mandarin; none only removes markup",
    )
    seed: int = knob(0, "seed of durations, speech tokens and noise")


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The page in the browser."""

    host: str = knob("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in")
    port: int = knob(7860, "port to listen at")
    max_sessions: int = knob(4, "conversations at the same time; further people wait until one ends", at_least=1)
    resume_s: float = knob(60.0, "how long a conversation is kept for a page whose connection broke")
    reload_s: float = knob(10.0, "how long it is kept for a page that was closed or is being loaded again")
    max_recording_s: float = knob(1800.0, "the latest part of a conversation that its recording keeps")
    voices: str = knob("~/.local/share/syncspeech-assistant/voices", "folder of the voices that were made on the page")
    max_voices: int = knob(50, "voices kept there")
    max_upload_mb: int = knob(20, "largest recording that may be uploaded")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The interface for programs (OpenAI's Realtime API, speech and transcriptions)."""

    host: str = knob("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in")
    port: int = knob(8765, "port to listen at")
    max_sessions: int = knob(4, "conversations at the same time, and as many other requests", at_least=1)
    wait_s: float = knob(5.0, "how long one more of them waits for a free place before it is turned away")
    max_waiting_s: float = knob(300.0, "sound that a conversation may have sent and not had recognised")
    max_upload_mb: int = knob(25, "largest recording that may be sent to be transcribed")
    max_recording_s: float = knob(1800.0, "longest recording that may be sent to be transcribed")
    max_input_chars: int = knob(4096, "longest text that may be sent to be spoken, or as a message")


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """The whole assistant."""

    runtime: RuntimeConfig = knob(RuntimeConfig, "the process")
    audio: AudioConfig = knob(AudioConfig, "frames and playback")
    asr: AsrConfig = knob(AsrConfig, "recogniser")
    llm: LlmConfig = knob(LlmConfig, "language model")
    tts: TtsConfig = knob(TtsConfig, "synthesiser")
    web: WebConfig = knob(WebConfig, "page in the browser")
    serve: ServeConfig = knob(ServeConfig, "interface for programs")
