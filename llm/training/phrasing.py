"""How people say things: template expansion, question wrappers, and the three styles of a user's line.

A template is a list of alternatives, `good day|(hi|hello|) there {name}`, nested in round brackets, with slots in braces.
"""

import random
import re
from collections.abc import Mapping
from functools import cache

from llm.training.ways import lines

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

Confusions = Mapping[str, tuple[float, tuple[str, ...]]]  # word -> (how often misheard, what is heard instead)

_INNERMOST = re.compile(r"\(([^()]*)\)")
_SPACES = re.compile(r"\s+")

_ADVERBS = "maybe exactly just really actually then please uh well simply still kindly perhaps usually always also even only".split()

_ADJECTIVES = (  # that change no question's answer
    "single whole normal typical real usual full regular ordinary common average certain nice lovely fresh simple plain "
    "entire healthy particular proper actual famous"
).split()
_ARTICLES = frozenset("a an the one".split())

_SMALL_WORDS = frozenset("the a an is are of in to do does it that me you my i was what's for and".split())
_DIGITS = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
_SIGNS = {"plus": "+", "minus": "-", "times": "x"}


@cache
def _alternatives(template: str) -> tuple[str, ...]:
    """What stands between the bars outside all brackets."""
    found, depth = [""], 0
    for character in template:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and not depth:
            found.append("")
        else:
            found[-1] += character
    return tuple(found)


def say(rng: random.Random, template: str, **slots: str) -> str:
    """Draw one expansion of a template and fill its slots."""
    template = rng.choice(_alternatives(template))  # the others need not be expanded: there may be hundreds
    while match := _INNERMOST.search(template):
        template = template[: match.start()] + rng.choice(match.group(1).split("|")) + template[match.end() :]
    return _SPACES.sub(" ", template.format(**slots)).strip()


_TURNS: tuple[tuple[str, str], ...] = (  # one question in other words: pattern -> templates, alternatives in brackets
    (
        r"how many (?P<n>\w+) (?:are|are there) (?:in|on) (?P<p>.+)",
        r"\g<p> has how many \g<n>|how many \g<n> (make|make up|belong to) \g<p>|"
        r"how many \g<n> (can|would|do) (i|you|we) (count|find|see|get) in \g<p>|(the|what is the) number of \g<n> in \g<p>|"
        r"\g<p> how many \g<n> (is that|are that|does it have)",
    ),
    (
        r"how many (?P<n>\w+) (?:does|do|has) (?P<p>.+?)(?: have)?",
        r"\g<p> (has|have) how many \g<n>|how many \g<n> (would|should|can|will) \g<p> (have|need)|"
        r"(the|what is the) number of \g<n> (of|on) \g<p>",
    ),
    (
        r"(?:what|which) (?P<n>animal|bird|planet|month|day|season|city|country|word|ocean|meal|color|number) "
        r"(?P<v>is|has|makes|gives|comes|lays|can|cannot|follows|rhymes|says) (?P<p>.+)",
        r"(what|which) \g<n> is it that \g<v> \g<p>|which (one|) of (the|all) \g<n>s \g<v> \g<p>|"
        r"\g<p> which \g<n> (would that be|is it|is that)|(what|which) is the \g<n> that \g<v> \g<p>|"
        r"the \g<n> that \g<v> \g<p> is (called what|which one|)",
    ),
    (
        r"who (?P<v>\w+s|gives|puts|makes) (?P<p>.+)",
        r"who is it that \g<v> \g<p>|(what|which) (person|people) \g<v> \g<p>|who is (the|a) (person|one|man|woman) (that|who) "
        r"\g<v> \g<p>|(the one|somebody) who \g<v> \g<p> is (called|) (what|who)",
    ),
    (
        r"what (?:is|are) (?P<p>(?:the|our|a|your) .+)",
        r"\g<p> is what|what would \g<p> be|\g<p> what (is it|would that be)|(what|how) do (you|they|people) call \g<p>|"
        r"(can you say|do you remember) what \g<p> is|tell me (about|) \g<p>|\g<p> is",
    ),
    (
        r"where (?:does|do) (?P<p>.+?) (?P<v>live|come from|sleep|rise|set|grow)",
        r"where (would|could|can|will) (i|you|we) (see|find) \g<p> \g<v>|in (what|which) (place|direction|part of the world) "
        r"(does|do) \g<p> \g<v>|\g<p> \g<v> where|(from|to|at|) (what|which) place does \g<p> \g<v>",
    ),
    (
        r"when (?:does|do|is) (?P<p>.+)",
        r"at (what|which) (time|hour|time of day|time of the year) (is|does|do) \g<p>|(on|in) (what|which) (day|month|time) is \g<p>|"
        r"what (time|day|month) is it (when|that) \g<p>",
    ),
    (r"why (?:do|does) (?P<p>.+)", r"why would (anybody|\g<p>|someone|they) \g<p>|for what reason do \g<p>|what for do \g<p>"),
    (r"(?P<v>can|do|are|will) you (?P<p>.+)", r"\g<v> you (really|maybe|also|) \g<p>|(i wonder if you|is it true that you) \g<v> \g<p>"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), ways) for pattern, ways in _TURNS)


def reworded(rng: random.Random, question: str) -> str:
    """The question turned round, where one of the patterns fits it."""
    for pattern, templates in _COMPILED:
        if found := pattern.fullmatch(question):
            return say(rng, found.expand(templates))
    return question


def ask(rng: random.Random, question: str) -> str:
    """Put a question into one of the ways people begin and end it; about half stay plain."""
    if rng.random() < 0.3:
        question = reworded(rng, question)
    kind = rng.random()
    if kind < 0.18:
        question = f"{rng.choice(lines('wrap.fillers'))} {question}"
    elif kind < 0.42:
        question = f"{rng.choice(lines('wrap.asks'))} {question}"
    elif kind < 0.50:
        question = f"{rng.choice(lines('wrap.fillers'))} {rng.choice(lines('wrap.asks'))} {question}"
    if rng.random() < 0.1:
        question = f"{question} {rng.choice(lines('wrap.tails'))}"
    return question


def tell(rng: random.Random, statement: str) -> str:
    """Put a statement into one of the ways people begin and end it; most stay plain."""
    if rng.random() < 0.25:
        statement = f"{rng.choice(lines('wrap.openers'))} {statement}"
    if rng.random() < 0.2:
        statement = f"{statement} {rng.choice(lines('wrap.closers'))}"
    return statement


def ask_thing(rng: random.Random, thing: str) -> str:
    """Ask for the value of a noun phrase such as `the capital of france`."""
    return ask(rng, say(rng, rng.choice(lines("wrap.things")), thing=thing))


def with_style(rng: random.Random, line: str, confusions: Confusions | None = None) -> str:
    """Turn a plain lower-case line into what arrives: as a recogniser writes it, with its errors, or typed.

    `confusions`: how the recogniser mishears, if it is known. Words of no weight are slipped into some lines."""
    if rng.random() < 0.1:
        words = line.split()
        words.insert(rng.randint(0, len(words)), rng.choice(_ADVERBS))
        line = " ".join(words)
    if rng.random() < 0.12:
        line = _described(rng, line)
    style = rng.random()
    if confusions and style > 0.75:
        return _confused(rng, line, confusions)
    if style < 0.15:
        return _misheard(rng, line)
    if style < 0.25:
        return _typed(rng, line)
    return line


def _described(rng: random.Random, line: str) -> str:
    """With an adjective of no weight behind one of its articles."""
    words = line.split()
    places = [index + 1 for index, word in enumerate(words[:-1]) if word in _ARTICLES]
    if places:
        at = rng.choice(places)
        article = "a" if words[at - 1] == "an" else words[at - 1]
        words[at - 1 : at] = [article, rng.choice(_ADJECTIVES)]
    return " ".join(words)


def _confused(rng: random.Random, line: str, confusions: Confusions) -> str:
    """As the recogniser in use would have it; a line of which too little is left stays as it was."""
    heard: list[str] = []
    for word in line.split():
        share, others = confusions.get(word, (0.0, ()))
        heard.append(rng.choice(others) if others and rng.random() < share else word)
    kept = sum(a == b for a, b in zip(line.split(), heard, strict=True))
    return " ".join(word for word in heard if word) if 2 * kept > len(heard) else line


def _misheard(rng: random.Random, line: str) -> str:
    words = line.split()
    alike = dict(entry.split(": ") for entry in lines("heard_as"))
    heard: list[str] = []
    for word in words:
        chance = rng.random()
        if chance < 0.12 and word in alike:
            heard.append(rng.choice(alike[word].split()))
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
