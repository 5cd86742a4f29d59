"""The catalog: 200 products, each with a page of text, made from a seed."""

import random
from dataclasses import dataclass
from typing import Final

PRODUCTS: Final = 200

# kind, lowest and highest price in cents, what the text says about it
KINDS: Final = (
    ("Tent", 14_900, 64_900, "sleeps two to four, stands without pegs on rock and is pitched from the outside"),
    ("Rucksack", 5_900, 28_900, "carries up to eighteen kilograms on a frame that can be bent to the back"),
    ("Boot", 8_900, 31_900, "is resoled twice before it is worn out and keeps a wet meadow outside"),
    ("Jacket", 6_900, 42_900, "breathes on the way up and stops the wind on the ridge"),
    ("Stove", 3_900, 18_900, "boils a litre in four minutes and simmers without burning the rice"),
    ("Lamp", 1_900, 9_900, "lights forty metres of path for eleven hours and warns half an hour before it is empty"),
    ("Sleeping bag", 7_900, 48_900, "is rated by a test with sleepers, not by its weight of down"),
    ("Bottle", 900, 4_900, "fits the side pocket, survives a fall on stone and can be boiled out"),
    ("Kayak", 39_900, 149_900, "tracks straight across the wind and is carried by one person"),
    ("Glove", 1_900, 12_900, "lets you tie a bootlace and dries overnight in a tent"),
)
LINES: Final = (
    *("Alder", "Birch", "Cairn", "Drift", "Ember", "Fell", "Gorse", "Heron", "Islet", "Juniper"),
    *("Kestrel", "Larch", "Moraine", "Nettle", "Otter", "Plover", "Quarry", "Rowan", "Scree", "Tarn"),
)
COLOURS: Final = ("moss", "slate", "rust", "sand", "night blue", "lichen", "charcoal", "berry")
MATERIALS: Final = ("recycled nylon", "waxed cotton", "ripstop polyester", "leather", "merino wool", "aluminium")
CARE: Final = (
    "Rinse with cold water and dry it in the shade.",
    "Brush off dry mud; soap closes the pores of the fabric.",
    "Store it dry and loose, never in its sack for the winter.",
    "Renew the coating once a season with the spray of the repair bench.",
)


@dataclass(frozen=True, slots=True)
class Product:
    """An article of the shop; `price_cents` includes tax."""

    sku: str
    name: str
    kind: str
    price_cents: int
    colours: tuple[str, ...]
    weight_g: int
    stock: int
    text: str


def products(seed: int) -> list[Product]:
    """Return the whole catalog; the same seed gives the same catalog."""
    dice = random.Random(f"catalog-{seed}")
    return [_product(dice, number) for number in range(PRODUCTS)]


def _product(dice: random.Random, number: int) -> Product:
    kind, low, high, claim = KINDS[number % len(KINDS)]
    line = LINES[number // len(KINDS)]
    name = f"{line} {kind}"
    price_cents = dice.randrange(low, high, 100) + 90
    colours = tuple(sorted(dice.sample(COLOURS, k=dice.randint(2, 4))))
    weight_g = dice.randrange(80, 3_200, 10)
    material = dice.choice(MATERIALS)
    text = (
        f"The {name} {claim}. It is made of {material}, weighs {weight_g} g and comes in {', '.join(colours)}. "
        f"It costs {price_cents / 100:.2f}. {dice.choice(CARE)} {_promise(dice)}"
    )
    return Product(f"FW-{1000 + number}", name, kind, price_cents, colours, weight_g, dice.randrange(0, 240), text)


def _promise(dice: random.Random) -> str:
    years = dice.choice((2, 2, 2, 5))
    spare = dice.choice(("zips", "buckles", "soles", "poles", "seals", "laces"))
    return f"It has a warranty of {years} years, and the repair bench keeps {spare} for it."
