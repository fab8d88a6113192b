"""What the small model can talk about: each intent draws one line of the user and the reply to it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from llm.training import facts
from llm.training.phrasing import NUMBER_WORDS, ask, ask_thing, say, tell
from llm.training.ways import Settled, lines, settled, ways

UNKNOWN = "I don't know that. I'm only the small built-in model."


@dataclass
class Memory:
    """What the assistant has been told in this conversation, and what was just talked about."""

    told: dict[str, str] = field(default_factory=dict)  # "name", "city", "food", ... -> value as it is written
    last_reply: str = ""
    last_user: str = ""
    follow_up: "Intent | None" = None


Turn = tuple[str, str]  # the user's line in lower case without punctuation, and the reply
Intent = Callable[[random.Random, Memory], Turn]


def asked(rng: random.Random, name: str, **slots: str) -> str:
    """A question drawn from the ways of a name."""
    return ask(rng, say(rng, ways(name), **slots))


def twice(answer: str, sentence: str) -> str:
    """The answer alone, then in its sentence: one word is easily missed when it is only heard once."""
    return f"{answer[0].upper()}{answer[1:]}. {sentence}"


def draw_sum(rng: random.Random) -> tuple[int, str, int]:
    """Draw a sum whose numbers and result lie within twenty."""
    while True:
        sign = rng.choice(("plus", "plus", "plus", "minus", "minus", "times"))
        most = 10 if sign == "times" else 20
        first, second = rng.randint(0, most), rng.randint(0, most)
        if 0 <= _result(first, sign, second) <= 20:
            return first, sign, second


def _result(first: int, sign: str, second: int) -> int:
    return {"plus": first + second, "minus": first - second, "times": first * second}[sign]


def sums(rng: random.Random, memory: Memory) -> Turn:
    """Plus, minus and times, asked in many ways."""
    first, sign, second = draw_sum(rng)
    a, b, c = (NUMBER_WORDS[value] for value in (first, second, _result(first, sign, second)))
    thing = f"{a} {sign} {b}"
    reply = twice(c, f"{a.capitalize()} {sign} {b} is {c}.")
    if memory.follow_up is sums:
        return say(rng, ways("sums.more"), t=thing), reply
    memory.follow_up = sums
    kind = rng.random()
    if kind < 0.4:
        return asked(rng, f"sums.{sign}", a=a, b=b), reply
    if kind < 0.5:
        thing = {"plus": f"{a} and {b}", "minus": f"{a} take away {b}", "times": f"{a} multiplied by {b}"}[sign]
    if kind > 0.93:
        return asked(rng, "sums.calculate", t=thing), reply
    return ask_thing(rng, thing), reply


def numbers(rng: random.Random, memory: Memory) -> Turn:
    """Neighbours, doubles, halves, comparison."""
    kind = rng.choice(("after", "before", "double", "half", "compare"))
    n = rng.randint(1, 10 if kind in ("double", "half") else 19)
    m = rng.choice([m for m in range(21) if m != n])
    word, double = NUMBER_WORDS[n], NUMBER_WORDS[min(20, 2 * n)]
    match kind:
        case "after":
            following = NUMBER_WORDS[n + 1]
            return asked(rng, "numbers.after", n=word), twice(following, f"After {word} comes {following}.")
        case "before":
            previous = NUMBER_WORDS[n - 1]
            return asked(rng, "numbers.before", n=word), twice(previous, f"Before {word} comes {previous}.")
        case "double":
            return asked(rng, "numbers.double", n=word), twice(double, f"Twice {word} is {double}.")
        case "half":
            return asked(rng, "numbers.half", n=double), twice(word, f"Half of {double} is {word}.")
    low, high = NUMBER_WORDS[min(n, m)], NUMBER_WORDS[max(n, m)]
    if rng.random() < 0.6:
        more, reply = "bigger larger more greater higher", f"{high.capitalize()} is bigger than {low}."
    else:
        more, reply = "smaller less lower", f"{low.capitalize()} is smaller than {high}."
    return asked(rng, "numbers.compare", word=rng.choice(more.split()), a=word, b=NUMBER_WORDS[m]), reply


def capitals(rng: random.Random, memory: Memory) -> Turn:
    """Capitals of countries, both ways round."""
    country, capital = rng.choice(tuple(facts.CAPITALS.items()))
    reply = twice(capital, f"The capital of {country} is {capital}.")
    if memory.follow_up is capitals:
        return say(rng, ways("capitals.more"), c=country.lower()), reply
    memory.follow_up = capitals
    if rng.random() < 0.25:
        line = asked(rng, "capitals.country", c=capital.lower())
        return line, twice(country, f"{capital} is the capital of {country}.")
    return _capital_question(rng, country), reply


def unknown_capitals(rng: random.Random, memory: Memory) -> Turn:
    """Capitals it does not know."""
    return _capital_question(rng, rng.choice(facts.FAR_COUNTRIES)), UNKNOWN


def _capital_question(rng: random.Random, country: str) -> str:
    if rng.random() < 0.6:
        return ask_thing(rng, say(rng, ways("capitals.thing"), c=country.lower()))
    return asked(rng, "capitals.city", c=country.lower())


def opposites(rng: random.Random, memory: Memory) -> Turn:
    """Words and their opposites."""
    first, second = rng.choice(facts.OPPOSITES.split("|")).split()
    if rng.random() < 0.5:
        first, second = second, first
    second = facts.SETTLED_OPPOSITES.get(first, second)
    reply = twice(second, f"The opposite of {first} is {second}.")
    if memory.follow_up is opposites:
        return say(rng, ways("opposites.more"), w=first), reply
    memory.follow_up = opposites
    if rng.random() < 0.55:
        return ask_thing(rng, say(rng, ways("opposites.thing"), w=first)), reply
    return asked(rng, "opposites.word", w=first), reply


def colours(rng: random.Random, memory: Memory) -> Turn:
    """Colours of things and of mixtures."""
    if rng.random() < 0.2:
        (a, b), mixed = rng.choice(tuple(facts.MIXED_COLOURS.items()))
        if rng.random() < 0.5:
            a, b = b, a
        return asked(rng, "colours.mixed", a=a, b=b, m=mixed), twice(mixed, f"{a.capitalize()} and {b} make {mixed}.")
    thing, colour = rng.choice(tuple(facts.COLOURS_OF_THINGS.items()))
    verb = "are" if thing in facts.PLURALS else "is"
    reply = twice(colour, f"{thing[0].upper()}{thing[1:]} {verb} {colour}.")
    seen = rng.random()
    if seen < 0.15:  # no place or time changes it
        thing = f"{rng.choice(facts.ADJECTIVES_OF_THINGS)} {_bare(thing)}"
    if seen > 0.85:
        thing = f"{thing} {rng.choice(lines('wrap.scenes'))}"
    return asked(rng, "colours.of_thing", v=verb, t=thing), reply


def _bare(thing: str) -> str:
    """A noun without its article."""
    return thing.split(" ", 1)[1] if thing.split(" ", 1)[0] in ("a", "an", "the") else thing


def animals(rng: random.Random, memory: Memory) -> Turn:
    """Their sounds, their young, their legs."""
    kind = rng.choice(("sound", "of_sound", "baby", "baby", "legs", "eight_legs"))
    if kind in ("sound", "of_sound"):
        animal, sound = rng.choice(tuple(facts.ANIMAL_SOUNDS.items()))
        line = asked(rng, f"animals.{kind}", a=animal, art=_article(animal), s=sound)
        return line, twice(sound if kind == "sound" else f"the {animal}", f"The {animal} says {sound}.")
    if kind == "baby":
        animal, baby = rng.choice(tuple(facts.ANIMAL_BABIES.items()))
        return asked(rng, "animals.baby", a=animal), twice(f"a {baby}", f"A baby {animal} is called a {baby}.")
    if kind == "eight_legs":
        return asked(rng, "animals.eight_legs"), twice("a spider", "A spider has eight legs.")
    animal, legs = rng.choice(tuple(facts.ANIMAL_LEGS.items()))
    limbs = "arms" if animal == "octopus" else "legs"
    line = asked(rng, "animals.legs", a=animal, art=_article(animal), l=limbs)
    return line, twice(f"{legs} {limbs}", f"{_article(animal).capitalize()} {animal} has {legs} {limbs}.")


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def calendar(rng: random.Random, memory: Memory) -> Turn:
    """Order of days, months and seasons."""
    kind = rng.random()
    if kind < 0.75:
        unit, names = ("day", facts.DAYS) if kind < 0.45 else ("month", facts.MONTHS)
        lead = rng.choice((unit, "day of the week" if unit == "day" else "month of the year"))
        i = rng.randrange(len(names))
        slots = {"d": names[i].lower(), "unit": unit, "lead": lead}
        if rng.random() < 0.6:
            following = names[(i + 1) % len(names)]
            return asked(rng, "days.after", **slots), twice(following, f"After {names[i]} comes {following}.")
        return asked(rng, "days.before", **slots), twice(names[i - 1], f"Before {names[i]} comes {names[i - 1]}.")
    if kind < 0.83:
        season, following = rng.choice(tuple(facts.SEASONS.items()))
        return asked(rng, "days.season", s=season), twice(following, f"After {season} comes {following}.")
    i = rng.randrange(12)
    month, ordinal = facts.MONTHS[i], facts.ORDINALS[i]
    if kind < 0.9:
        count = facts.MONTH_DAYS[i]
        return asked(rng, "days.month_length", m=month.lower()), twice(f"{count} days", f"{month} has {count} days.")
    if kind < 0.93 and i < 7:
        day = facts.DAYS[i]
        return asked(rng, "days.nth_day", o=ordinal), twice(day, f"The {ordinal} day of the week is {day}.")
    line = asked(rng, "days.nth_month", o=ordinal, n=NUMBER_WORDS[i + 1])
    return line, twice(month, f"The {ordinal} month is {month}.")


def general(rng: random.Random, memory: Memory) -> Turn:
    """General knowledge with one settled answer each."""
    fact = rng.choice(settled("fact"))
    return ask(rng, say(rng, fact.ways)), fact.replies[0]


def rhymes(rng: random.Random, memory: Memory) -> Turn:
    """A word that rhymes."""
    word, rhyme = rng.choice(tuple(facts.RHYMES.items()))
    return asked(rng, "rhymes", w=word), f"{rhyme.capitalize()} rhymes with {word}."


def jokes(rng: random.Random, memory: Memory) -> Turn:
    """A joke, or one more."""
    again = memory.follow_up is jokes
    memory.follow_up = jokes
    line = say(rng, ways("jokes.more")) if again else asked(rng, "jokes")
    return line, rng.choice(facts.JOKES)


def stories(rng: random.Random, memory: Memory) -> Turn:
    """A story, of the animal that was asked for."""
    animal = rng.choice(facts.ANIMALS)
    article = _article(animal)
    story = rng.choice(facts.STORIES).replace(" a {animal}", f" {article} {{animal}}")
    told = story.replace("A {animal}", f"{article.capitalize()} {{animal}}").format(
        animal=animal,
        name=rng.choice(facts.NAMES),
        thing=rng.choice(facts.STORY_THINGS),
        place=rng.choice(facts.STORY_PLACES),
    )
    line = say(rng, ways("stories"))
    if rng.random() < 0.6:
        line += f" {rng.choice(('about', 'with', 'of'))} {article} {animal}"
    elif rng.random() < 0.3:
        line += rng.choice((" please", " before i sleep", " for my kids", " for me", " now"))
    return line, told


def fun_facts(rng: random.Random, memory: Memory) -> Turn:
    """Something to wonder about."""
    return asked(rng, "fun_facts"), rng.choice(facts.FUN_FACTS)


def unknown(rng: random.Random, memory: Memory) -> Turn:
    """Things beyond the small model: it says so."""
    slots = {name: rng.choice(values) for name, values in facts.BEYOND.items()}
    return asked(rng, "unknown", **slots), UNKNOWN


def repeat_reply(rng: random.Random, memory: Memory) -> Turn:
    """The user did not hear the last reply."""
    again = memory.last_reply.startswith("I said: ")
    return say(rng, ways("repeat.reply")), memory.last_reply if again else f"I said: {memory.last_reply}"


def repeat_user(rng: random.Random, memory: Memory) -> Turn:
    """The user asks for his own words."""
    return say(rng, ways("repeat.user")), f"You said: {memory.last_user}."


def repeat_words(rng: random.Random, memory: Memory) -> Turn:
    """Say after me: practice in copying."""
    pool = [*facts.ANIMALS, *facts.COLOURS, *facts.FOODS, *facts.OPPOSITES.replace("|", " ").split(), *NUMBER_WORDS]
    pool += [name.lower() for name in facts.NAMES] + facts.STORY_THINGS
    words = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 4)))
    return say(rng, ways("repeat.words"), w=words), f"{words[0].upper()}{words[1:]}."


def _telling(key: str, values: list[str], *replies: str) -> Intent:
    def intent(rng: random.Random, memory: Memory) -> Turn:
        value = rng.choice(values)
        memory.told[key] = value
        reply = rng.choice(replies).format(v=value)
        return tell(rng, say(rng, ways(f"tell.{key}"), v=value.lower())), reply[0].upper() + reply[1:]

    return intent


def _recalling(key: str, known: str, not_known: str) -> Intent:
    def intent(rng: random.Random, memory: Memory) -> Turn:
        return asked(rng, f"recall.{key}"), known.format(v=memory.told[key]) if key in memory.told else not_known

    return intent


def _settled(kind: str) -> list[tuple[float, Intent]]:
    wrap = ask if kind == "question" else tell

    def make(entry: Settled) -> Intent:
        def intent(rng: random.Random, memory: Memory) -> Turn:
            slots = {
                "city": rng.choice(facts.CITIES).lower(),
                "name": rng.choice(facts.NAMES).lower(),
                "number": NUMBER_WORDS[rng.randint(1, 20)],
                "thing": rng.choice((*facts.FOODS, *facts.ANIMALS)),
            }
            line = wrap(rng, say(rng, entry.ways, **slots))
            return line, entry.replies[0] if rng.random() < 0.75 else rng.choice(entry.replies)

        return intent

    return [(0.75 * entry.weight, make(entry)) for entry in settled(kind)]


TELL: dict[str, Intent] = {
    "name": _telling("name", facts.NAMES, "Nice to meet you, {v}!", "Hello {v}! Nice to meet you."),
    "city": _telling("city", facts.CITIES, "I hear that {v} is a nice place."),
    "color": _telling("color", facts.COLOURS, "{v} is a beautiful color."),
    "food": _telling("food", facts.FOODS, "I hear that {v} tastes very good."),
    "age": _telling("age", NUMBER_WORDS[5:], "So you are {v} years old. That is a good age."),
    "dog": _telling("dog", facts.NAMES, "{v} is a good name for a dog."),
    "cat": _telling("cat", facts.NAMES, "{v} is a good name for a cat."),
}
RECALL: dict[str, Intent] = {
    "name": _recalling("name", "Your name is {v}.", "I don't know your name yet. What is your name?"),
    "city": _recalling("city", "You live in {v}.", "I don't know where you live yet. Please tell me."),
    "color": _recalling(
        "color", "Your favorite color is {v}.", "I don't know your favorite color yet. Please tell me."
    ),
    "food": _recalling("food", "You like to eat {v}.", "I don't know what you like to eat yet. Please tell me."),
    "age": _recalling("age", "You are {v} years old.", "I don't know how old you are. Please tell me."),
    "dog": _recalling("dog", "Your dog is called {v}.", "I don't know your dog's name yet. Please tell me."),
    "cat": _recalling("cat", "Your cat is called {v}.", "I don't know your cat's name yet. Please tell me."),
}
INTENTS: tuple[tuple[float, Intent], ...] = (
    (13.0, sums),
    (4.0, numbers),
    (8.0, capitals),
    (1.0, unknown_capitals),
    (8.0, opposites),
    (5.0, colours),
    (6.0, animals),
    (8.0, calendar),
    (15.0, general),
    (1.5, rhymes),
    (3.0, jokes),
    (2.5, stories),
    (1.2, fun_facts),
    (6.0, unknown),
    (2.0, repeat_words),
    (6.0, TELL["name"]),
    (2.0, RECALL["name"]),
    *((0.6, intent) for key, intent in TELL.items() if key != "name"),
    *((0.4, intent) for key, intent in RECALL.items() if key != "name"),
    *_settled("statement"),
    *_settled("question"),
)
