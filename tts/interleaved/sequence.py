"""Training sequences and their targets (CosyVoice 2, 2412.10117, section 2.3).

Text-complete: sos, text, task id, speech. Interleaved: sos, [5 text tokens, 15 speech tokens]*, the rest of the text
(fewer than 5), task id, the rest of the speech. Every target is the next speech token, fill after the 15th of a group,
or end of speech after the last; text and sos have none, but a group's last text token predicts its first speech token.
"""

import numpy as np

from tts.interleaved.config import InterleavedConfig

IGNORED = -100  # target of positions without a loss


def interleavable(config: InterleavedConfig, num_text: int, num_speech: int) -> bool:
    """True when there is more speech than the groups of the interleaved form take."""
    return num_speech * config.text_chunk > num_text * config.speech_chunk


def complete(config: InterleavedConfig, text: np.ndarray, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input ids and targets, (L + S + 2,) int64 each, of text tokens (L,) and speech tokens (S,)."""
    ids = np.concatenate([[config.sos], text, [config.task], speech.astype(np.int64) + config.speech_offset])
    targets = np.concatenate([np.full(len(text) + 1, IGNORED), speech, [config.eos]])
    return ids.astype(np.int64), targets.astype(np.int64)


def interleaved(config: InterleavedConfig, text: np.ndarray, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Like `complete`, in the interleaved form. Raises ValueError unless `interleavable`."""
    if not interleavable(config, len(text), len(speech)):
        raise ValueError(f"{len(speech)} speech tokens are too few to interleave with {len(text)} text tokens.")
    ids: list[np.ndarray] = [np.array([config.sos])]
    targets: list[np.ndarray] = [np.array([IGNORED])]
    num_groups = len(text) // config.text_chunk
    for group in range(num_groups):
        spoken = speech[group * config.speech_chunk : (group + 1) * config.speech_chunk].astype(np.int64)
        ids += [text[group * config.text_chunk : (group + 1) * config.text_chunk], spoken + config.speech_offset]
        targets += [np.full(config.text_chunk - 1, IGNORED), spoken, np.array([config.fill])]
    text, speech = text[num_groups * config.text_chunk :], speech[num_groups * config.speech_chunk :].astype(np.int64)
    ids += [text, np.array([config.task]), speech + config.speech_offset]
    targets += [np.full(len(text), IGNORED), speech, np.array([config.eos])]
    return np.concatenate(ids).astype(np.int64), np.concatenate(targets).astype(np.int64)
