"""What people would say about a scene: five captions a picture, each true, each put differently.

A caption is one of eight sentence plans filled with what the plan mentions: the main object with some of its
attributes, its company and how it stands to it, place, light, style. None says everything; together they do.
"""

from collections.abc import Callable
from random import Random

from lpi.data.scenes.words import (
    INVERSE,
    LIGHT_WORDS,
    NUMBER_WORDS,
    PLACE_WORDS,
    RELATION_WORDS,
    SIZE_WORDS,
    STATE_WORDS,
    STYLE_ENDINGS,
    STYLE_NOUNS,
    chosen,
    with_article,
)
from lpi.data.scenes.world import KINDS, TASKS, Scene, SceneObject, SceneWorld, seeded

LONGEST = 16  # words
Group = tuple[SceneObject, ...]


def captions(scene: Scene, world: SceneWorld = TASKS, *, count: int = 5) -> tuple[str, ...]:
    """``count`` different captions of a scene, 4 to 16 words each.

    Args:
        scene: the scene.
        world: how often rarer words are taken.
        count: how many; plans repeat with other words when there are more captions than plans.
    """
    rng = seeded("captions", scene.seed)
    speaker = _Speaker(rng, scene, world.rare_words)
    plans: list[Callable[[_Speaker], str]] = []
    found: dict[str, None] = {}
    tries = 0
    while len(found) < count:
        if not plans:
            plans = _plans(scene)
            rng.shuffle(plans)
        speaker.begin()
        text = _tidy(plans.pop()(speaker))
        tries += 1
        if 3 < len(text.split()) <= LONGEST or tries > 40 * count:
            found[text] = None
    return tuple(found)


class _Speaker:
    """Somebody who looks at one scene: puts its parts into words, differently each time."""

    def __init__(self, rng: Random, scene: Scene, rare: float) -> None:
        self.rng = rng
        self.scene = scene
        self.rare = rare
        groups = scene.groups
        self.main: Group = groups[0]
        self.company: tuple[Group, ...] = groups[1:]
        self.names: dict[str, tuple[str, str]] = {}

    def begin(self) -> None:
        """Start a new caption: names are chosen afresh."""
        self.names = {}

    def name(self, kind: str) -> tuple[str, str]:
        """Singular and plural of a kind, the same all through a caption: two names would seem two things."""
        if kind not in self.names:
            names = KINDS[kind].names
            rarer = len(names) > 1 and self.chance(self.rare)
            self.names[kind] = names[1 + self.rng.randrange(len(names) - 1)] if rarer else names[0]
        return self.names[kind]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def noun(self, group: Group, *, plain: bool = False, one: bool = False) -> str:
        """A noun phrase with an article or a number: "a small red car", "two open umbrellas".

        ``plain`` leaves most attributes out; ``one`` stands for a noun that was just said ("a blue one").
        """
        item = group[0]
        kind = KINDS[item.kind]
        before, after = STATE_WORDS[item.state]
        words: list[str] = []
        if item.size and len(group) == 1 and self.chance(0.2 if plain else 0.5):
            words.append(chosen(self.rng, SIZE_WORDS[item.size], self.rare))
        says_state = self.chance(0.25 if plain else 0.7) or len(kind.colours) == 1
        if before and says_state:
            words.append(before)
        if len(kind.colours) > 1 and self.chance(0.65 if plain else 0.92):
            if kind.family == "person":  # it is the clothes that are blue
                after, says_state = f"in {item.colour}", True
            else:
                words.append(item.colour)
        name = self.name(item.kind)
        if one and words and len(group) == 1:
            words.append("one")
        else:
            words.append(name[0] if len(group) == 1 else name[1])
        if after and says_state:
            words.append(after)
        phrase = " ".join(words)
        return with_article(phrase) if len(group) == 1 else f"{NUMBER_WORDS[len(group)]} {phrase}"

    def relation(self, role: str) -> str:
        if role in ("left", "right") and self.chance(0.3):
            role = "near"
        return chosen(self.rng, RELATION_WORDS[role], self.rare)

    def main_by(self, group: Group) -> str:
        """How the main object stands to a companion: "left of a blue dog"."""
        same = group[0].kind == self.main[0].kind and self.chance(0.5)
        return f"{self.relation(INVERSE[group[0].role])} {self.noun(group, plain=self.chance(0.4), one=same)}"

    def place(self) -> str:
        return chosen(self.rng, PLACE_WORDS[self.scene.place], self.rare)

    def light(self) -> str:
        """Light or weather, "" when there is nothing to say."""
        name = "night" if self.scene.style == "night" else self.scene.weather
        return chosen(self.rng, LIGHT_WORDS[name], self.rare)

    def style(self) -> str:
        return chosen(self.rng, STYLE_NOUNS[self.scene.style], self.rare)

    def style_ending(self) -> str:
        return chosen(self.rng, STYLE_ENDINGS[self.scene.style], self.rare)

    def around(self) -> str:
        """Place, sometimes with the light, or the light alone."""
        light = self.light()
        if light and self.chance(0.25):
            return light
        return f"{self.place()} {light}" if light and self.chance(0.7) else self.place()

    def other(self) -> Group:
        """One of the companions."""
        return self.company[self.rng.randrange(len(self.company))]

    def verb(self) -> str:
        return "is" if len(self.main) == 1 else "are"


def _plans(scene: Scene) -> list[Callable[[_Speaker], str]]:
    shared: list[Callable[[_Speaker], str]] = [_thing_in_place, _place_first, _picture_of]
    if len(scene.groups) == 1:
        return [*shared, _there_is, _thing_ending, _thing_in_light]
    plans: list[Callable[[_Speaker], str]] = [*shared, _thing_by, _thing_by_in_place, _company_first]
    plans += [_there_is_by, _both]
    return [*plans, _everybody] if len(scene.groups) > 2 else plans


def _thing_in_place(s: _Speaker) -> str:
    return f"{s.noun(s.main)} {s.around()}{s.style_ending() if s.chance(0.45) else ''}"


def _place_first(s: _Speaker) -> str:
    around = s.around()
    if s.company and s.chance(0.7):
        return f"{around}, {s.noun(s.main)} {s.main_by(s.other())}"
    return f"{around} there {s.verb()} {s.noun(s.main)}"


def _picture_of(s: _Speaker) -> str:
    if s.company and s.chance(0.7):
        return f"{s.style()} of {s.noun(s.main)} {s.main_by(s.other())}"
    return f"{s.style()} of {s.noun(s.main)} {s.around()}"


def _thing_by(s: _Speaker) -> str:
    return f"{s.noun(s.main)} {s.main_by(s.other())}{s.style_ending() if s.chance(0.35) else ''}"


def _thing_by_in_place(s: _Speaker) -> str:
    return f"{s.noun(s.main)} {s.main_by(s.other())} {s.around()}"


def _company_first(s: _Speaker) -> str:
    group = s.other()
    return f"{s.noun(group)} {s.relation(group[0].role)} {s.noun(s.main)}{' ' + s.around() if s.chance(0.6) else ''}"


def _there_is_by(s: _Speaker) -> str:
    group = s.other()
    opening = f"there {s.verb()} {s.noun(s.main)} {s.place()}"
    alone = len(s.main) == 1 and s.main[0].family != "person"
    pronoun = "it" if alone else "them"
    role = group[0].role
    return f"{opening} and {s.noun(group, plain=True)} {s.relation(role)} {pronoun}"


def _both(s: _Speaker) -> str:
    joint = "with" if s.chance(0.5) else "and"
    return f"{s.noun(s.main)} {joint} {s.noun(s.other())} {s.around()}"


def _everybody(s: _Speaker) -> str:
    first, second = s.company[:2]
    return f"{s.noun(s.main)}, {s.noun(first, plain=True)} and {s.noun(second, plain=True)} {s.around()}"


def _there_is(s: _Speaker) -> str:
    return f"there {s.verb()} {s.noun(s.main)} {s.around()}"


def _thing_ending(s: _Speaker) -> str:
    return f"{s.noun(s.main)} {s.place()}{s.style_ending()}"


def _thing_in_light(s: _Speaker) -> str:
    return f"{s.style()} with {s.noun(s.main)} {s.place()} {s.light()}"


def _tidy(text: str) -> str:
    return " ".join(text.split()).replace(" ,", ",")
