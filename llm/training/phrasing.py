"""How people say things: template expansion, question wrappers, and the three styles of a user's line.

A template is a list of alternatives, `good day|(hi|hello|) there {name}`, nested in round brackets, with slots in braces.
"""

import random
import re

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

_INNERMOST = re.compile(r"\(([^()]*)\)")
_SPACES = re.compile(r"\s+")

_FILLERS = (
    "hey",
    "hi",
    "hello",
    "okay",
    "so",
    "well",
    "um",
    "uh",
    "oh",
    "please",
    "and",
    "now",
    "alright",
    "hey there",
    "excuse me",
    "listen",
    "quick question",
    "i have a question",
    "one more question",
    "another question",
    "here is a question",
    "hey assistant",
    "okay then",
    "actually",
    "just wondering",
    "be honest",
    "sorry",
    "good morning",
    "good evening",
    "hello there",
    "hi there",
    "my friend",
    "let's see",
    "let me think",
    "computer",
    "assistant",
    "oh by the way",
    "one thing",
    "next question",
    "maybe you know this",
    "thank you and",
    "great and",
    "it's nice to talk to you",
    "this is easy",
    "think hard",
)
_ASKS = (
    "can you tell me",
    "could you tell me",
    "would you tell me",
    "will you tell me",
    "do you know",
    "do you happen to know",
    "i wonder",
    "i was wondering",
    "i would like to know",
    "i'd like to know",
    "i want to know",
    "i need to know",
    "tell me",
    "please tell me",
    "just tell me",
    "could you please tell me",
    "let me ask you",
    "i'm curious",
    "any idea",
    "do you have any idea",
    "my son wants to know",
    "my daughter asks",
    "my teacher asked me",
    "remind me",
    "help me out",
    "say",
    "can you say",
    "i forgot",
    "i don't remember",
    "i'd like you to tell me",
    "are you able to tell me",
    "would you happen to know",
    "do you think you could tell me",
    "do you maybe know",
    "do you remember",
    "it would be nice to know",
    "i am not sure",
    "let me know",
    "please let me know",
    "i always forget",
    "i keep forgetting",
    "for my homework",
    "we want to know",
    "my kids want to know",
    "my friend asked",
    "i have to know",
    "i ask myself",
    "guess",
    "explain to me",
    "show me",
    "do you think you know",
    "would you say",
    "i can't remember",
    "answer this",
    "try this one",
    "i am trying to find out",
)
_TAILS = (
    "please",
    "do you know",
    "can you tell me",
    "for me",
    "thanks",
    "tell me",
    "then",
    "anyway",
    "exactly",
    "again",
    "would you",
    "will you",
    "if you can",
    "if you know",
    "my friend",
    "now",
    "right now",
    "i forgot",
    "i am not sure",
    "any idea",
    "do you think",
    "would you say",
    "by the way",
    "in the world",
    "really",
    "i wonder",
    "what do you say",
)
_OPENERS = (
    "well",
    "oh",
    "okay",
    "so",
    "um",
    "you know",
    "you know what",
    "hey",
    "hello",
    "hi",
    "listen",
    "today",
    "right now",
    "this morning",
    "tonight",
    "this evening",
    "to be honest",
    "i think",
    "and",
    "but",
    "alright",
    "at the moment",
    "guess what",
    "i must say",
    "i have to say",
)
_CLOSERS = (
    "today",
    "now",
    "right now",
    "tonight",
    "this morning",
    "this evening",
    "my friend",
    "assistant",
    "computer",
    "you know",
    "again",
    "really",
    "i think",
    "for today",
    "at the moment",
    "after work",
    "after all",
    "i hope you are well",
    "i must say",
    "then",
    "already",
)
_ADVERBS = "maybe exactly just really actually then please uh well simply still kindly perhaps usually always also even only".split()

_SMALL_WORDS = frozenset("the a an is are of in to do does it that me you my i was what's for and".split())
_HOMOPHONES = {
    "two": "too to",
    "to": "two too",
    "four": "for fore",
    "for": "four",
    "eight": "ate",
    "one": "won",
    "their": "there",
    "there": "their",
    "your": "you're",
    "you're": "your",
    "capital": "capitol",
    "by": "buy",
    "bye": "by",
    "hi": "high",
    "know": "no",
    "no": "know",
    "sun": "son",
    "red": "read",
    "blue": "blew",
    "weather": "whether",
    "week": "weak",
    "night": "knight",
    "hour": "our",
    "right": "write",
    "i'm": "im am",
    "hear": "here",
    "what's": "what whats",
    "what": "what's but",
    "is": "as it's",
    "it's": "its is",
    "a": "the of",
    "the": "a",
    "an": "and a",
    "and": "an in",
    "in": "and an",
    "of": "a off",
    "are": "our or",
    "me": "my",
    "my": "me i",
    "can": "can't could",
    "you": "your",
    "do": "did",
    "does": "is",
    "would": "will",
    "plus": "place",
    "times": "time",
    "minus": "mine as",
    "joke": "joe",
    "story": "stories",
    "which": "witch",
    "meat": "meet",
    "new": "knew",
    "see": "sea",
    "month": "months",
    "day": "days",
    "tell": "till",
    "name": "names",
    "hello": "hallo",
    "thanks": "thank",
    "makes": "make",
    "comes": "come",
    "old": "all",
    "feel": "fill",
    "where": "were",
    "who": "how",
}
_DIGITS = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
_SIGNS = {"plus": "+", "minus": "-", "times": "x"}


def say(rng: random.Random, template: str, **slots: str) -> str:
    """Draw one expansion of a template and fill its slots."""
    template = f"({template})"
    while match := _INNERMOST.search(template):
        template = template[: match.start()] + rng.choice(match.group(1).split("|")) + template[match.end() :]
    return _SPACES.sub(" ", template.format(**slots)).strip()


def ask(rng: random.Random, question: str) -> str:
    """Put a question into one of the ways people begin and end it; about half stay plain."""
    kind = rng.random()
    if kind < 0.18:
        question = f"{rng.choice(_FILLERS)} {question}"
    elif kind < 0.42:
        question = f"{rng.choice(_ASKS)} {question}"
    elif kind < 0.50:
        question = f"{rng.choice(_FILLERS)} {rng.choice(_ASKS)} {question}"
    if rng.random() < 0.1:
        question = f"{question} {rng.choice(_TAILS)}"
    return question


def tell(rng: random.Random, statement: str) -> str:
    """Put a statement into one of the ways people begin and end it; most stay plain."""
    if rng.random() < 0.25:
        statement = f"{rng.choice(_OPENERS)} {statement}"
    if rng.random() < 0.2:
        statement = f"{statement} {rng.choice(_CLOSERS)}"
    return statement


def ask_thing(rng: random.Random, thing: str) -> str:
    """Ask for the value of a noun phrase such as `the capital of france`."""
    template = rng.choice(
        (
            "what is {thing}",
            "what is {thing}",
            "what's {thing}",
            "what's {thing}",
            "whats {thing}",
            "what {thing} is",
            "what would {thing} be",
            "what could {thing} be",
            "what do you think {thing} is",
            "{thing}",
            "{thing} is what",
            "{thing} what is it",
            "{thing} is",
            "what was {thing} again",
            "give me {thing}",
            "name {thing}",
            "say {thing}",
            "what do we call {thing}",
            "how about {thing}",
            "i'm looking for {thing}",
            "(i would|i'd) like {thing}",
            "what word is {thing}",
            "(find|look up|guess) {thing}",
            "what did they say {thing} is",
            "what is the name of {thing}",
            "what is {thing} called",
            "how much is {thing}",
            "what exactly is {thing}",
            "the answer to {thing}",
            "(can you|could you) (name|give me|find|say) {thing}",
            "{thing} (do you know it|is that known|tell me|that is)",
            "is it known what {thing} is",
            "(i want|i need|we need) {thing}",
        )
    )
    return ask(rng, say(rng, template, thing=thing))


def with_style(rng: random.Random, line: str) -> str:
    """Turn a plain lower-case line into what arrives: as a recogniser writes it, with its errors, or typed.

    A word of no weight is slipped into one line of ten."""
    if rng.random() < 0.1:
        words = line.split()
        words.insert(rng.randint(0, len(words)), rng.choice(_ADVERBS))
        line = " ".join(words)
    style = rng.random()
    if style < 0.15:
        return _misheard(rng, line)
    if style < 0.25:
        return _typed(rng, line)
    return line


def _misheard(rng: random.Random, line: str) -> str:
    words = line.split()
    heard: list[str] = []
    for word in words:
        chance = rng.random()
        if chance < 0.12 and word in _HOMOPHONES:
            heard.append(rng.choice(_HOMOPHONES[word].split()))
        elif chance < 0.2 and word in _SMALL_WORDS and len(words) > 2:
            continue
        elif chance > 0.985 and len(word) > 4 and word not in _DIGITS:
            cut = rng.randrange(1, len(word))
            heard.append(word[:cut] + word[cut + 1 :])
        elif chance > 0.97:
            heard.extend((word, rng.choice(("a", "the", "uh", word))))
        else:
            heard.append(word)
    return " ".join(heard) or line


def _typed(rng: random.Random, line: str) -> str:
    words = line.split()
    if rng.random() < 0.6:
        words = [_DIGITS.get(word, word) if word != "one" else word for word in words]
        if rng.random() < 0.3 and any(word in _SIGNS for word in words):
            words = [_SIGNS.get(word, word) for word in words]
    words = ["I" + word[1:] if word in ("i", "i'm", "i'd", "i've", "i'll") else word for word in words]
    text = " ".join(words)
    if rng.random() < 0.85:
        text = text[:1].upper() + text[1:]
    question = re.search(r"\b(who|what|what's|where|when|why|how|which|can|could|do|does|is|are|would|will)\b", line)
    return text + rng.choice(("?", "?", "")) if question else text + rng.choice((".", ".", "!", ""))


def has_digits(line: str) -> bool:
    """Whether a user's line is written with digits; the reply then is too."""
    return any(character.isdigit() for character in line)


def in_digits(reply: str) -> str:
    """Write the number words of a reply up to twenty as digits."""
    return re.sub(r"[A-Za-z]+", lambda match: _DIGITS.get(match.group().lower(), match.group()), reply)
