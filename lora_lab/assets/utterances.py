"""Spoken commands to a house, drawn from Home Assistant's templates with hassil."""

import random
from collections.abc import Iterator

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    Sentence,
    TextChunk,
)
from hassil.parse_expression import parse_sentence

UTTERANCES = 8  # drawn from each template of a home command: 862 templates give about 6,000


# Home Assistant's templates name lists that each house fills. These belong to our house.
AREAS = ("kitchen", "living room", "bedroom", "bathroom", "garage", "hallway", "office", "attic")
NAMES = {  # domain: the names of its devices
    "binary_sensor": ("front door", "back window", "hall motion sensor"),
    "button": ("doorbell reset", "coffee button"),
    "climate": ("thermostat", "radiator", "air conditioner"),
    "cover": ("left blind", "bay window curtain", "garage door", "patio awning"),
    "fan": ("ceiling fan", "desk fan"),
    "lawn_mower": ("robot mower", "lawn rover"),
    "light": ("bedside lamp", "reading light", "porch light", "desk lamp"),
    "lock": ("front door lock", "shed lock"),
    "media_player": ("television", "kitchen radio", "soundbar", "record player"),
    "person": ("Alice", "Ben", "Chloe", "David"),
    "scene": ("movie night", "early morning", "dinner party"),
    "script": ("bedtime routine", "wake up routine"),
    "sensor": ("outdoor thermometer", "rain gauge", "power meter"),
    "switch": ("coffee machine", "kettle", "heated blanket"),
    "todo": ("groceries", "chores", "packing"),
    "vacuum": ("robot vacuum", "dust buster"),
    "valve": ("garden valve", "water main"),
    "weather": ("London", "Oslo", "home weather"),
}
VALUES = {  # list: the words that fill it
    "area": AREAS,
    "floor": ("ground", "first", "second", "top"),
    "zone": ("work", "school", "the gym", "the station"),
    "message": ("dinner is ready", "we are leaving", "the guests are here", "time for bed"),
    "search_query": ("Miles Davis", "the evening news", "Abbey Road", "some jazz", "Moonlight"),
    "timer_name": ("pizza", "laundry", "tea", "homework", "bread"),
    "timer_command": ("turn off the lights", "close the blinds", "lock the door", "open the gate"),
    "shopping_list_item": ("milk", "eggs", "apples", "washing powder", "olive oil"),
    "todo_list_item": ("call the plumber", "water the plants", "bread", "book the dentist"),
    "temperature": ("17", "18", "19", "20", "21", "22", "23"),
    "color_temperature": ("2700", "3000", "4000", "5000", "6500"),
    "timer_hours": ("1", "2", "3", "4"),
    "timer_minutes": ("2", "5", "10", "15", "20", "30", "45"),
    "timer_seconds": ("10", "15", "20", "30", "45"),
}
PERCENTAGES = ("10", "20", "25", "30", "40", "50", "60", "75", "80", "90")


def utterances(english: dict) -> Iterator[dict]:
    """{utterance, intent, slots, template}: UTTERANCES of each template, some of them twice.

    Args:
        english: Home Assistant's intents, with their templates, lists and rules.
    """
    rules = {name: parse_sentence(text) for name, text in english["expansion_rules"].items()}
    for intent, spoken in english["intents"].items():
        for block in spoken["data"]:
            domains = (block.get("requires_context") or {}).get("domain", [])
            for template in block["sentences"]:
                house = House(english["lists"], rules, domains, random.Random(template))
                sentence = parse_sentence(template)
                for _ in range(UTTERANCES):
                    slots = dict(block.get("slots") or {})
                    text = " ".join(house.say(sentence, slots).split())
                    yield {
                        "utterance": text,
                        "intent": intent,
                        "slots": slots,
                        "template": template,
                    }


class House:
    """A house with named rooms and devices; draws utterances from templates, with their meaning."""

    def __init__(
        self,
        lists: dict,
        rules: dict[str, Sentence],
        domains: str | list[str],
        generator: random.Random,
    ) -> None:
        self.lists, self.rules, self.generator = lists, rules, generator
        of_domains = [domains] if isinstance(domains, str) else domains
        self.names = [name for domain in of_domains for name in NAMES.get(domain, ())]

    def say(self, part: Expression | Sentence, slots: dict) -> str:
        """The words drawn for a part of a template; the values in them are put into `slots`."""
        if isinstance(part, Sentence):
            return self.say(part.expression, slots)
        if isinstance(part, TextChunk):
            return part.original_text
        if isinstance(part, RuleReference):
            return self.say(self.rules[part.rule_name], slots)
        if isinstance(part, ListReference):
            return self._value(part, slots)
        if isinstance(part, Alternative):
            return self.say(self.generator.choice(part.items), slots)
        if isinstance(part, Permutation):
            items = self.generator.sample(part.items, len(part.items))
            return " ".join(self.say(item, slots) for item in items)
        if isinstance(part, Group):
            return "".join(self.say(item, slots) for item in part.items)
        raise TypeError(f"hassil gave a {type(part).__name__}, which this version does not know")

    def _value(self, part: ListReference, slots: dict) -> str:
        """A value from the house, or from the package's own list."""
        own_values = self.lists.get(part.list_name, {}).get("values")
        if own_values is not None:
            value = self.generator.choice(own_values)
            text = self.say(parse_sentence(value["in"]), {})
            slots[part.slot_name] = value["out"]
            return text
        choices = (
            self.names if part.list_name == "name" else VALUES.get(part.list_name, PERCENTAGES)
        )
        text = self.generator.choice(choices)
        factor = self.lists.get(part.list_name, {}).get("range", {}).get("multiplier", 1)
        slots[part.slot_name] = factor * int(text) if text.isdigit() else text
        return text
