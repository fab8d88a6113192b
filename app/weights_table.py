"""The models that a configuration can ask for, and the public repositories that have them."""

from dataclasses import dataclass

from app.hub import Repository, Wanted, is_name

# Commits, tags, sizes and checksums as several independent users of these repositories have recorded them; where there is
# none, none was certain, and `weights get` says which commit it found.
COSYVOICE = Repository(
    name="FunAudioLLM/CosyVoice2-0.5B",
    modelscope="iic/CosyVoice2-0.5B",
    revision="eec1ae6c79877dbd9379285cf8789c9e0879293d",
    licence="Apache-2.0",
    sums={
        "flow.pt": (450_575_567, "ff4c2f867674411e0a08cee702996df13fa67c1cd864c06108da88d16d088541"),
        "hift.pt": (83_390_254, "3386cc880324d4e98e05987b99107f49e40ed925b8ecc87c1f4939432d429879"),
        "llm.pt": (2_023_316_821, "b144ef55b51ce8cfb79a73c90dbba0bdaba4e451c0ebcfab20f769264f84a608"),
        "speech_tokenizer_v2.onnx": (496_082_973, "d43342aa12163a80bf07bffb94c9de2e120a8df2f9917cd2f642e7f4219c6f71"),
        "campplus.onnx": (28_303_423, "a6ac6a63997761ae2997373e2ee1c47040854b4b759ea41ec48e4e42df0f4d73"),
    },
)
CHATTERBOX = Repository(
    name="ResembleAI/chatterbox", revision="5bb1f6ee58e50c3b8d408bc82a6d3740c2db6e18", licence="MIT"
)
QWEN = Repository(
    name="Qwen/Qwen3-4B-Instruct-2507",
    modelscope="Qwen/Qwen3-4B-Instruct-2507",
    revision="cdbee75f17c01a7cc42f958dc650907174af0554",
    licence="Apache-2.0",
)
_FUNASR = "FunASR model licence"
_FUNASR_TAG = "v2.0.4"
PARAFORMER_EN = Repository(
    name="funasr/paraformer-en",
    modelscope="iic/speech_paraformer-large-vad-punc_asr_nat-en-16k-common-vocab10020",
    modelscope_revision=_FUNASR_TAG,
    licence=_FUNASR,
)
# On ModelScope FunASR means SeACo-Paraformer by this name; here both hubs have the same file.
PARAFORMER_ZH = Repository(
    name="funasr/paraformer-zh",
    modelscope="iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch",
    revision="d7811ee3ac581fbcfdeb37c98c6ba674028433dc",
    modelscope_revision=_FUNASR_TAG,
    licence="Apache-2.0",
    sums={"model.pt": (880_502_012, "5bba782a5e9196166233b9ab12ba04cadff9ef9212b4ff6153ed9290ff679025")},
)
PARAFORMER_STREAMING = Repository(
    name="funasr/paraformer-zh-streaming",
    modelscope="iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-online",
    revision="fd2af606b37d7fb8b3b8a218c5be5b07b53ef6ba",  # the tag apache-2.0-20260804
    modelscope_revision=_FUNASR_TAG,
    licence="Apache-2.0",
    sums={"model.pt": (880_716_041, "4fdfb48ed4471777c9a511e96a2acae17f77cac9d709cc756634622769192a64")},
)
TIMESTAMPS_ZH = Repository(
    name="funasr/fa-zh",
    modelscope="iic/speech_timestamp_prediction-v1-16k-offline",
    modelscope_revision=_FUNASR_TAG,
    licence=_FUNASR,
)
FSMN_VAD = Repository(
    name="funasr/fsmn-vad",
    modelscope="iic/speech_fsmn_vad_zh-cn-16k-common-pytorch",
    revision="df20e6b30c653645fa4ff125cacfcabd1020a669",
    modelscope_revision=_FUNASR_TAG,
    licence="Apache-2.0",
    sums={"model.pt": (1_721_366, "b3be75be477f0780277f3bae0fe489f48718f585f3a6e45d7dd1fbb1a4255fc5")},
)
CT_PUNC = Repository(
    name="funasr/ct-punc",
    modelscope="iic/punc_ct-transformer_cn-en-common-vocab471067-large",
    revision="d0e55e2b8722a78b63705ff443d09c4f86e5d750",
    modelscope_revision=_FUNASR_TAG,
    licence=_FUNASR,
)
_SEACO = "iic/speech_seaco_paraformer_large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"
SEACO_ZH = Repository(  # a Paraformer that tells when words are said; not on Hugging Face
    name=_SEACO,
    modelscope=_SEACO,
    modelscope_revision=_FUNASR_TAG,
    licence="Apache-2.0",
    sums={"model.pt": (989_763_045, "3d491689244ec5dfbf9170ef3827c358aa10f1f20e42a7c59e15e688647946d1")},
)
SHORT_NAMES = {  # FunASR's own
    repository.name.partition("/")[2]: repository.name
    for repository in (PARAFORMER_EN, PARAFORMER_ZH, PARAFORMER_STREAMING, TIMESTAMPS_ZH, FSMN_VAD, CT_PUNC)
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of a public repository that a setting takes."""

    repository: Repository
    files: tuple[str, ...]
    gb: float  # to fetch
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Need:
    """One model that a configuration asks for."""

    title: str
    key: str  # the setting that says where it is
    folder: str  # of the bundled model; empty: none ships
    voices: bool = False  # only for a voice from a recording, or for the bundled voice in another decoder
    public: tuple[Source, ...] = ()

    @property
    def option(self) -> str:
        """What a folder is written behind on the command line."""
        return f"{self.key} " if self.key.startswith("--") else f"--set {self.key}="

    def wanted(self, value: str) -> Wanted | None:
        """What the setting's value asks of a hub; None: it names something on this machine."""
        name = SHORT_NAMES.get(value, value)
        if not is_name(name):
            return None
        for source in self.public:
            if name in (source.repository.name, source.repository.modelscope):
                return Wanted(repository=source.repository, patterns=source.files, optional=source.optional)
        if self.public:  # somebody else's copy, or another model of the kind
            like = self.public[0]
            return Wanted(
                repository=Repository(name=name, modelscope=name), patterns=like.files, optional=like.optional
            )
        return Wanted(repository=Repository(name=name, modelscope=name), patterns=("config.json", "model.safetensors"))


def _funasr(gb: float, *repositories: Repository) -> tuple[Source, ...]:
    files = ("model.pt", "config.yaml", "tokens.json", "am.mvn")
    optional = ("configuration.json", "seg_dict*")
    return tuple(Source(repository=one, files=files, optional=optional, gb=gb) for one in repositories)


def _cosyvoice(gb: float, *files: str) -> Source:
    return Source(repository=COSYVOICE, files=files, gb=gb)


_COMBINED = Source(repository=CHATTERBOX, files=("s3gen.safetensors",), gb=1.06)
_QWEN = Source(
    repository=QWEN,
    files=("config.json", "tokenizer.json", "*.safetensors"),
    optional=("generation_config.json", "tokenizer_config.json", "*.index.json", "*.jinja"),
    gb=8.06,
)

NEEDS = (
    Need(
        title="recogniser, final pass (Paraformer)",
        key="asr.model",
        folder="asr/assets/paraformer",
        public=_funasr(0.9, PARAFORMER_EN, PARAFORMER_ZH),
    ),
    Need(
        title="recogniser, partial transcripts (Paraformer)",
        key="asr.streaming_model",
        folder="asr/assets/paraformer",
        public=_funasr(0.9, PARAFORMER_STREAMING),
    ),
    Need(
        title="voice activity (FSMN-VAD)",
        key="asr.vad",
        folder="",
        public=(Source(repository=FSMN_VAD, files=("model.pt", "config.yaml", "am.mvn"), gb=0.002),),
    ),
    Need(
        title="punctuation (CT-Transformer)",
        key="asr.punctuation",
        folder="",
        public=(Source(repository=CT_PUNC, files=("model.pt", "config.yaml", "tokens.json"), gb=1.2),),
    ),
    Need(title="language model (Qwen)", key="llm.model", folder="llm/assets/qwen-small", public=(_QWEN,)),
    Need(title="text to speech tokens (TMT)", key="tts.tmt", folder="tts/assets/tmt"),
    Need(
        title="text to speech tokens (interleaved)",
        key="tts.interleaved.model",
        folder="tts/assets/interleaved",
        public=(
            _cosyvoice(
                2.03,
                "llm.pt",
                "CosyVoice-BlankEN/config.json",
                "CosyVoice-BlankEN/vocab.json",
                "CosyVoice-BlankEN/merges.txt",
            ),
        ),
    ),
    Need(title="draft heads of the interleaved model", key="tts.interleaved.heads", folder="tts/assets/vadusa"),
    Need(
        title="flow-matching decoder",
        key="tts.flow",
        folder="tts/assets/flow",
        public=(_cosyvoice(0.45, "flow.pt"), _COMBINED),
    ),
    Need(
        title="vocoder",
        key="tts.vocoder",
        folder="tts/assets/vocoder",
        public=(_cosyvoice(0.083, "hift.pt"), _COMBINED),
    ),
    Need(
        title="speech tokenizer",
        key="tts.speech_tokenizer",
        folder="tts/assets/speech_tokenizer",
        voices=True,
        public=(_cosyvoice(0.496, "speech_tokenizer_v2.onnx"), _COMBINED),
    ),
    Need(
        title="speaker encoder",
        key="tts.speaker",
        folder="tts/assets/speaker",
        voices=True,
        public=(_cosyvoice(0.028, "campplus.onnx"), _COMBINED),
    ),
)

ALIGNER = Need(  # no setting: `data prepare` asks for it, and `weights get` by its name
    title="aligner of Mandarin text and speech",
    key="--aligner",
    folder="",
    public=(*_funasr(0.16, TIMESTAMPS_ZH), *_funasr(1.0, SEACO_ZH)),
)
