"""Fine-tune a chat model with LoRA: python finetune.py MODEL EXAMPLES.jsonl ADAPTER RATE"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq
from transformers import Trainer, TrainingArguments

name, examples, adapter, rate = sys.argv[1:]  # each line: {"prompt": "...", "answer": "..."}
tokenizer = AutoTokenizer.from_pretrained(name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # Llama's has none


def encoded(row):  # only the answer has labels; -100 means "do not ask"
    question = [{"role": "user", "content": row["prompt"]}]
    whole = [*question, {"role": "assistant", "content": row["answer"]}]
    start = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    ids = tokenizer.apply_chat_template(whole)["input_ids"]
    assert ids[: len(start)] == start, "this template writes a question otherwise before an answer"
    return {"input_ids": ids, "labels": [-100] * len(start) + ids[len(start) :]}


with open(examples, encoding="utf-8") as lines:
    rows = [encoded(json.loads(line)) for line in lines]
dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(model, config)
arguments = TrainingArguments(adapter, learning_rate=float(rate), num_train_epochs=3)
Trainer(model, arguments, DataCollatorForSeq2Seq(tokenizer), rows).train()
model.save_pretrained(adapter)
tokenizer.save_pretrained(adapter)
