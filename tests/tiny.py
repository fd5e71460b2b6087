"""A base small enough to be made anew in each test: a random Llama with a byte-level tokenizer."""

import csv
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Example, Task

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|> {{ m.content }}"
    "{% else %}<|assistant|> {{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]


def tiny_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_base(name="tiny", hidden=32, layers=2, seed=0, dtype=torch.float32):
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype).eval()
    parameters = model.num_parameters()
    return Base(name, model, tokenizer, torch.device("cpu"), dtype, parameters, Path())


def save_tiny_base(folder):
    """Write a base that trains in a second into the folder; returns the folder."""
    base = tiny_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def write_letters(path, columns=("prompt", "answer")):
    """Write a CSV of 80 rows, whose answers are the last letter in capitals; returns the path."""
    with path.open("w", newline="") as out:
        rows = ([f"{a}{b}", b.upper()] for a in "abcdefghij" for b in "abcdefgh")
        csv.writer(out).writerows([columns, *rows])
    return path


def letters_task(n=24):
    """A task whose answer is the prompt's last letter in capitals; learnt in a few dozen steps."""
    letters = "abcdefgh"
    pairs = [f"{a}{b}" for a in letters for b in letters]
    examples = [Example(pair, pair[-1].upper()) for pair in pairs]
    return Task(
        name="letters",
        train=examples[:n],
        validation=examples[n : n + 8],
        test=examples[n + 8 : n + 24],
        metric="exact match",
        about="made for a test",
        recipe=recipe(),
    )


def recipe(**changes):
    values = {"r": 3, "lora_alpha": 7, "learning_rate": 3e-3, "batch_size": 4, "steps": 12}
    return Recipe(**values | changes)
