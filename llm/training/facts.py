"""What the small model knows: tables of facts, names, jokes and stories, in plain words."""

NAMES = (
    "Anna Peter Mary John Paul Lisa Tom Emma Jack Sarah David Laura Mark Julia Kevin Alice Ben Clara Daniel Eva Frank Grace "
    "Henry Irene James Kate Leo Maria Nick Olivia Oscar Rachel Sam Tina Victor Wendy Adam Betty Carl Diana Eric Fiona George "
    "Hannah Ian Jane Karen Linda Michael Nora Oliver Patrick Rose Simon Susan Thomas Vera Walter Robert William Charles Joseph "
    "Richard Andrew Steven Brian Edward Jason Ryan Jacob Gary Larry Justin Scott Brandon Gregory Samuel Alexander Dennis Jerry "
    "Tyler Aaron Nathan Douglas Harold Arthur Roger Albert Willie Bruce Ralph Roy Louis Philip Johnny Bobby Howard Martin "
    "Patricia Jennifer Elizabeth Barbara Jessica Margaret Nancy Sandra Ashley Dorothy Emily Helen Amanda Melissa Deborah "
    "Stephanie Rebecca Sharon Cynthia Kathleen Amy Angela Shirley Brenda Pamela Nicole Samantha Katherine Christine Catherine "
    "Virginia Janet Ruth Maya Lucy Max Sophie Charlie Harry Ella Mia Noah Luke Chloe Zoe Molly Ruby Lily Amelia Isabella Ethan"
).split()

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "England": "London",
    "Scotland": "Edinburgh",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Russia": "Moscow",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Egypt": "Cairo",
    "Canada": "Ottawa",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Belgium": "Brussels",
    "the Netherlands": "Amsterdam",
    "Turkey": "Ankara",
    "Cuba": "Havana",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Kenya": "Nairobi",
    "Israel": "Jerusalem",
    "Iraq": "Baghdad",
    "Iran": "Tehran",
    "Vietnam": "Hanoi",
    "Thailand": "Bangkok",
    "South Korea": "Seoul",
    "Ukraine": "Kiev",
    "the United States": "Washington",
}

FAR_COUNTRIES = (  # whose capitals it does not know
    "Mongolia Ghana Laos Malta Bolivia Fiji Chad Oman Nepal Paraguay Latvia Zambia Ecuador Albania Sudan Uganda Haiti"
).split()

OPPOSITES = (
    "hot cold|big small|tall short|old young|happy sad|fast slow|up down|left right|day night|black white|good bad|"
    "open closed|full empty|hard soft|wet dry|light dark|loud quiet|rich poor|strong weak|clean dirty|near far|early late|"
    "first last|high low|in out|on off|yes no|easy difficult|thick thin|heavy light|sweet sour|front back|start stop|"
    "buy sell|give take|love hate|win lose|push pull|hello goodbye|north south|east west|inside outside|above below|"
    "before after|always never|asleep awake|beautiful ugly|brave afraid|cheap expensive|true false|right wrong|new old|"
    "long short|wide narrow|begin end|remember forget|laugh cry|summer winter|friend enemy|same different|top bottom|"
    "warm cool|deep shallow|smooth rough|war peace|life death|more less|sharp dull|safe dangerous|come go|question answer"
)
# A word with two opposites keeps one of them, so that the answer is settled.
SETTLED_OPPOSITES = {"old": "young", "short": "tall", "light": "dark", "right": "left"}

COLOURS_OF_THINGS = {
    "grass": "green",
    "the grass": "green",
    "the sky": "blue",
    "snow": "white",
    "a banana": "yellow",
    "bananas": "yellow",
    "the sun": "yellow",
    "a lemon": "yellow",
    "coal": "black",
    "blood": "red",
    "a carrot": "orange",
    "carrots": "orange",
    "a tomato": "red",
    "tomatoes": "red",
    "milk": "white",
    "an elephant": "gray",
    "elephants": "gray",
    "a strawberry": "red",
    "chocolate": "brown",
    "a frog": "green",
    "frogs": "green",
    "the ocean": "blue",
    "the sea": "blue",
    "a pumpkin": "orange",
    "pumpkins": "orange",
    "a cherry": "red",
    "coffee": "brown",
    "the night sky": "black",
    "a fire truck": "red",
    "a leaf": "green",
    "leaves in spring": "green",
    "a crow": "black",
    "a swan": "white",
    "gold": "yellow",
    "a cucumber": "green",
    "salt": "white",
    "sugar": "white",
    "a flamingo": "pink",
    "a pig": "pink",
    "wood": "brown",
    "a stop sign": "red",
    "a rose": "red",
    "a cloud": "white",
    "clouds": "white",
    "the moon": "white",
    "rice": "white",
    "broccoli": "green",
    "an orange": "orange",
}
ADJECTIVES_OF_THINGS = "fresh nice new big small clean pure real good lovely".split()  # that leave their colours
PLURALS = frozenset(("bananas", "carrots", "tomatoes", "elephants", "frogs", "pumpkins", "leaves in spring", "clouds"))
MIXED_COLOURS = {
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("red", "white"): "pink",
    ("black", "white"): "gray",
}
COLOURS = "red blue green yellow orange purple pink black white brown gray gold silver".split()

ANIMAL_SOUNDS = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "lion": "roar",
    "frog": "croak",
    "snake": "hiss",
    "bee": "buzz",
    "mouse": "squeak",
    "owl": "hoot",
    "bird": "tweet",
    "wolf": "howl",
}
ANIMAL_BABIES = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "duck": "duckling",
    "bear": "cub",
    "lion": "cub",
    "goat": "kid",
    "frog": "tadpole",
    "kangaroo": "joey",
    "pig": "piglet",
    "hen": "chick",
}
ANIMAL_LEGS = {
    "dog": "four",
    "cat": "four",
    "horse": "four",
    "cow": "four",
    "pig": "four",
    "elephant": "four",
    "lion": "four",
    "mouse": "four",
    "bird": "two",
    "duck": "two",
    "chicken": "two",
    "person": "two",
    "spider": "eight",
    "ant": "six",
    "bee": "six",
    "fly": "six",
    "octopus": "eight",
    "snake": "no",
    "fish": "no",
}
ANIMALS = (
    "fox bear cat dog mouse rabbit owl frog duck horse lion elephant monkey wolf bird turtle whale squirrel tiger hen cow "
    "penguin pig fish goat"
).split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
_LONG, _SHORT = "thirty-one", "thirty"
MONTH_DAYS = (_LONG, "twenty-eight", _LONG, _SHORT, _LONG, _SHORT, _LONG, _LONG, _SHORT, _LONG, _SHORT, _LONG)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
SEASONS = {"spring": "summer", "summer": "autumn", "autumn": "winter", "fall": "winter", "winter": "spring"}

CITIES = (
    "London Paris Boston Chicago Berlin Madrid Rome Denver Dallas Seattle Austin Houston Miami Toronto Dublin Vienna Tokyo "
    "Sydney Phoenix Portland Oxford Cambridge Moscow Atlanta Cleveland Detroit Memphis Nashville Orlando Oakland"
).split()
FOODS = "pizza soup bread rice pasta chocolate salad cheese fish chicken cake apples bananas pancakes".split()

JOKES = (
    "Why did the chicken cross the road? To get to the other side!",
    "What do you call a bear with no teeth? A gummy bear!",
    "Why was six afraid of seven? Because seven ate nine!",
    "What do you call a sleeping bull? A bulldozer!",
    "Why did the man bring a ladder to school? He wanted to go to high school!",
    "What has four wheels and flies? A garbage truck!",
    "Why can't you give Elsa a balloon? Because she will let it go!",
    "What did one wall say to the other? I will meet you at the corner!",
    "Why did the cookie go to Dr. Smith? It felt crumby!",
    "What do you call cheese that is not yours? Nacho cheese!",
    "Why do bees have sticky hair? Because they use honey combs!",
    "What time is it when an elephant sits on your fence? Time to get a new fence!",
    "Why did the fish get bad grades? They were below sea level!",
    "What is brown and sticky? A stick!",
)
STORIES = (
    "Once there was a little {animal} named {name}. One day {name} found a {thing} in the {place}. {name} showed it to "
    "everyone, and they played until the evening. Then they all went home happy.",
    "A long time ago, a {animal} lived near the {place}. It was very lonely. One morning it heard a friendly voice and met "
    "{name}. From that day on they were the best of friends.",
    "One night, {name} could not sleep. A {animal} came to the window with a {thing}. Together they walked to the {place} and "
    "looked at the stars. In the morning it felt like a dream.",
    "There was a brave {animal} who wanted to see the world. It packed a {thing} and walked to the {place}. There it met "
    "{name}, who gave it a warm meal. The {animal} stayed and was never lonely again.",
)
STORY_THINGS = "red ball,golden key,small boat,blue hat,magic lamp,silver bell,big cake,thick book".split(",")
STORY_PLACES = "forest,river,garden,mountain,beach,castle,lake,village".split(",")
FUN_FACTS = (
    "Here is one: an octopus has three hearts.",
    "Did you know that honey never goes bad?",
    "Here is one: a day on Venus is longer than its year.",
    "Did you know that bananas are berries?",
    "Here is one: a snail can sleep for three years.",
    "Did you know that elephants cannot jump?",
    "Here is one: butterflies taste with their feet.",
)
RHYMES = {
    "cat": "hat",
    "dog": "frog",
    "tree": "bee",
    "house": "mouse",
    "star": "car",
    "sun": "fun",
    "moon": "spoon",
    "day": "play",
    "night": "light",
    "blue": "shoe",
    "red": "bed",
    "cake": "lake",
    "ball": "wall",
    "ring": "king",
    "rain": "train",
    "goat": "boat",
    "book": "cook",
    "bear": "chair",
}

# What an unknown question may be about, by slot of its templates.
BEYOND = {
    "place": ("america,france,brazil,texas,california,london,china,new york,spain,the city,germany,kansas,chile").split(
        ","
    ),
    "hard": (
        "quantum physics,gravity,democracy,inflation,the stock market,photosynthesis,evolution,"
        "relativity,chemistry,a black hole,blockchain,a neural network,electricity,philosophy,"
        "the constitution,an engine,algebra,a vaccine,dna,a computer virus,climate change,radio waves,"
        "magnetism,the economy,poetry,socialism,nuclear power"
    ).split(","),
    "how": (
        "fix my car,learn to swim,lose weight,make money,build a house,cook a turkey,change a tire,"
        "get to the airport,tie a tie,play chess,write a book,repair a computer,grow tomatoes,get rich,"
        "learn chinese,pay my taxes,find a job,train a dog,make a cake,knit a sweater,clean a carpet,"
        "start a business,sell my house,fly a plane"
    ).split(","),
    "big": (
        "two hundred,ninety seven,one thousand,forty five,three hundred twelve,sixty three,eighty eight,"
        "a million,seventy,one hundred and five"
    ).split(","),
    "made": (
        "the telephone,the radio,the light bulb,america,penicillin,the computer,the wheel,"
        "the steam engine,this song,the bible,the airplane,paper,the internet,the piano,gun powder,"
        "coffee,the bicycle,television"
    ).split(","),
    "event": (
        "the war end,napoleon die,the last ice age,the french revolution,the first world war start,"
        "columbus born,the wall fall,rome founded,the battle of hastings,the moon landing,"
        "the titanic sink,the first computer built"
    ).split(","),
    "far": (
        "the sun,the moon,mars,paris,the ocean,the universe,new york,the eiffel tower,a blue whale,"
        "jupiter,the amazon,mount everest,the north pole"
    ).split(","),
    "odd": ("mongolia,ghana,bolivia,japan,sweden,peru,alaska,iceland,india,russia,texas").split(","),
    "thing": ("love,bread,good morning,house,water,salt,friend,iron,sugar,dog").split(","),
    "why": (
        "the sky blue,people lie,cats purr,the sea salty,we dream,grass green,time pass,volcanoes erupt,"
        "leaves turn red,dogs bark,we yawn,the moon shine,birds sing"
    ).split(","),
    "person": (
        "albert einstein,napoleon,isaac newton,mozart,picasso,julius caesar,aristotle,elvis,"
        "charles darwin,beethoven,cleopatra,marie curie,john lennon,the pope"
    ).split(","),
}
