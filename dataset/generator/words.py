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
    ("begin", "end"),
)  # fmt: skip

PLURALS: tuple[tuple[str, str], ...] = (
    ("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("cup", "cups"), ("hat", "hats"), ("boat", "boats"),
    ("tree", "trees"), ("spoon", "spoons"), ("clock", "clocks"), ("box", "boxes"), ("fox", "foxes"),
    ("dish", "dishes"), ("brush", "brushes"), ("glass", "glasses"), ("dress", "dresses"), ("bus", "buses"),
    ("bench", "benches"), ("peach", "peaches"), ("watch", "watches"), ("wish", "wishes"), ("baby", "babies"),
    ("city", "cities"), ("berry", "berries"), ("story", "stories"), ("puppy", "puppies"), ("fly", "flies"),
    ("leaf", "leaves"), ("wolf", "wolves"), ("knife", "knives"), ("shelf", "shelves"), ("man", "men"),
    ("woman", "women"), ("child", "children"), ("foot", "feet"), ("tooth", "teeth"), ("goose", "geese"),
    ("mouse", "mice"), ("ox", "oxen"), ("potato", "potatoes"), ("tomato", "tomatoes"), ("key", "keys"),
    ("toy", "toys"), ("monkey", "monkeys"), ("road", "roads"), ("river", "rivers"), ("field", "fields"),
    ("apple", "apples"), ("horse", "horses"), ("house", "houses"), ("page", "pages"),
)  # fmt: skip

PASTS: tuple[tuple[str, str], ...] = (
    ("go", "went"), ("see", "saw"), ("eat", "ate"), ("run", "ran"), ("sing", "sang"), ("swim", "swam"),
    ("drink", "drank"), ("write", "wrote"), ("ride", "rode"), ("drive", "drove"), ("break", "broke"),
    ("speak", "spoke"), ("wake", "woke"), ("choose", "chose"), ("fall", "fell"), ("hold", "held"), ("find", "found"),
    ("grow", "grew"), ("know", "knew"), ("throw", "threw"), ("draw", "drew"), ("keep", "kept"), ("sleep", "slept"),
    ("sweep", "swept"), ("leave", "left"), ("feel", "felt"), ("meet", "met"), ("catch", "caught"),
    ("bring", "brought"), ("think", "thought"), ("fight", "fought"), ("make", "made"), ("tell", "told"),
    ("send", "sent"), ("build", "built"), ("stand", "stood"), ("sit", "sat"), ("come", "came"), ("hide", "hid"),
    ("walk", "walked"), ("jump", "jumped"), ("play", "played"), ("cook", "cooked"), ("wash", "washed"),
    ("help", "helped"), ("look", "looked"), ("paint", "painted"), ("plant", "planted"), ("carry", "carried"),
    ("smile", "smiled"), ("dance", "danced"), ("stop", "stopped"),
)  # fmt: skip

CAPITALS: tuple[tuple[str, str], ...] = (
    ("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin"), ("Poland", "Warsaw"),
    ("Greece", "Athens"), ("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Finland", "Helsinki"),
    ("Denmark", "Copenhagen"), ("Portugal", "Lisbon"), ("Austria", "Vienna"), ("Hungary", "Budapest"),
    ("Ireland", "Dublin"), ("Belgium", "Brussels"), ("Russia", "Moscow"), ("Japan", "Tokyo"), ("China", "Beijing"),
    ("India", "Delhi"), ("Egypt", "Cairo"), ("Kenya", "Nairobi"), ("Canada", "Ottawa"), ("Cuba", "Havana"),
    ("Peru", "Lima"), ("Chile", "Santiago"), ("Iran", "Tehran"), ("Iraq", "Baghdad"), ("Turkey", "Ankara"),
    ("Vietnam", "Hanoi"), ("Thailand", "Bangkok"), ("Romania", "Bucharest"), ("Bulgaria", "Sofia"),
    ("Serbia", "Belgrade"), ("Croatia", "Zagreb"), ("Ukraine", "Kyiv"), ("Jordan", "Amman"), ("Morocco", "Rabat"),
)  # fmt: skip

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("animal", ("horse", "goat", "rabbit", "tiger", "donkey", "otter", "camel")),
    ("bird", ("eagle", "robin", "crow", "swan", "parrot", "owl", "stork")),
    ("fish", ("trout", "salmon", "herring", "carp", "tuna", "eel", "cod")),
    ("fruit", ("plum", "pear", "cherry", "lemon", "grape", "mango", "melon")),
    ("vegetable", ("carrot", "onion", "cabbage", "turnip", "pea", "bean", "leek")),
    ("tool", ("hammer", "saw", "spade", "rake", "drill", "chisel", "axe")),
    ("flower", ("rose", "tulip", "daisy", "lily", "violet", "poppy", "iris")),
    ("drink", ("tea", "milk", "coffee", "juice", "cocoa", "cider", "water")),
    ("vehicle", ("train", "truck", "wagon", "tram", "sledge", "ferry", "van")),
    ("job", ("baker", "doctor", "farmer", "miner", "tailor", "sailor", "pilot")),
)  # fmt: skip

# Short words for the letter games. Their spelling is learned word by word, so the list is closed.
LETTER_WORDS: tuple[str, ...] = (
    "ant", "bag", "bat", "bed", "bell", "bird", "boat", "book", "box", "bread", "cake", "cat", "coat", "corn", "cow",
    "cup", "dog", "door", "drum", "duck", "egg", "eye", "fire", "fish", "flag", "fog", "frog", "fox", "gate", "goat",
    "gold", "grass", "hand", "hat", "hen", "hill", "ice", "jam", "key", "king", "lake", "lamp", "leaf", "lion", "map",
    "milk", "moon", "mud", "net", "nose", "owl", "pen", "pig", "plum", "rain", "ring", "road", "rose", "salt", "sand",
    "ship", "shoe", "snow", "song", "star", "sun", "tent", "tree", "wall", "wind", "wolf", "wood",
)  # fmt: skip

NAMES: tuple[str, ...] = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Kate", "Leo", "Mara", "Nils", "Olga", "Paul",
    "Rosa", "Sam", "Tina", "Victor", "Tom", "Eva",
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "ball", "book", "cup", "hat", "key", "kite", "lamp", "map", "pen", "ring", "rope", "spoon", "bag", "bell", "box",
    "coat", "drum", "coin", "fan", "jar",
)  # fmt: skip

COLOURS: tuple[str, ...] = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange", "silver",
)  # fmt: skip

PLACES: tuple[str, ...] = (
    "garden", "kitchen", "barn", "cellar", "attic", "hall", "school", "market", "forest", "harbour", "library",
    "tower", "stable", "station",
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
