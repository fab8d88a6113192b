"""What is talked about: each intent draws one user line and its reply; some read or write what was said before."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from llm.training import canned, facts
from llm.training.phrasing import NUMBER_WORDS, ask, ask_thing, say, tell

UNKNOWN = "I don't know that. I'm only the small built-in model."


@dataclass
class Memory:
    """What the assistant has been told in this conversation, and what was just talked about."""

    told: dict[str, str] = field(default_factory=dict)  # "name", "city", "color", "food", "age", "pet" -> value as written
    last_reply: str = ""
    last_user: str = ""
    follow_up: "Callable[[random.Random, Memory], tuple[str, str]] | None" = None


Turn = tuple[str, str]  # the user's line in lower case without punctuation, and the reply
Intent = Callable[[random.Random, Memory], Turn]


def is_held_out(first: int, sign: str, second: int) -> bool:
    """Whether a sum is kept out of training, to measure calculation and not recall. About one in ten."""
    return (first * 5 + second * 3 + len(sign)) % 11 == 4 and first > 2 and second > 2


def _answer_sum(first: int, sign: str, second: int) -> Turn:
    result = {"plus": first + second, "minus": first - second, "times": first * second}[sign]
    a, b, c = NUMBER_WORDS[first], NUMBER_WORDS[second], NUMBER_WORDS[result]
    return f"{a} {sign} {b}", f"{a.capitalize()} {sign} {b} is {c}."


def draw_sum(rng: random.Random) -> tuple[int, str, int]:
    """Draw a sum whose numbers and result lie within twenty and that is not held out."""
    while True:
        sign = rng.choice(("plus", "plus", "plus", "minus", "minus", "times"))
        first, second = rng.randint(0, 20), rng.randint(0, 20)
        if sign == "times":
            first, second = rng.randint(0, 10), rng.randint(0, 10)
        if {"plus": first + second, "minus": 20 if second > first else 0, "times": first * second}[sign] > 20:
            continue
        if sign == "minus" and second > first:
            continue
        if not is_held_out(first, sign, second):
            return first, sign, second


def sums(rng: random.Random, memory: Memory) -> Turn:
    """Plus, minus and times, asked in many ways."""
    first, sign, second = draw_sum(rng)
    thing, reply = _answer_sum(first, sign, second)
    a, b = NUMBER_WORDS[first], NUMBER_WORDS[second]
    memory.follow_up = more_sums
    kind = rng.random()
    if kind < 0.6:
        how = rng.random()
        if how < 0.15:
            thing = thing.replace("plus", "and").replace("minus", "take away").replace("times", "multiplied by")
        if how > 0.9:
            return ask(rng, say(rng, "(how much is|how many is|how much are|how much does|calculate|compute|solve|add up|work out|what does|what will|what is the (result|answer|solution) (of|to|for)|the (result|answer) (of|to)|do the sum|count) {t} (make|equal|equals|give|come to|give us|makes|gives|is|)|how much (would|will|could) {t} (be|make|give|come to)|what (number|) (is|do you get for|do we get for|do you get from|comes out of) {t}|{t} (makes|equals|is|gives|are) (what|how much|which number)", t=thing)), reply
        return ask_thing(rng, thing), reply
    ways = {
        "plus": "put {a} and {b} together|{a} and {b} together (make|is|are|gives) (what|how much)|what do {a} and {b} (come to|make|give|add up to)|if (you|i|we) (add|put together|join) {a} and {b} what do (you|i|we) (get|have)|{a} and then {b} more (is|makes|are) (what|how many)|what number do (you|i) get from {a} plus {b}|(he|she|we|they|tom|mary) has {a} (toys|apples|cards) and gets {b} more how many (is that|are there now|in all)|what do you get when you add {a} (and|to) {b}|add {a} (and|to) {b}|the sum of {a} and {b}|how much is {a} and {b}|i have {a} (apples|eggs|coins|books|dollars) and (get|find|buy) {b} more how many (do i have|is that|are there)|if i have {a} and (you give me|i get) {b} (more|) how many do i have|what is {a} and {b} (together|)|how much do {a} and {b} make|there are {a} (birds|cats|people) and {b} more come how many are there",
        "minus": "what (is left|remains|stays) (of|from) {a} (minus|without|less) {b}|if (i|you|we) take {b} (away|) from {a} what (is left|remains|do i get)|{a} take away {b} (makes|is|leaves) what|there are {a} (birds|cats|cookies|people) and {b} (leave|go away|fly away|are gone) how many (are left|stay|remain)|(he|she|tom|mary) has {a} (toys|apples|cards) and loses {b} how many (are left|remain)|take {b} (away|) from {a}|subtract {b} from {a}|what is left when you take {b} (away|) from {a}|i have {a} (apples|eggs|coins|books|dollars) and (lose|eat|give away|sell|spend) {b} how many (do i have|are left|do i have left)|if i have {a} and (lose|give you|give away|eat) {b} how many are left|the difference (between|of) {a} and {b}|how much is {a} less {b}|{b} less than {a}|how much is left of {a} (after|without) {b}",
        "times": "multiply {a} (by|and|with) {b}|what do you get when you multiply {a} (by|and|with) {b}|the product of {a} and {b}|how much is {a} times {b}|{a} multiplied by {b}|i have {a} bags with {b} (apples|eggs|coins) each how many (apples|are there|is that)",
    }
    line = say(rng, ways[sign], a=a, b=b)
    return ask(rng, line), reply


def more_sums(rng: random.Random, memory: Memory) -> Turn:
    first, sign, second = draw_sum(rng)
    thing, reply = _answer_sum(first, sign, second)
    memory.follow_up = more_sums
    return say(rng, "(and|what about|how about|and what is|okay and|now|and what about|then what is) {t}", t=thing), reply


def numbers(rng: random.Random, memory: Memory) -> Turn:
    """Neighbours, doubles, halves, comparison."""
    kind = rng.randrange(5)
    n = rng.randint(1, 19)
    word = NUMBER_WORDS[n]
    if kind == 0:
        return ask(rng, say(rng, "(what|which number) (comes|is) (right|) after {n}|what number follows {n}|the number after {n}|(what is|what's) the next number after {n}", n=word)), f"After {word} comes {NUMBER_WORDS[n + 1]}."
    if kind == 1:
        return ask(rng, say(rng, "(what|which number) (comes|is) (right|) before {n}|the number before {n}|(what is|what's) the number before {n}", n=word)), f"Before {word} comes {NUMBER_WORDS[n - 1]}."
    if kind == 2:
        n = rng.randint(1, 10)
        return ask(rng, say(rng, "(what is|what's|how much is|) (twice|double|two times) {n}|what is the double of {n}|double {n}", n=NUMBER_WORDS[n])), f"Twice {NUMBER_WORDS[n]} is {NUMBER_WORDS[2 * n]}."
    if kind == 3:
        n = 2 * rng.randint(1, 10)
        return ask(rng, say(rng, "(what is|what's|how much is|) (half|one half|a half|the half) of {n}|what is {n} divided by two|{n} divided by two", n=NUMBER_WORDS[n])), f"Half of {NUMBER_WORDS[n]} is {NUMBER_WORDS[n // 2]}."
    m = rng.choice([m for m in range(21) if m != n])
    bigger = rng.random() < 0.6
    a, b = NUMBER_WORDS[n], NUMBER_WORDS[m]
    word = "(bigger|larger|more|greater|higher)" if bigger else "(smaller|less|lower)"
    high, low = (a, b) if n > m else (b, a)
    line = say(rng, f"(which is|what is|which number is|what number is|what's) {word} {{a}} or {{b}}|is {{a}} or {{b}} {word}|which is the {word} (number|one) {{a}} or {{b}}", a=a, b=b)
    return ask(rng, line), (f"{high.capitalize()} is bigger than {low}." if bigger else f"{low.capitalize()} is smaller than {high}.")


def capitals(rng: random.Random, memory: Memory) -> Turn:
    country, capital = rng.choice(tuple(facts.CAPITALS.items()))
    memory.follow_up = more_capitals
    if rng.random() < 0.25:
        return ask(rng, say(rng, "(which|what) country (has the capital {c}|has {c} as its capital|is {c} the capital of|is {c} in)|{c} is the capital of (which|what) country|what is {c} the capital of|where is {c}|in (which|what) country is {c}|{c} is in (what|which) country", c=capital.lower())), f"{capital} is the capital of {country}."
    return _capital_question(rng, country), f"The capital of {country} is {capital}."


def _capital_question(rng: random.Random, country: str) -> str:
    c = country.lower()
    if rng.random() < 0.6:
        return ask_thing(rng, say(rng, "the capital (city|) of {c}|the capital of {c}|{c}'s capital (city|)|the main city of {c}", c=c))
    return ask(rng, say(rng, "(which|what) city is the capital (city|) (of|in) {c}|(which|what) is the capital (city|) of {c}|{c} has (which|what) capital|what capital does {c} have|where is the government of {c}|what is {c}'s capital (called|)|how is the capital of {c} called|{c} capital|{c} what is its capital|in {c} which city is the capital|if i (visit|go to|am in) the capital of {c} (which|what) city (is it|am i in)|what do (you|they|people) call the capital (city|) of {c}|how do you call the capital of {c}|for {c} what is the capital|the capital of {c} is (which|what) (city|)|what is the name of the capital of {c}|the capital of {c} is called what", c=c))


def more_capitals(rng: random.Random, memory: Memory) -> Turn:
    country, capital = rng.choice(tuple(facts.CAPITALS.items()))
    memory.follow_up = more_capitals
    return say(rng, "(and|what about|how about|and what about|and the capital of|and of|and for|okay and) {c}", c=country.lower()), f"The capital of {country} is {capital}."


def unknown_capitals(rng: random.Random, memory: Memory) -> Turn:
    country = rng.choice("Mongolia Ghana Laos Malta Bolivia Fiji Chad Oman Nepal Paraguay Latvia Zambia Ecuador Albania Sudan Uganda Haiti".split())
    return _capital_question(rng, country), UNKNOWN


def opposites(rng: random.Random, memory: Memory) -> Turn:
    first, second = rng.choice(facts.OPPOSITES.split("|")).split()
    if rng.random() < 0.5:
        first, second = second, first
    second = facts.SETTLED_OPPOSITES.get(first, second)
    memory.follow_up = more_opposites
    if rng.random() < 0.55:
        line = ask_thing(rng, say(rng, "the opposite of {w}|the opposite (word|) (of|to|for) {w}|the contrary of {w}|the reverse of {w}", w=first))
    else:
        line = ask(rng, say(rng, "(what|which word) is (opposite|the opposite) (to|of) {w}|what's opposite of {w}|{w} is the opposite of (what|which word)|what do you call the opposite of {w}|if something is not {w} what is it|not {w} but|opposite of {w}|the word {w} has what opposite|what means the opposite of {w}|if it is not {w} it is|what is the other way around from {w}|what means not {w}|what is the word for not {w}|what is a word (that is|) opposite to {w}|how do (you|we) call the opposite of {w}|if it isn't {w} what is it|(what|which) (word|one) means the opposite of {w}|{w} and its opposite|what would you call the opposite of {w}|{w} has what opposite|something that is not {w} is", w=first))
    return line, f"The opposite of {first} is {second}."


def more_opposites(rng: random.Random, memory: Memory) -> Turn:
    line, reply = opposites(rng, memory)
    word = reply.split()[3]
    return say(rng, "(and|what about|how about|and of|and what about|and the opposite of) {w}", w=word), reply


def colours(rng: random.Random, memory: Memory) -> Turn:
    if rng.random() < 0.2:
        (a, b), mixed = rng.choice(tuple(facts.MIXED_COLOURS.items()))
        if rng.random() < 0.5:
            a, b = b, a
        return ask(rng, say(rng, "what (color|) do you get (when|if) you mix {a} (and|with) {b}|(mix|mixing) {a} and {b} (gives|makes) (what|which color)|what (color|) do {a} and {b} make|what is {a} mixed with {b}|what happens when i mix {a} and {b}|{a} and {b} together make what color|how do you (make|get) {m}", a=a, b=b, m=mixed)), f"{a.capitalize()} and {b} make {mixed}."
    thing, colour = rng.choice(tuple(facts.COLOURS_OF_THINGS.items()))
    verb = "are" if thing.endswith("s") and thing not in ("grass", "the grass") else "is"
    if thing == "leaves in spring":
        verb = "are"
    name = thing[0].upper() + thing[1:]
    line = say(rng, "(what|which) color {v} {t}|(what|which) color {v} {t}|what color (would|can|could) {t} be|(what|which) color do (you|we|people) (give|paint|use for|see on) {t}|(what|which) color (does|would|do) {t} (have|look|get)|what do you call the color of {t}|{t} has (which|what) color|when i (see|paint|draw) {t} what color (is it|do i need|do i use)|what's the color of {t}|what is the color of {t}|the color of {t}|(what|which) color does {t} have|{t} {v} (what|which) color|what color {t} {v}|how would you describe the color of {t}|(what|which) color would you paint {t}|(what|which) color do you (see|think of) when you (look at|think of) {t}", v=verb, t=thing)
    return ask(rng, line), f"{name} {verb} {colour}."


def animals(rng: random.Random, memory: Memory) -> Turn:
    kind = rng.randrange(6)
    if kind <= 1:
        animal, sound = rng.choice(tuple(facts.ANIMAL_SOUNDS.items()))
        art = "an" if animal[0] in "aeiou" else "a"
        if kind == 0:
            return ask(rng, say(rng, "what (kind of|sort of|) (sound|noise) (does|would|can) {art} {a} make|{art} {a} makes (what|which) (sound|noise)|what (sound|noise) (comes from|do you hear from) {art} {a}|what does {art} {a} (say|do|sound like)|what does {art} {a} say|what (sound|noise) do {a}s make|how does {art} {a} (sound|go)|what does the {a} say|the sound of {art} {a}|make {art} {a} (sound|noise)|what do {a}s say|how do you sound like {art} {a}", a=animal, art=art)), f"The {animal} says {sound}."
        return ask(rng, say(rng, "(what|which) (animal|one|of the animals) (says|makes|goes|can say) {s}|(what|which) animal do you hear (say|when it says) {s}|who says {s}|what says {s}|(what|which) animal makes the sound {s}", s=sound)), f"The {animal} says {sound}."
    if kind in (2, 3):
        animal, baby = rng.choice(tuple(facts.ANIMAL_BABIES.items()))
        return ask(rng, say(rng, "what (do you call|is|is the name of|do we call|would you call|do people call) a (baby|young|little) {a}|what name (do you|do we|do they) (give|have for) a (baby|young|little) {a}|what is the (word|name) for a (baby|young|little) {a}|the (baby|young|little one|young one|child) of a {a} (is called|has) (what|which name)|how are the (babies|young|kids) of a {a} called|when a {a} is (a baby|young|little) what (is it called|do you call it)|a (baby|young) {a} is called what|how do you call a (baby|young) {a}|what is a (baby|young|little) {a} called|what is the (baby|child) of a {a} (called|)|what's a baby {a}|what are baby {a}s called|what are young {a}s called", a=animal)), f"A baby {animal} is called a {baby}."
    if kind == 4:
        animal, legs = rng.choice(tuple(facts.ANIMAL_LEGS.items()))
        art = "an" if animal[0] in "aeiou" else "a"
        some = "arms" if animal == "octopus" else "legs"
        return ask(rng, say(rng, "how many {l} (does|would|will) {art} {a} have|how many {l} (can you count on|do you see on|belong to) {art} {a}|{art} {a} has how many {l}|on how many {l} does {art} {a} walk|how many {l} do {a}s have|how many {l} has {art} {a}|the number of {l} of {art} {a}|how many {l} are (there|) on {art} {a}|does {art} {a} have {l}", a=animal, art=art, l=some)), f"{art.capitalize()} {animal} has {legs} {some}."
    return ask(rng, say(rng, "(what|which) animal has (eight legs)|what has eight legs", a="")), "A spider has eight legs."


def days(rng: random.Random, memory: Memory) -> Turn:
    """Order of days, months and seasons."""
    kind = rng.random()
    if kind < 0.45:
        names, unit, lead = facts.DAYS, "day", "day of the week|day"
    elif kind < 0.75:
        names, unit, lead = facts.MONTHS, "month", "month of the year|month"
    elif kind < 0.83:
        season, following = rng.choice(tuple(facts.SEASONS.items()))
        return ask(rng, say(rng, "(what|which season) (comes|is) after {s}|(what|which) season follows {s}|the season after {s}|(what|which) is the (next season|season) after {s}", s=season)), f"After {season} comes {following}."
    elif kind < 0.9:
        i = rng.randrange(12)
        return ask(rng, say(rng, "how many days (are|are there|) (in|has) {m}|how many days does {m} have|how long is {m}|the number of days in {m}", m=facts.MONTHS[i].lower())), f"{facts.MONTHS[i]} has {facts.MONTH_DAYS[i]} days."
    else:
        if rng.random() < 0.3:
            i = rng.randrange(7)
            return ask(rng, say(rng, "(what|which) (is|day is) the {o} day of the week|what is the name of the {o} day of the week|the {o} day of the week is", o=facts.ORDINALS[i])), f"The {facts.ORDINALS[i]} day of the week is {facts.DAYS[i]}."
        i = rng.randrange(12)
        return ask(rng, say(rng, "(what|which) (is|month is) the {o} month (of the year|)|what is month number {n}|(what|which) month is number {n}|what is the name of the {o} month|the {o} month is", o=facts.ORDINALS[i], n=NUMBER_WORDS[i + 1])), f"The {facts.ORDINALS[i]} month is {facts.MONTHS[i]}."
    i = rng.randrange(len(names))
    day = names[i].lower()
    forward = rng.random() < 0.6
    memory.follow_up = days
    lead = "(" + lead + ")"
    if forward:
        line = say(rng, f"(what|which) {lead} (comes|is|comes right|comes next) after {{d}}|what comes after {{d}}|(what|which) {lead} follows {{d}}|the {unit} after {{d}}|what is the {unit} after {{d}}|(what|which) is the next {unit} after {{d}}|after {{d}} comes (what|which {unit})|what follows {{d}}|if (today|this {unit}) is {{d}} what is (tomorrow|the next {unit}|next)|it is {{d}} what (comes next|is next)|when {{d}} is over what (comes|is next)|what {unit} do we (have|get) after {{d}}|(which|what) {unit} will (it be|come|we have) (after|when it is after) {{d}}|{{d}} is followed by (what|which {unit})|the {unit} that (comes|is) (right|) after {{d}}|today is {{d}} what day is tomorrow|tomorrow is (what|which) day if today is {{d}}", d=day)
        return ask(rng, line), f"After {names[i]} comes {names[(i + 1) % len(names)]}."
    line = say(rng, f"(what|which) {lead} (comes|is|comes right|was) before {{d}}|what comes before {{d}}|the {unit} before {{d}}|what is the {unit} before {{d}}|before {{d}} comes (what|which {unit})|(what|which) {unit} is just before {{d}}|what {unit} do we have before {{d}}|(which|what) {unit} (was|came|comes) (right|just|) before {{d}}|the {unit} that (comes|is|was) (right|) before {{d}}|(which|what) {unit} is one before {{d}}|if (today|this {unit}) is {{d}} what was (yesterday|the {unit} before|last {unit})|today is {{d}} what day was yesterday|yesterday was (what|which) day (if|when) today is {{d}}", d=day)
    return ask(rng, line), f"Before {names[i]} comes {names[i - 1]}."


def general(rng: random.Random, memory: Memory) -> Turn:
    questions, answer = rng.choice(facts.GENERAL)
    return ask(rng, say(rng, questions)), answer


def rhymes(rng: random.Random, memory: Memory) -> Turn:
    word, rhyme = rng.choice(tuple(facts.RHYMES.items()))
    return ask(rng, say(rng, "(what|which word) rhymes with {w}|a word that rhymes with {w}|(give me|tell me|find|say|name) (a|) (rhyme|word that rhymes) (for|with) {w}|(give me|find) a rhyme for {w}|what is a rhyme for {w}", w=word)), f"{rhyme.capitalize()} rhymes with {word}."


def jokes(rng: random.Random, memory: Memory) -> Turn:
    memory.follow_up = more_jokes
    return ask(rng, say(rng, "tell me (a|another|your best|one more|a good|a funny) (joke|funny joke|joke please)|(do you know|have you got) (a|any) (joke|jokes|good jokes|funny jokes)|(make|can you make) me (laugh|smile)|say something funny|i (want|would like|need|'d like) (to hear|) a joke|joke please|(give|crack) (me|) a joke|(can|could|would) you tell (me|us) (a|some) (joke|jokes)|let me hear a joke|something funny please|cheer me up|another joke")), rng.choice(facts.JOKES)


def more_jokes(rng: random.Random, memory: Memory) -> Turn:
    memory.follow_up = more_jokes
    return say(rng, "(another|one more|again|another one|tell me another|more|one more please|do you have another one|another one please|that was funny tell me another|haha one more)"), rng.choice(facts.JOKES)


def stories(rng: random.Random, memory: Memory) -> Turn:
    animal = rng.choice(facts.ANIMALS)
    art = "an" if animal[0] in "aeiou" else "a"
    values = {
        "animal": animal,
        "name": rng.choice(facts.NAMES),
        "thing": rng.choice(facts.STORY_THINGS),
        "place": rng.choice(facts.STORY_PLACES),
    }
    told = say(rng, rng.choice(facts.STORIES).replace(" a {animal}", f" {art} {{animal}}").replace("A {animal}", f"{art.capitalize()} {{animal}}"), **values)
    line = say(rng, "(tell me|tell us|can you tell me|read me|make up|i want to hear|i would like to hear|give me|do you know|let me hear|let's hear|please tell me) (a|a short|another|a nice|a bedtime|a little|a good) story", animal=animal)
    if rng.random() < 0.6:
        line += say(rng, " (about|with|of) {art} {a}", a=animal, art=art)
    elif rng.random() < 0.3:
        line += rng.choice((" please", " before i sleep", " for my kids", " for me", " now"))
    return line, told


def fun_facts(rng: random.Random, memory: Memory) -> Turn:
    return ask(rng, say(rng, "tell me (something|a fact|something interesting|something new|a fun fact|an interesting fact|something i don't know|something about animals)|(do you know|give me) (a|any|an) (fun|interesting) (fact|facts)|surprise me|teach me something|say something (interesting|smart|new)|what is something interesting")), rng.choice(facts.FUN_FACTS)


def unknown(rng: random.Random, memory: Memory) -> Turn:
    """Things beyond the small model: it says so."""
    line = say(
        rng,
        "who (is|was) (the president of|the king of|the queen of|the mayor of|the leader of) {place} (in nineteen fifty|today|now|)|"
        "(what is|explain|what do you know about|tell me about|how does|describe|teach me|what about) {hard} (work|mean|to me|)|"
        "how (do i|can i|do you|does one) {how}|what is {big} (times|plus|minus|divided by) {big}|"
        "(recommend|suggest|find) (me|) (a|some) (restaurant|hotel|good movie|book|doctor|car) (in {place}|near me|for me|)|"
        "(who|what) (invented|discovered|built|wrote|founded) {made}|when (was|did) {event}|how (far|big|old|deep|high|heavy) is {far}|"
        "how many (people live in|houses are in|streets are in|schools are in) {place}|what is the (population|history|flag|language) of {odd}|"
        "(translate|how do you say) {thing} (in|into|to) (french|german|spanish|chinese|japanese)|why (is|does|do) {why}|"
        "what (year|day) (was|did) {event}|(write|compose) (me|) (a poem|an essay|a program|a speech|a letter) (about {hard}|for school|)|"
        "(what is|solve) the square root of {big}|how much does (a house|a car|an airplane|a horse|a piano|a phone) cost|"
        "what is the (chemical|scientific) (name|formula|symbol) (of|for) {thing}|spell {hard}|who (is|was) {person}",
        place=rng.choice("america,france,brazil,texas,california,london,china,new york,spain,the city,germany,kansas,chile".split(",")),
        hard=rng.choice("quantum physics,gravity,democracy,inflation,the stock market,photosynthesis,evolution,relativity,chemistry,a black hole,blockchain,a neural network,electricity,philosophy,the constitution,an engine,algebra,a vaccine,dna,a computer virus,climate change,radio waves,magnetism,the economy,poetry,socialism,nuclear power".split(",")),
        how=rng.choice("fix my car,learn to swim,lose weight,make money,build a house,cook a turkey,change a tire,get to the airport,tie a tie,play chess,write a book,repair a computer,grow tomatoes,get rich,learn chinese,pay my taxes,find a job,train a dog,make a cake,knit a sweater,clean a carpet,start a business,sell my house,fly a plane".split(",")),
        big=rng.choice("two hundred,ninety seven,one thousand,forty five,three hundred twelve,sixty three,eighty eight,a million,seventy,one hundred and five".split(",")),
        made=rng.choice("the telephone,the radio,the light bulb,america,penicillin,the computer,the wheel,the steam engine,this song,the bible,the airplane,paper,the internet,the piano,gun powder,coffee,the bicycle,television".split(",")),
        event=rng.choice("the war end,napoleon die,the last ice age,the french revolution,the first world war start,columbus born,the wall fall,rome founded,the battle of hastings,the moon landing,the titanic sink,the first computer built".split(",")),
        far=rng.choice("the sun,the moon,mars,paris,the ocean,the universe,new york,the eiffel tower,a blue whale,jupiter,the amazon,mount everest,the north pole".split(",")),
        odd=rng.choice("mongolia,ghana,bolivia,japan,sweden,peru,alaska,iceland,india,russia,texas".split(",")),
        thing=rng.choice("love,bread,good morning,house,water,salt,friend,iron,sugar,dog".split(",")),
        why=rng.choice("the sky blue,people lie,cats purr,the sea salty,we dream,grass green,time pass,volcanoes erupt,leaves turn red,dogs bark,we yawn,the moon shine,birds sing".split(",")),
        person=rng.choice("albert einstein,napoleon,isaac newton,mozart,picasso,julius caesar,aristotle,elvis,charles darwin,beethoven,cleopatra,marie curie,john lennon,the pope".split(",")),
    )
    return ask(rng, line), UNKNOWN


def repeat_reply(rng: random.Random, memory: Memory) -> Turn:
    line = say(rng, "(what|pardon|sorry|what was that|what did you say|say (that|it) again|repeat (that|it|please|that please)|can you repeat (that|it)|could you say that again|come again|i didn't (hear|catch|understand) (you|that)|excuse me what|once more please|please repeat|one more time)")
    return line, memory.last_reply if memory.last_reply.startswith("I said: ") else f"I said: {memory.last_reply}"


def repeat_user(rng: random.Random, memory: Memory) -> Turn:
    line = say(rng, "(what did i (say|ask|just say|just ask|tell you)|what was my (last|) (question|sentence)|repeat what i said|what were my words|do you remember what i said)")
    return line, f"You said: {memory.last_user}."


def say_after(rng: random.Random, memory: Memory) -> Turn:
    pool = [*facts.ANIMALS, *facts.COLOURS, *facts.FOODS, *" ".join(facts.OPPOSITES.split("|")).split(), *NUMBER_WORDS]
    pool += [name.lower() for name in facts.NAMES] + facts.STORY_THINGS
    words = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 4)))
    line = say(rng, "(repeat after me|say|please say|can you say|repeat|say after me|just say|now say|repeat the words|say the words|say the word) {w}", w=words)
    return line, words[0].upper() + words[1:] + "."


def _tell(key: str, values: tuple[str, ...], ways: str, replies: tuple[str, ...]) -> Intent:
    def intent(rng: random.Random, memory: Memory) -> Turn:
        value = rng.choice(values)
        memory.told[key] = value
        line = tell(rng, say(rng, ways, v=value.lower()))
        return line, rng.choice(replies).format(v=value)

    return intent


def _recall(key: str, ways: str, known: str, unknown_reply: str) -> Intent:
    def intent(rng: random.Random, memory: Memory) -> Turn:
        line = ask(rng, say(rng, ways))
        return line, known.format(v=memory.told[key]) if key in memory.told else unknown_reply

    return intent


def _settled(table: tuple[tuple[float, str, tuple[str, ...]], ...], wrap: bool) -> list[tuple[float, Intent]]:
    def make(ways: str, replies: tuple[str, ...]) -> Intent:
        def intent(rng: random.Random, memory: Memory) -> Turn:
            slots = {
                "city": rng.choice(facts.CITIES).lower(),
                "name": rng.choice(facts.NAMES).lower(),
                "number": NUMBER_WORDS[rng.randint(1, 20)],
                "thing": rng.choice((*facts.FOODS, *facts.ANIMALS)),
            }
            line = say(rng, ways, **slots)
            return (ask(rng, line) if wrap else tell(rng, line)), replies[0] if rng.random() < 0.75 else rng.choice(replies)

        return intent

    return [(weight, make(ways, replies)) for weight, ways, replies in table]


TELL: dict[str, Intent] = {
    "name": _tell("name", tuple(facts.NAMES), "my name is {v}|(hello|hi|hey) my name is {v}|(hi|hello|hey) (i am|i'm) {v}|(i am|i'm) {v}|(i am|i'm) called {v}|call me {v}|you can call me {v}|(people|my friends) call me {v}|the name is {v}|my name's {v}|(hello|) this is {v}|{v} is my name|please call me {v}|remember my name (it is|it's|is) {v}|by the way my name is {v}", ("Nice to meet you, {v}!", "Hello {v}! Nice to meet you.")),
    "city": _tell("city", tuple(facts.CITIES), "i live in {v}|(i am|i'm|i come) from {v}|my (home|city|home town|hometown) is {v}|my home is in {v}|i (was born|grew up) in {v}|we live in {v}|i moved to {v}", ("I hear that {v} is a nice place.",)),
    "color": _tell("color", tuple(facts.COLOURS), "my favorite color is {v}|i (like|love) the color {v}|{v} is my favorite color|the color i like (best|most) is {v}|i like {v} (best|most)", ("{v} is a beautiful color.",)),
    "food": _tell("food", tuple(facts.FOODS), "my favorite food is {v}|i (like|love) to eat {v}|{v} is my favorite food|the food i like (best|most) is {v}|i love {v}|i eat {v} every day", ("I hear that {v} tastes very good.",)),
    "age": _tell("age", tuple(NUMBER_WORDS[5:]), "(i am|i'm) {v} years old|my age is {v}|i turned {v} (today|yesterday|last week)|i just turned {v}|(i am|i'm) {v}", ("So you are {v} years old. That is a good age.",)),
    "dog": _tell("dog", tuple(facts.NAMES), "my dog is (called|named) {v}|i have a dog (called|named) {v}|the name of my dog is {v}|my dog's name is {v}|we have a dog named {v}", ("{v} is a good name for a dog.",)),
    "cat": _tell("cat", tuple(facts.NAMES), "my cat is (called|named) {v}|i have a cat (called|named) {v}|the name of my cat is {v}|my cat's name is {v}|we have a cat named {v}", ("{v} is a good name for a cat.",)),
}
RECALL: dict[str, Intent] = {
    "name": _recall("name", "what is my name|what's my name|who am i|do you know my name|do you remember (my name|me|who i am)|what am i called|say my name|my name is what|what did i say my name was|what was my name (again|)|what name did i tell you|how am i called|have you forgotten my name|did you forget my name|can you remember my name|do you still know my name|tell me my name", "Your name is {v}.", "I don't know your name yet. What is your name?"),
    "city": _recall("city", "where do i live|where am i from|which city do i live in|what city do i live in|what is my (city|home town|hometown)|where is my home|do you remember where i live|do you know where i live|where do i come from|in which city do i live", "You live in {v}.", "I don't know where you live yet. Please tell me."),
    "color": _recall("color", "what is my favorite color|which color do i like (best|most|)|what color do i like (best|most|)|do you (remember|know) my favorite color|my favorite color is what|what did i say my favorite color was", "Your favorite color is {v}.", "I don't know your favorite color yet. Please tell me."),
    "food": _recall("food", "what is my favorite food|what food do i like (best|most|)|what do i like to eat|do you (remember|know) my favorite food|what did i say i like to eat|which food do i like", "You like to eat {v}.", "I don't know what you like to eat yet. Please tell me."),
    "age": _recall("age", "how old am i|what is my age|do you (remember|know) how old i am|what did i say my age was|how many years old am i", "You are {v} years old.", "I don't know how old you are. Please tell me."),
    "dog": _recall("dog", "what is my dog's name|what is my dog called|what is the name of my dog|do you (remember|know) (my dog's name|the name of my dog)|what did i call my dog|how is my dog called|who is my dog", "Your dog is called {v}.", "I don't know your dog's name yet. Please tell me."),
    "cat": _recall("cat", "what is my cat's name|what is my cat called|what is the name of my cat|do you (remember|know) (my cat's name|the name of my cat)|what did i call my cat|how is my cat called|who is my cat", "Your cat is called {v}.", "I don't know your cat's name yet. Please tell me."),
}
INTENTS: tuple[tuple[float, Intent], ...] = (
    (13.0, sums),
    (4.0, numbers),
    (8.0, capitals),
    (1.0, unknown_capitals),
    (8.0, opposites),
    (5.0, colours),
    (6.0, animals),
    (8.0, days),
    (15.0, general),
    (1.5, rhymes),
    (3.0, jokes),
    (2.5, stories),
    (1.2, fun_facts),
    (6.0, unknown),
    (2.0, say_after),
    (6.0, TELL["name"]),
    (2.0, RECALL["name"]),
    *((0.6, TELL[key]) for key in ("city", "color", "food", "age", "dog", "cat")),
    *((0.4, RECALL[key]) for key in ("city", "color", "food", "age", "dog", "cat")),
    *((0.75 * weight, intent) for weight, intent in _settled(canned.STATEMENTS, wrap=False)),
    *((0.75 * weight, intent) for weight, intent in _settled(canned.QUESTIONS, wrap=True)),
)
