"""The steps of `train small`: each hands the corpus to a model's trainer as values."""

from app.small.plan import Step
from app.small.steps.decoder import flow, flow_encoder, student, vocoder, voice
from app.small.steps.encoders import speaker, speaker_vectors, speech_tokenizer, tokens
from app.small.steps.language_model import qwen, vocabulary
from app.small.steps.material import corpus
from app.small.steps.recogniser import paraformer, turn_end, turn_sound
from app.small.steps.text_to_token import interleaved, tmt, vadusa, vadusa_together_4, vadusa_together_6

STEPS: dict[str, Step] = {
    "corpus": corpus,
    "vocabulary": vocabulary,
    "speech_tokenizer": speech_tokenizer,
    "speaker": speaker,
    "tokens": tokens,
    "speaker_vectors": speaker_vectors,
    "flow_encoder": flow_encoder,
    "vocoder": vocoder,
    "flow": flow,
    "student": student,
    "tmt": tmt,
    "interleaved": interleaved,
    "vadusa": vadusa,
    "vadusa_together_4": vadusa_together_4,
    "vadusa_together_6": vadusa_together_6,
    "voice": voice,
    "paraformer": paraformer,
    "turn_end": turn_end,
    "turn_sound": turn_sound,
    "qwen": qwen,
}
