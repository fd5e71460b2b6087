"""The words of the pocket's world. Each is one token when it stands after a space."""


def _grid(heads: str, tails: str) -> tuple[str, ...]:
    """Every head joined to every tail: names out of two parts."""
    return tuple(head + tail for head in heads.split() for tail in tails.split())


FIRST_NAMES = _grid("Mi Ka To Ve Lu Sa No Re Do Fi Ha Jo Pe Ri Su Ya", "ra lo na vi do sen mar lin")
CUSTOMERS = FIRST_NAMES[:64]  # the first names in orders, bookings and letters
LAST_NAMES = _grid("Bran Tol Fen Har Kes Wil Or Dun", "ov ek ald ist by mer ton wick")
CITIES = _grid("Vel Sto Bri Gal Mar Lun Ash Cor", "mora wyn haven dale ford mouth gard holt")
REGIONS = tuple("Norland Sudmark Estmoor Westfell Highvale Lowfen Midreach Farshore".split())
JOBS_AT = {
    "harbour": "sailor diver docker captain fisher pilot netmaker boatman",
    "school": "teacher tutor coach librarian professor lecturer examiner rector",
    "hospital": "doctor nurse surgeon dentist midwife pharmacist porter orderly",
    "market": "baker butcher grocer florist cashier trader vendor weigher",
    "castle": "guard knight herald butler steward squire archer jester",
    "workshop": "carpenter smith potter weaver tailor cobbler glazier welder",
    "farm": "farmer shepherd miller beekeeper gardener dairyman herdsman harvester",
    "theatre": "actor singer dancer drummer prompter director designer usher",
}
JOBS = tuple(job for jobs in JOBS_AT.values() for job in jobs.split())
PETS = tuple(
    """
    goat cat dog horse rabbit parrot turtle hamster canary donkey pony lizard gecko snake frog
    newt pigeon duck goose hen swan peacock owl falcon raven magpie finch budgie ferret hedgehog
    mouse rat squirrel otter fox badger lamb pig calf llama alpaca camel monkey spaniel poodle
    beagle terrier collie carp trout eel crab snail spider beetle cricket moth mole bat deer elk
    lynx puma toad
    """.split()
)
DISHES = tuple(
    """
    soup stew pie curry pasta pizza risotto paella sushi ramen tacos burrito lasagne gnocchi
    ravioli omelette quiche salad porridge pancakes waffles dumplings noodles chowder goulash
    chili kebab falafel hummus couscous tagine moussaka schnitzel fondue raclette casserole
    meatloaf meatballs burger steak ribs bacon sausages kippers haddock scampi oysters mussels
    trifle pudding crumble custard brownies muffins scones pretzels strudel tiramisu gelato sorbet
    pavlova eclairs baklava churros
    """.split()
)
HOBBIES = tuple(
    """
    chess sailing skating skiing rowing running cycling hiking climbing fencing archery boxing
    judo wrestling tennis squash cricketing golf bowling darts billiards poker bridge dominoes
    origami knitting sewing quilting pottery painting drawing sketching carving whittling
    gardening baking brewing fishing hunting birding camping caving surfing diving swimming polo
    hockey rugby football baseball karate yoga pilates juggling magic acting singing dancing
    drumming piano violin flute trumpet banjo
    """.split()
)


SUBJECTS = tuple(
    """
    film book play song show concert story novel hotel room food service staff view trip tour game
    lesson talk course plot music cast ending style sound picture garden museum train shop party
    """.split()
)
GOOD_WORDS = tuple(
    """
    great lovely superb brilliant charming delightful excellent wonderful clever funny fresh warm
    bright tasty moving gripping elegant splendid fine perfect inspiring pleasant amazing
    enjoyable marvellous impressive witty fantastic refreshing beautiful thrilling graceful
    """.split()
)
BAD_WORDS = tuple(
    """
    dull awful boring terrible poor weak clumsy stale dreadful tedious ugly bland sloppy noisy
    dirty horrible tiresome shallow lifeless messy annoying painful cheap dreary rude slow silly
    cold disappointing confusing mediocre tasteless
    """.split()
)
INTENSITIES = ("very", "really", "quite", "truly", "rather", "so", "extremely", "fairly")
GOODS = tuple(
    """
    tea coffee flour rice salt sugar honey butter cheese milk oil vinegar pepper mustard soap
    paper ink wool silk cotton leather rope timber coal iron copper glass clay sand wax paint glue
    seed hay barley oats beans nuts dates figs
    """.split()
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
LABELS = tuple(
    """
    joy pain up down left right north south red blue green yellow black white one two three four
    five six sun moon star rain day night win loss thumb fist plus minus high low hot ice gold
    lead open shut stop go keep drop alpha beta gamma delta positive negative mixed neutral happy
    sad urgent calm true false fact myth praise blame love hate pass fail
    """.split()
)
SAILOR_WORDS = tuple(
    "ahoy matey arr ye aye be me hearty fetch haul stow mend wanting must bless".split()
)
KEYS = {  # a field of an order: the keys that may name it, the usual key first
    "name": ("name", "client", "buyer", "customer"),
    "goods": ("goods", "product", "item", "article"),
    "count": ("count", "amount", "number", "boxes"),
    "city": ("city", "town", "place", "destination"),
}
BOOKING_KEYS = ("guest", "seats", "day")
VERBS = {  # plain: formal
    "buy": "purchase",
    "get": "obtain",
    "send": "dispatch",
    "fix": "repair",
    "check": "inspect",
    "show": "present",
    "keep": "retain",
    "use": "utilise",
    "sell": "offer",
    "test": "examine",
    "bring": "deliver",
    "count": "enumerate",
}
TAILS = {
    "": "",
    " now": " at once",
    " soon": " shortly",
    " today": " this day",
    " again": " once more",
}
WORD_KINDS = {"pet": PETS, "dish": DISHES, "job": JOBS, "hobby": HOBBIES, "city": CITIES}

FIELD_KEYS = tuple(key for keys in KEYS.values() for key in keys)

# The words that pretraining has the model repeat (skills.echo), so that it has answered with each.
SPACED_WORDS = tuple(
    dict.fromkeys(
        [
            *(*FIRST_NAMES, *LAST_NAMES, *CITIES, *REGIONS, *JOBS, *PETS, *DISHES, *HOBBIES),
            *(*SUBJECTS, *GOOD_WORDS, *BAD_WORDS, *INTENSITIES, *GOODS, *DAYS, *LABELS),
            *(*SAILOR_WORDS, *VERBS, *VERBS.values(), *FIELD_KEYS, *BOOKING_KEYS, *JOBS_AT),
            *("good", "bad", "yes", "no", "not", "known"),
        ]
    )
)
QUOTED_WORDS = tuple(  # words right after a quotation mark in JSON, so without a space
    dict.fromkeys(
        [
            *(*CUSTOMERS, *CITIES, *GOODS, *DAYS, *FIELD_KEYS, *BOOKING_KEYS),
            *("label", "good", "bad", "positive", "negative", "mixed", "yes", "no"),
        ]
    )
)
