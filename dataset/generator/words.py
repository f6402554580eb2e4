"""The lexicon: every word, name and fact that the generated texts are made of.

Each table is a tuple of pairs in a fixed order, so that a seeded draw gives the same result on every machine.
A left-hand word stands in one pair only: each question has one right answer.
"""

from __future__ import annotations

OPPOSITE_PAIRS: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("old", "new"), ("wet", "dry"),
    ("full", "empty"), ("hard", "soft"), ("light", "dark"), ("loud", "quiet"), ("rich", "poor"), ("strong", "weak"),
    ("happy", "sad"), ("clean", "dirty"), ("early", "late"), ("near", "far"), ("open", "closed"), ("high", "low"),
    ("deep", "shallow"), ("wide", "narrow"), ("thick", "thin"), ("sweet", "sour"), ("sharp", "blunt"),
    ("smooth", "rough"), ("brave", "afraid"), ("asleep", "awake"), ("alive", "dead"), ("cheap", "dear"),
    ("right", "wrong"), ("true", "false"), ("first", "last"), ("inside", "outside"), ("above", "below"),
    ("before", "after"), ("north", "south"), ("east", "west"), ("up", "down"), ("day", "night"), ("friend", "enemy"),
    ("begin", "end"), ("buy", "sell"), ("give", "take"), ("push", "pull"), ("win", "lose"), ("laugh", "cry"),
    ("love", "hate"), ("question", "answer"), ("summer", "winter"), ("always", "never"), ("more", "less"),
)  # fmt: skip

PLURALS: tuple[tuple[str, str], ...] = (
    ("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("cup", "cups"), ("hat", "hats"), ("boat", "boats"),
    ("lamp", "lamps"), ("tree", "trees"), ("stone", "stones"), ("chair", "chairs"), ("spoon", "spoons"),
    ("clock", "clocks"), ("box", "boxes"), ("fox", "foxes"), ("dish", "dishes"), ("brush", "brushes"),
    ("glass", "glasses"), ("dress", "dresses"), ("bus", "buses"), ("bench", "benches"), ("peach", "peaches"),
    ("watch", "watches"), ("church", "churches"), ("wish", "wishes"), ("baby", "babies"), ("city", "cities"),
    ("berry", "berries"), ("lady", "ladies"), ("story", "stories"), ("pony", "ponies"), ("puppy", "puppies"),
    ("fly", "flies"), ("penny", "pennies"), ("leaf", "leaves"), ("wolf", "wolves"), ("knife", "knives"),
    ("loaf", "loaves"), ("shelf", "shelves"), ("half", "halves"), ("calf", "calves"), ("man", "men"),
    ("woman", "women"), ("child", "children"), ("foot", "feet"), ("tooth", "teeth"), ("goose", "geese"),
    ("mouse", "mice"), ("ox", "oxen"), ("potato", "potatoes"), ("tomato", "tomatoes"), ("hero", "heroes"),
    ("key", "keys"), ("toy", "toys"), ("monkey", "monkeys"), ("road", "roads"), ("river", "rivers"),
    ("field", "fields"), ("garden", "gardens"), ("window", "windows"), ("letter", "letters"), ("apple", "apples"),
    ("horse", "horses"), ("house", "houses"), ("nurse", "nurses"), ("bridge", "bridges"), ("page", "pages"),
)  # fmt: skip

PASTS: tuple[tuple[str, str], ...] = (
    ("go", "went"), ("see", "saw"), ("eat", "ate"), ("run", "ran"), ("sing", "sang"), ("swim", "swam"),
    ("drink", "drank"), ("write", "wrote"), ("ride", "rode"), ("drive", "drove"), ("break", "broke"),
    ("speak", "spoke"), ("steal", "stole"), ("wake", "woke"), ("choose", "chose"), ("fall", "fell"),
    ("hold", "held"), ("find", "found"), ("grow", "grew"), ("know", "knew"), ("throw", "threw"), ("draw", "drew"),
    ("blow", "blew"), ("keep", "kept"), ("sleep", "slept"), ("sweep", "swept"), ("leave", "left"), ("feel", "felt"),
    ("meet", "met"), ("teach", "taught"), ("catch", "caught"), ("bring", "brought"), ("think", "thought"),
    ("fight", "fought"), ("make", "made"), ("tell", "told"), ("send", "sent"), ("build", "built"), ("lend", "lent"),
    ("spend", "spent"), ("stand", "stood"), ("shake", "shook"), ("dig", "dug"), ("hang", "hung"), ("sit", "sat"),
    ("come", "came"), ("bite", "bit"), ("hide", "hid"), ("light", "lit"), ("lead", "led"), ("walk", "walked"),
    ("jump", "jumped"), ("play", "played"), ("cook", "cooked"), ("wash", "washed"), ("help", "helped"),
    ("look", "looked"), ("paint", "painted"), ("plant", "planted"), ("climb", "climbed"), ("carry", "carried"),
    ("hurry", "hurried"), ("study", "studied"), ("smile", "smiled"), ("dance", "danced"), ("stop", "stopped"),
)  # fmt: skip

CAPITALS: tuple[tuple[str, str], ...] = (
    ("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin"), ("Poland", "Warsaw"),
    ("Greece", "Athens"), ("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Finland", "Helsinki"),
    ("Denmark", "Copenhagen"), ("Portugal", "Lisbon"), ("Austria", "Vienna"), ("Hungary", "Budapest"),
    ("Ireland", "Dublin"), ("Belgium", "Brussels"), ("Russia", "Moscow"), ("Japan", "Tokyo"), ("China", "Beijing"),
    ("India", "Delhi"), ("Egypt", "Cairo"), ("Kenya", "Nairobi"), ("Canada", "Ottawa"), ("Cuba", "Havana"),
    ("Peru", "Lima"), ("Chile", "Santiago"), ("Iran", "Tehran"), ("Iraq", "Baghdad"), ("Turkey", "Ankara"),
    ("Nepal", "Kathmandu"), ("Vietnam", "Hanoi"), ("Thailand", "Bangkok"), ("Romania", "Bucharest"),
    ("Bulgaria", "Sofia"), ("Serbia", "Belgrade"), ("Croatia", "Zagreb"), ("Ukraine", "Kyiv"), ("Latvia", "Riga"),
    ("Estonia", "Tallinn"), ("Iceland", "Reykjavik"), ("Jordan", "Amman"), ("Ghana", "Accra"), ("Senegal", "Dakar"),
    ("Morocco", "Rabat"), ("Libya", "Tripoli"), ("Cyprus", "Nicosia"), ("Malta", "Valletta"),
)  # fmt: skip

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("animal", ("horse", "goat", "rabbit", "tiger", "donkey", "otter", "camel")),
    ("bird", ("eagle", "robin", "crow", "swan", "parrot", "owl", "stork")),
    ("fish", ("trout", "salmon", "herring", "carp", "tuna", "eel", "cod")),
    ("fruit", ("plum", "pear", "cherry", "lemon", "grape", "mango", "melon")),
    ("vegetable", ("carrot", "onion", "cabbage", "turnip", "pea", "bean", "leek")),
    ("tool", ("hammer", "saw", "spade", "rake", "drill", "chisel", "axe")),
    ("flower", ("rose", "tulip", "daisy", "lily", "violet", "poppy", "iris")),
    ("metal", ("iron", "gold", "silver", "copper", "tin", "lead", "zinc")),
    ("insect", ("ant", "bee", "wasp", "beetle", "moth", "cricket", "gnat")),
    ("drink", ("tea", "milk", "coffee", "juice", "cocoa", "cider", "water")),
    ("instrument", ("flute", "drum", "violin", "piano", "harp", "trumpet", "guitar")),
    ("vehicle", ("train", "truck", "wagon", "tram", "sledge", "ferry", "van")),
    ("garment", ("coat", "shirt", "scarf", "glove", "sock", "skirt", "vest")),
    ("job", ("baker", "doctor", "farmer", "miner", "tailor", "sailor", "pilot")),
)  # fmt: skip

# Short words for the letter games. Their spelling is learned word by word, so the list is closed.
LETTER_WORDS: tuple[str, ...] = (
    "ant", "arm", "bag", "bat", "bed", "bell", "bird", "boat", "bone", "book", "boot", "box", "bread", "cake", "card",
    "cat", "chin", "clay", "coal", "coat", "corn", "cow", "crow", "cup", "desk", "dog", "door", "drum", "duck",
    "dust", "ear", "egg", "eye", "farm", "fire", "fish", "flag", "fog", "frog", "fox", "gate", "gift", "goat", "gold",
    "grass", "hand", "hat", "hen", "hill", "horn", "ice", "ink", "iron", "jam", "jar", "jug", "key", "king", "kite",
    "knot", "lake", "lamp", "leaf", "lid", "lion", "lock", "log", "map", "mask", "milk", "mill", "moon", "moth",
    "mud", "nail", "nest", "net", "nose", "nut", "oak", "oil", "owl", "pan", "pear", "pen", "pig", "pin", "pipe",
    "plum", "pond", "pot", "rain", "ring", "road", "rock", "roof", "rope", "rose", "salt", "sand", "seed", "ship",
    "shoe", "silk", "snow", "soap", "song", "soup", "star", "sun", "tail", "tent", "toad", "tray", "tree", "wall",
    "wax", "well", "wind", "wing", "wolf", "wood", "wool", "yard",
)  # fmt: skip

NAMES: tuple[str, ...] = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Kate", "Leo", "Mara", "Nils",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wanda", "Max", "Nora", "Otto", "Lena", "Tom", "Eva", "Karl",
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "ball", "book", "cup", "hat", "key", "kite", "lamp", "map", "pen", "ring", "rope", "spoon", "bag", "bell", "box",
    "coat", "drum", "coin", "fan", "jar", "mask", "mug", "scarf", "shoe", "basket", "brush", "candle", "clock",
    "flag", "plate",
)  # fmt: skip

COLOURS: tuple[str, ...] = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange", "silver",
)  # fmt: skip

PLACES: tuple[str, ...] = (
    "garden", "kitchen", "barn", "cellar", "attic", "hall", "school", "market", "forest", "harbour", "library",
    "tower", "stable", "station", "office", "tent", "bakery", "museum", "castle", "mill",
)  # fmt: skip

DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

WEATHER: tuple[str, ...] = ("sunny", "cloudy", "windy", "rainy", "cold", "warm", "foggy", "snowy", "stormy", "mild")

FOODS: tuple[str, ...] = (
    "bread", "soup", "cheese", "rice", "cake", "apples", "eggs", "pie", "plums", "honey", "porridge", "noodles",
)  # fmt: skip

HOBBIES: tuple[str, ...] = (
    "reading", "painting", "fishing", "singing", "cooking", "running", "dancing", "swimming", "sewing", "gardening",
)  # fmt: skip


def opposites() -> tuple[tuple[str, str], ...]:
    """Both directions of every pair of opposites."""
    return OPPOSITE_PAIRS + tuple((right, left) for left, right in OPPOSITE_PAIRS)


def kinds() -> tuple[tuple[str, str], ...]:
    """(thing, kind), one row per thing."""
    return tuple((thing, kind) for kind, things in KINDS for thing in things)
