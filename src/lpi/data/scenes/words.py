"""The words that scenes are described with: the common one first, rarer ones after it.

A world without rare words uses only the first of each row's two tuples.
"""

from collections.abc import Mapping
from random import Random

Choice = tuple[tuple[str, ...], tuple[str, ...]]  # common, rare

PLACE_WORDS: Mapping[str, Choice] = {
    "kitchen": (("in a kitchen", "in the kitchen"), ()),
    "room": (("in a living room", "in the living room"), ("at home", "in a lounge")),
    "street": (("on a street", "in the street"), ("on the road", "in front of houses")),
    "park": (("in a park", "in the park"), ("on the grass",)),
    "beach": (("on the beach", "at the beach"), ("by the sea", "on the sand")),
    "forest": (("in a forest", "in the forest"), ("in the woods",)),
    "snow": (("in the snow",), ("on a winter day",)),
    "mountains": (("in the mountains",), ("near high peaks",)),
    "farm": (("on a farm", "at the farm"), ("in the countryside",)),
    "desert": (("in a desert", "in the desert"), ("among dry dunes",)),
    "city": (("in the city", "in a city"), ("downtown", "near tall buildings")),
}
LIGHT_WORDS: Mapping[str, Choice] = {
    "clear": ((), ()),
    "sunset": (("at sunset",), ("in the evening", "at dusk")),
    "rain": (("in the rain",), ("on a rainy day",)),
    "snowfall": (("in falling snow",), ("while it snows",)),
    "night": (("at night", "in the dark"), ("under the moon",)),
}
STYLE_NOUNS: Mapping[str, Choice] = {
    "plain": (("a picture", "an illustration"), ("an image",)),
    "photo": (("a photo",), ("a snapshot", "a photograph")),
    "comic": (("a cartoon",), ("a comic",)),
    "watercolour": (("a painting",), ("a watercolour",)),
    "sketch": (("a sketch",), ("a pencil drawing",)),
    "chalk": (("a chalk drawing",), ("a blackboard drawing",)),
    "night": (("a night scene",), ("a dark picture",)),
}
STYLE_ENDINGS: Mapping[str, Choice] = {
    "plain": ((), ()),
    "photo": ((", a bit blurred",), (", caught on camera",)),
    "comic": ((" with bold lines",), (", comic style",)),
    "watercolour": ((" in soft paint",), (", in pale washes",)),
    "sketch": ((" drawn in pencil",), (", sketched on paper",)),
    "chalk": ((" drawn in chalk",), (", on a blackboard",)),
    "night": ((" at night",), (", late at night",)),
}
# "A <relation> B"
RELATION_WORDS: Mapping[str, Choice] = {
    "left": (("to the left of", "left of"), ("on the left side of",)),
    "right": (("to the right of", "right of"), ("on the right side of",)),
    "near": (("next to", "near"), ("beside", "close to")),
    "behind": (("behind",), ()),
    "front": (("in front of",), ("before",)),
    "on": (("on", "on top of"), ("resting on",)),
    "under": (("under",), ("beneath",)),
    "above": (("above", "over"), ("high above",)),
    "below": (("below",), ("underneath",)),
}
INVERSE: Mapping[str, str] = {
    "left": "right",
    "right": "left",
    "near": "near",
    "behind": "front",
    "front": "behind",
    "on": "under",
    "under": "on",
    "above": "below",
    "below": "above",
}
SIZE_WORDS: Mapping[str, Choice] = {
    "large": (("large", "big"), ("huge",)),
    "small": (("small", "little"), ("tiny",)),
    "": ((), ()),
}
# (before the noun, after it); one of the two is empty
STATE_WORDS: Mapping[str, tuple[str, str]] = {
    "toast": ("", "with toast"),
    "open": ("open", ""),
    "closed": ("closed", ""),
    "hot": ("hot", ""),
    "running": ("", "with running water"),
    "steaming": ("steaming", ""),
    "full": ("", "full of fruit"),
    "empty": ("empty", ""),
    "flowers": ("", "with flowers"),
    "burning": ("burning", ""),
    "on": ("", "turned on"),
    "off": ("", "turned off"),
    "lit": ("glowing", ""),
    "red": ("", "showing red"),
    "green": ("", "showing green"),
    "yellow": ("", "showing yellow"),
    "smoking": ("smoking", ""),
    "missing": ("", "with a missing slice"),
    "candles": ("", "with candles"),
    "sitting": ("sitting", ""),
    "sleeping": ("sleeping", ""),
    "flying": ("flying", ""),
    "waving": ("waving", ""),
    "": ("", ""),
}
NUMBER_WORDS = {2: "two", 3: "three"}


def chosen(rng: Random, choice: Choice, rare: float) -> str:
    """One of the common words, or with chance ``rare`` one of the rarer; "" where there is none."""
    common, rarer = choice
    if rarer and (not common or rng.random() < rare):
        return rarer[int(rng.random() * len(rarer))]
    return common[int(rng.random() * len(common))] if common else ""


def with_article(words: str) -> str:
    """``"a red car"``, ``"an open book"``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
