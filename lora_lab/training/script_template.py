"""A fine-tune in plain PEFT and transformers: run it with `python` and this file's name.

It prints each step's loss, and saves what was learnt in FOLDER.
"""

from collections.abc import Iterator

import torch
from peft import get_peft_config, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchEncoding,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    get_scheduler,
)

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = "capitals-lora"
RECIPE = {
    "method": "lora",
    "device": "cpu",
    "dtype": "float32",
    "optimizer": "AdamW",
    "learning_rate": 0.001,
    "loraplus_lr_ratio": 1.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "max_length": 256,
    "loss_on": "answer",
    "steps": 10,
    "seed": 0,
}
# What PEFT's configuration is given; nothing: every weight is trained.
ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "target_modules": "all-linear",
    "r": 8,
    "lora_alpha": 16,
}
# What transformers' BitsAndBytesConfig is given; nothing: the weights stay whole.
QUANTIZATION = {}


def main() -> None:
    """Train, and save what was learnt."""
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_model().train()
    optimizer = make_optimizer(model)
    scheduler = get_scheduler(
        RECIPE["lr_scheduler_type"], optimizer, RECIPE["warmup_steps"], RECIPE["steps"]
    )
    at_the_start = {}
    if str(ADAPTER.get("init_lora_weights")).startswith(("pissa", "olora")):
        # These begin by changing the base. With the adapter from before training, PEFT saves a
        # plain LoRA that fits the base as it was.
        at_the_start = {"path_initial_model_for_weight_conversion": f"{FOLDER}/start"}
        model.save_pretrained(f"{FOLDER}/start")
    coming = batches_of(tokenizer)
    torch.manual_seed(RECIPE["seed"])  # dropout draws from here on
    for step in range(1, RECIPE["steps"] + 1):
        if RECIPE["device"] != "cpu":  # and on a GPU from a seed of each step's own
            torch.manual_seed(RECIPE["seed"] * 1_000_003 + step - 1)
        batches = [next(coming) for _ in range(RECIPE["gradient_accumulation_steps"])]
        count = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
        total = 0.0
        for batch in batches:  # the loss is the mean over the whole step, however it is cut up
            batch = batch.to(model.device)
            loss = model(**batch, num_items_in_batch=count, use_cache=False).loss
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), float(RECIPE["max_grad_norm"]))  # or "inf"
        optimizer.step()
        if RECIPE["method"] == "adalora":  # shares the rank out; needs this step's gradients
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        scheduler.step()
        print(f"step {step}: loss {total:.6f}")
    model.save_pretrained(FOLDER, **at_the_start)


def load_model() -> nn.Module:
    """The base with a fresh adapter on it; without an adapter, the base in float32."""
    quantization = BitsAndBytesConfig(**QUANTIZATION) if QUANTIZATION else None
    model = AutoModelForCausalLM.from_pretrained(
        BASE,
        dtype=RECIPE["dtype"],
        device_map=RECIPE["device"],
        quantization_config=quantization,
    )
    if QUANTIZATION:  # norms and embeddings in float32
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if ADAPTER:
        torch.manual_seed(RECIPE["seed"])  # the adapter's start
        model = get_peft_model(model, get_peft_config(ADAPTER))
    else:
        model.float()  # steps of full fine-tuning are too small for 16-bit weights
    for name, tensor in model.named_parameters():
        if "ranknum" in name:  # AdaLoRA's count of ranks, which is not to be trained
            tensor.requires_grad_(False)
    if RECIPE["gradient_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over what is trained, in groups by learning rate and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            ratio = RECIPE["loraplus_lr_ratio"] if "lora_B" in name else 1.0  # LoRA+
            decay = RECIPE["weight_decay"] if tensor.ndim > 1 else 0.0  # vectors are not decayed
            groups.setdefault((RECIPE["learning_rate"] * ratio, decay), []).append(tensor)
    options = [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    library = torch.optim
    if "8bit" in RECIPE["optimizer"]:
        import bitsandbytes

        library = bitsandbytes.optim
    return getattr(library, RECIPE["optimizer"])(options)


def batches_of(tokenizer: PreTrainedTokenizerBase) -> Iterator[BatchEncoding]:
    """Batches without end: all examples in a new order, again and again."""
    rows = [encode(tokenizer, prompt, answer) for prompt, answer in EXAMPLES]
    rows = [row for row in rows if len(row["input_ids"]) <= RECIPE["max_length"]]
    collate = DataCollatorForSeq2Seq(tokenizer)  # pads, and gives no loss there
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    batch = []
    while True:
        for place in torch.randperm(len(rows), generator=generator).tolist():
            batch.append(rows[place])
            if len(batch) == RECIPE["batch_size"]:
                yield collate(batch)
                batch = []


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> dict[str, list[int]]:
    """Token ids in the model's own chat format, and labels: -100 where no loss is earned."""
    has_format = tokenizer.chat_template is not None
    start, rest = f"{prompt}\n", answer
    if has_format:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        start = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
        if whole.startswith(start):
            rest = whole[len(start) :].rstrip("\n")
    prompt_ids = tokenizer(start, add_special_tokens=not has_format)["input_ids"]
    answer_ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    if answer_ids[-1:] != [tokenizer.eos_token_id]:
        answer_ids.append(tokenizer.eos_token_id)
    labels = prompt_ids if RECIPE["loss_on"] == "all" else [-100] * len(prompt_ids)
    return {"input_ids": prompt_ids + answer_ids, "labels": labels + answer_ids}


EXAMPLES = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Japan?", "Tokyo"),
]

if __name__ == "__main__":
    main()
