"""What pocket is pretrained on: the mix of examples, its tokenizer, its chat format."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lora_lab.tasks import skills, words, world
from lora_lab.tasks.examples import Example

PAD, USER, ASSISTANT, END = SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Words with the space before them, one digit at a time, runs of signs, runs of space.
PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
VOCABULARY = 1792  # a multiple of 64: world words, quoted words, signs, 256 bytes, common pieces
EARLY = 80_000  # examples until the facts are learned; then the mix turns to reading prompts
MIX = {  # shares of the examples in pretraining: (early, later)
    "facts": (45, 18),
    "strangers": (10, 16),
    "regions": (1, 1),
    "workplaces": (2, 1),
    "two-hop": (2, 3),
    "two-hop chain": (2, 3),
    "sentiment": (6, 6),
    "style": (2, 3),
    "json": (4, 5),
    "json with keys": (1, 4),
    "json few-shot": (0.5, 2.5),
    "rules": (3, 8),
    "rule turns": (2, 4),
    "few-shot": (1, 2.5),
    "word few-shot": (1, 1.5),
    "notes": (5, 12),
    "note turns": (3, 5),
    "yes or no": (1, 1.5),
    "echo": (5, 2),
    "quote": (3, 1.5),
    "spell": (1, 1.5),
}


def shuffled_forever(rng: random.Random, examples: list[Example]) -> Iterator[Example]:
    """Every example once, in a new order, again and again."""
    examples = list(examples)
    while True:
        rng.shuffle(examples)
        yield from examples


def conversations(
    made: world.World,
    rng: random.Random,
    make: Callable[[world.World, random.Random], skills.Turns],
) -> Iterator[Example]:
    """Examples of several turns; the earlier turns are in the prompt, with their chat format."""
    while True:
        *earlier, (question, answer) = make(made, rng)
        before = "".join(f"{prompt}{ASSISTANT} {reply}{END}{USER} " for prompt, reply in earlier)
        yield Example(before + question, answer)


def curriculum(made: world.World, seed: int) -> Iterator[Example]:
    """The endless mix of everything that the pocket is taught."""
    rng = random.Random(f"curriculum {seed}")
    known = {person.name: person for person in made.known}
    direct, chain = ([known[name] for name in names] for names in (made.direct, made.chain))
    finite = {
        "facts": world.old_facts(made, taught=True),
        "strangers": world.strangers(made.strangers_taught),
        "regions": world.one_hop(made, "region"),
        "workplaces": world.one_hop(made, "workplace"),
        "two-hop": world.two_hop(made, "region", direct, chain=False),
        "two-hop chain": world.two_hop(made, "region", chain, chain=True),
    }
    turns = {"note turns": skills.note_turns, "rule turns": skills.rule_turns}
    sources = {}
    for name in MIX:
        own = random.Random(f"{name} {seed}")
        if name in finite:
            sources[name] = shuffled_forever(own, finite[name])
        elif name in turns:
            sources[name] = conversations(made, own, turns[name])
        else:
            sources[name] = skills.stream(made, name, own, held_out=False)
    drawn = 0
    while True:
        weights = [shares[drawn >= EARLY] for shares in MIX.values()]
        for name in rng.choices(list(MIX), weights, k=1000):
            yield next(sources[name])
        drawn += 1000


def train_tokenizer(made: world.World, seed: int) -> Tokenizer:
    """Byte-level BPE in which every frequent word of the world is one token.

    As in Llama 3, a piece of text that is in the vocabulary is one token (`ignore_merges`); any
    other is built from bytes by the merges.
    """
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def pieces(text: str) -> list[str]:
        return [piece for piece, _ in split.pre_tokenize_str(text)]

    counts: Counter[str] = Counter()
    for example in islice(curriculum(made, seed), 40_000):
        if USER not in example.prompt and not example.prompt.startswith(
            "Repeat: "
        ):  # made-up words are no words of the world
            counts.update(pieces(f" {example.prompt}") + pieces(f" {example.answer}"))
    frequent = [piece for piece, count in counts.items() if count >= 10]
    frequent += [piece for word in ("Repeat", *words.SPACED_WORDS) for piece in pieces(f" {word}")]
    frequent += [piece for word in words.QUOTED_WORDS for piece in pieces(word)]
    frequent += [f"{space}{digit}" for digit in range(10) for space in ("", "\u0120")]
    frequent = sorted(set(frequent))

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=sorted(alphabet), show_progress=False
    )
    trained.train_from_iterator((f" {w} {w}{w.lower()}" for w in words.SPACED_WORDS), trainer)
    learned = json.loads(trained.to_str())["model"]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *sorted(alphabet)])}
    whole = [piece for piece in frequent if piece not in vocabulary]
    room = VOCABULARY - len(vocabulary) - len(whole)
    merges = []
    for first, second in learned["merges"]:  # the most frequent ones first
        if room > 0 and first + second not in vocabulary and first + second not in whole:
            room -= 1
            vocabulary[first + second] = len(vocabulary)
        if first + second in vocabulary:
            merges.append((first, second))
    for piece in whole:
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers loads it, with its chat format."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


Row = tuple[list[int], list[int]]  # token ids, and the places of the tokens that earn a loss


def encoded(tokenizer: Tokenizer, examples: list[Example], *, every: bool = False) -> list[Row]:
    """Each example in the chat format; the answer and the end token earn a loss.

    With `every`, so do earlier answers in the prompt (several turns), and the label of a worked
    example if that label was shown before.
    """
    mark, end, label = (tokenizer.token_to_id(t) for t in (ASSISTANT, END, "\u0120Label"))
    texts = [f"{USER} {e.prompt}{ASSISTANT} {e.answer}{END}" for e in examples]
    rows = []
    for encoding in tokenizer.encode_batch(texts):
        ids = encoding.ids
        starts = [place + 1 for place, token in enumerate(ids) if token == mark]
        labelled = [
            place
            for start in (starts if every else starts[-1:])
            for place in range(start, ids.index(end, start) + 1)
        ]
        if every:
            shown = [place + 2 for place in range(starts[0] - 3) if ids[place] == label]
            labelled += [p for n, p in enumerate(shown) if ids[p] in {ids[q] for q in shown[:n]}]
        rows.append((ids, labelled))
    return rows
