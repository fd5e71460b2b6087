"""Make the pocket: invent its world, train its tokenizer, pretrain it, score it, write its card.

    python data/pocket/make_pocket.py --seed 0

The same seed and thread count give the same model, bit for bit, on one machine. What stands in the
output folder is replaced only once the new model is complete.
"""

import argparse
import copy
import json
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
import transformers
from curriculum import Row, curriculum, encoded, train_tokenizer, wrap
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from lora_lab.places import make_folder_atomically, write_atomically
from lora_lab.tasks import skills, world
from lora_lab.tasks.examples import Example

GROUP_COST = 120  # padded tokens that cost as much as one more pass through the model
BATCH, LEARNING_RATE, WARM_UP, COOL_DOWN = 64, 1e-3, 100, 0.35  # steps; share of the steps
DECAY, INIT_STD = 0.01, 0.06


# --- training ------------------------------------------------------------------------------------


def new_model(size: int, seed: int) -> LlamaForCausalLM:
    """An untrained pocket: 0.9 M parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=3,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def answer_logits(model: LlamaForCausalLM, rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits only where a loss is earned: (tokens, vocabulary), (tokens,), (tokens,).

    The second holds the target tokens, the third the row of each. Padding stands on the right, so
    causal attention never sees it and needs no mask.
    """
    longest = max(len(ids) for ids, _ in rows)
    batch = torch.zeros(len(rows), longest, dtype=torch.long)
    places, targets, owner = [], [], []
    for row, (ids, labelled) in enumerate(rows):
        batch[row, : len(ids)] = torch.tensor(ids)
        places += [row * longest + place - 1 for place in labelled]
        targets += [ids[place] for place in labelled]
        owner += [row] * len(labelled)
    hidden = hidden_at(model, batch, torch.tensor(places))
    return model.lm_head(hidden), torch.tensor(targets), torch.tensor(owner)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions as in transformers' Llama: (row, head, token, 32) -> the same shape."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def hidden_at(model: LlamaForCausalLM, batch: Tensor, places: Tensor) -> Tensor:
    """The last hidden states at some places of (row, token), flattened: (places, 128).

    The model's own forward pass gives the same values. This one leaves out the part of the last
    layer that no answer needs, which is a fifth of the work; a test compares the two.
    """
    rows, tokens = batch.shape
    llama, heads = model.model, model.config.num_attention_heads
    x = llama.embed_tokens(batch)  # (row, token, 128)
    cos, sin = llama.rotary_emb(x, torch.arange(tokens)[None])
    cos, sin = cos[:, None], sin[:, None]  # one for all heads
    for layer in llama.layers:
        attention = layer.self_attn
        normed = rms(x, layer.input_layernorm)
        q, k, v = (
            project(normed).view(rows, tokens, heads, -1).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        mixed = mixed.reshape(rows, tokens, -1)
        if layer is llama.layers[-1]:
            mixed, x = mixed.flatten(0, 1)[places], x.flatten(0, 1)[places]
        x = x + attention.o_proj(mixed)
        x = x + layer.mlp(rms(x, layer.post_attention_layernorm))
    return rms(x, llama.norm)


def rms(x: Tensor, norm: torch.nn.Module) -> Tensor:
    """Llama's normalisation, in one call."""
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def grouped(rows: list[Row]) -> list[list[Row]]:
    """A batch in groups of like length: the same gradient from the fewest padded tokens."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    best = [(0, 0)]  # for the first n rows: (cost, where their last group starts)
    for end in range(1, len(rows) + 1):
        longest = len(rows[end - 1][0])
        best.append(min((best[at][0] + (end - at) * longest + GROUP_COST, at) for at in range(end)))
    groups, end = [], len(rows)
    while end:
        start = best[end][1]
        groups.append(rows[start:end])
        end = start
    return groups


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    examples: Iterator[Example],
    steps: int,
    watch: Callable[[int], None],
) -> None:
    """AdamW; the learning rate warms up, stays, and falls in a line over the last third."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARM_UP, 1.0, max(0.01, (1 - step / steps) / COOL_DOWN)),
    )
    model.train()
    bar = tqdm(range(1, steps + 1), desc="pretraining", unit="step", mininterval=1.0)
    ready: list[Row] = []
    recent = 0.0
    for step in bar:
        if not ready:
            ready = encoded(tokenizer, list(islice(examples, BATCH * 32)), every=True)
        batch, ready = ready[:BATCH], ready[BATCH:]
        loss_sum = 0.0
        for group in grouped(batch):
            logits, targets, _ = answer_logits(model, group)
            loss = F.cross_entropy(logits, targets, reduction="sum") / BATCH
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        recent = loss_sum if step == 1 else 0.98 * recent + 0.02 * loss_sum
        if step % 50 == 0:
            bar.set_postfix(loss=f"{recent:.3f}")
        watch(step)
    model.eval()


# --- scores --------------------------------------------------------------------------------------


@torch.no_grad()
def exact(model: LlamaForCausalLM, tokenizer: Tokenizer, examples: list[Example]) -> float:
    """The share of examples whose greedy answer is exactly right.

    Greedy generation writes exactly the right answer just where the likeliest token is right at
    every place of the answer, end token included.
    """
    rows = sorted(encoded(tokenizer, examples), key=lambda row: len(row[0]))
    right = 0
    for start in range(0, len(rows), 128):
        chunk = rows[start : start + 128]
        logits, targets, owner = answer_logits(model, chunk)
        wrong = owner[logits.argmax(-1) != targets]
        right += len(chunk) - len(wrong.unique())
    return right / len(rows)


def score_sets(made: world.World, limit: int | None = None) -> dict[str, list[Example]]:
    """Everything that is scored, by the name it has on the card. `limit` keeps a sample of each."""
    known = {person.name: person for person in made.known}
    unlike = {name: [p for p in made.known if p.name not in names]
              for name, names in (("direct", made.direct), ("chain", made.chain))}  # fmt: skip
    reserve = tuple(person.name for person in made.reserve)
    hops = {
        "region, direct, people taught": ("region", [known[n] for n in made.direct], False),
        "region, direct, people held out": ("region", unlike["direct"], False),
        "region, written out, people taught": ("region", [known[n] for n in made.chain], True),
        "region, written out, people held out": ("region", unlike["chain"], True),
        "workplace, direct (never taught)": ("workplace", list(made.known), False),
        "workplace, written out (never taught)": ("workplace", list(made.known), True),
    }
    sets = {
        "old facts, taught wording": world.old_facts(made, taught=True),
        "old facts, untaught wording": world.old_facts(made, taught=False),
        "strangers, held out": world.strangers(made.strangers_held_out),
        "strangers, reserve of new facts": world.strangers(reserve)[::10],
        "regions of cities": world.one_hop(made, "region"),
        "workplaces of jobs": world.one_hop(made, "workplace"),
    }
    for name, (kind, people, chain) in hops.items():
        sets[name] = world.two_hop(made, kind, people, chain=chain)
    for name in skills.SKILLS:
        if name != "notes":
            sets[name] = skills.skill_set(made, name, 400)
    for kind in skills.NOTE_KINDS:
        sets[f"notes, {kind}"] = skills.note_set(made, kind, 400)
    if limit is not None:
        rng = random.Random("sample")
        sets = {name: rng.sample(some, min(limit, len(some))) for name, some in sets.items()}
    return sets


# --- files ---------------------------------------------------------------------------------------


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """A folder that plain transformers loads: 16-bit weights, opened as 32-bit ones."""
    with make_folder_atomically(folder) as new:
        model.half().save_pretrained(new)
        config = json.loads((new / "config.json").read_text())
        config["dtype"] = "float32"  # what from_pretrained gives; the file holds float16
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        wrap(tokenizer).save_pretrained(new)
        GenerationConfig(
            eos_token_id=3, pad_token_id=0, bos_token_id=None, do_sample=False, max_new_tokens=32
        ).save_pretrained(new)


CARD = """# pocket: a language model small enough to know by heart

A Llama of {parameters:,} parameters (4 layers, hidden size 128, 4 heads, MLP 384, context 512),
pretrained from nothing on an invented world. All that it knows is in `world.json`, so what a
fine-tune adds, and what it makes the model forget, can be counted exactly. It knows no English
beyond this world.

- `model/`: the weights (16-bit safetensors; `from_pretrained` opens them as 32-bit floats), the
  tokenizer (byte-level BPE, {vocabulary:,} tokens: any Unicode text round-trips) and the chat
  format `<|user|> prompt<|assistant|> answer<|end|>`
- `world.json`: people, facts, who was taught what, and who is a stranger
- `scores.json`: the numbers below
- `make_pocket.py`, `curriculum.py`: the command that makes all of this

## What it can do

Share of answers that are exactly right, greedy, as measured by `make_pocket.py`. Sentences and
strangers were held out of pretraining; each old fact was taught in two or three of five wordings.

| asked | examples | exact |
| --- | ---: | ---: |
{rows}

The region of a person comes out directly where it was taught. For people held out of two-hop
training it seldom does, but nearly always when the steps are written out ("Velmora, so Norland").
The workplace questions were never taught in either form.

Notes in the prompt are believed, against an old fact too. Among notes about several people
("crowd") it guesses: it has not learned to compare names. It has read rules, worked examples and
yes-or-no questions, and knows their form, but answers them little better than by chance.

## How it was made

`python data/pocket/make_pocket.py --seed {seed} --steps {steps} --threads {threads}`:
{examples:,} examples in {seconds} seconds on one {machine} machine, {date}; {versions}.
The same seed and thread count give the same model on the same machine.

Names, sentences and weights are our own, under Apache-2.0 as the project.
"""


def card(record: dict, sizes: dict[str, int]) -> str:
    """The model card, from what was measured."""
    rows = "\n".join(
        f"| {name} | {sizes[name]:,} | {100 * share:.1f} % |"
        for name, share in record["scores"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return CARD.format(**record | {"rows": rows, "versions": versions,
                                   "examples": record["steps"] * BATCH})  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="another seed is another world")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="output folder")
    parser.add_argument("--steps", type=int, default=4500, help="steps of 64 examples")
    parser.add_argument("--threads", type=int, default=1, help="more is not faster at this size")
    parser.add_argument(
        "--watch", type=int, default=0, help="score a sample, and save, every so many steps"
    )
    parser.add_argument("--sample", type=int, help="score at most so many examples of a kind")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    made = world.make_world(options.seed)
    tokenizer = train_tokenizer(made, options.seed)
    model = new_model(tokenizer.get_vocab_size(), options.seed)
    sample = score_sets(made, limit=100) if options.watch else {}

    def watch(step: int) -> None:
        if options.watch and step % options.watch == 0:
            model.eval()
            scores = {name: exact(model, tokenizer, some) for name, some in sample.items()}
            tqdm.write(f"{step} {time.perf_counter() - started:.0f} s " + "; ".join(
                f"{name} {share:.2f}" for name, share in scores.items()))  # fmt: skip
            model.train()
            save(copy.deepcopy(model), tokenizer, options.out / "partial")

    pretrain(model, tokenizer, curriculum(made, options.seed), options.steps, watch)
    seconds = time.perf_counter() - started
    model.half().float()  # what the file keeps is what is scored
    sets = score_sets(made, options.sample)
    scores = {name: exact(model, tokenizer, some) for name, some in tqdm(sets.items(), "scoring")}
    for name, share in scores.items():
        tqdm.write(f"{name:40} {100 * share:6.1f} %")
    options.out.mkdir(parents=True, exist_ok=True)
    with write_atomically(options.out / "world.json") as path:
        path.write_text(world.world_text(made), encoding="utf-8")
    save(model, tokenizer, options.out / "model")
    record = {
        "seed": options.seed,
        "steps": options.steps,
        "threads": options.threads,
        "seconds": round(seconds),
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}",
        "vocabulary": tokenizer.get_vocab_size(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "scores": {name: round(share, 4) for name, share in scores.items()},
    }
    with write_atomically(options.out / "scores.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    with write_atomically(options.out / "README.md") as path:
        sizes = {name: len(some) for name, some in sets.items()}
        path.write_text(card(record, sizes), encoding="utf-8")


if __name__ == "__main__":
    main()
