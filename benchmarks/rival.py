"""A whole run by transformers' Trainer with PEFT, to be called in worker processes too."""

from functools import cache

import torch
from training import seconds_of_trainer

import lora_lab as lab


@cache
def base_and_task(name, n):
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    return base, lab.load_task(name, base, n=n)


def train_with_trainer(recipe, *, task, n, threads=1):
    torch.set_num_threads(threads)
    seconds_of_trainer(*base_and_task(task, n), recipe)
