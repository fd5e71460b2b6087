// The settings of a run as Python: for PEFT and transformers, and for lora_lab.

import { modulesForPeft } from "./modules.mjs";
import { OWN } from "./settings.mjs";

/** A value as Python writes it. */
export function python(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

const lines = (fields, indent = "    ") =>
  Object.entries(fields)
    .map(([name, value]) => `${indent}${name}=${python(value)},`)
    .join("\n");

/** A script: PEFT's LoraConfig and transformers' TrainingArguments of these settings. */
export function peftCode(settings, base) {
  const config = {
    r: settings.r,
    lora_alpha: settings.lora_alpha,
    ...modulesForPeft(settings.modules, base.modules),
    ...(settings.use_rslora ? { use_rslora: true } : {}),
    task_type: "CAUSAL_LM",
  };
  const { learning_rate, lr_scheduler_type, warmup_steps, weight_decay, max_grad_norm, seed } =
    settings;
  const given = {
    learning_rate,
    lr_scheduler_type,
    warmup_steps,
    weight_decay,
    max_grad_norm,
    per_device_train_batch_size: settings.batch_size,
    max_steps: settings.steps,
    seed,
  };
  const plus =
    settings.loraplus_lr_ratio === 1
      ? ""
      : `
# LoRA+: give the Trainer this optimizer.
from torch.optim import AdamW
from peft.optimizers import create_loraplus_optimizer
optimizer = create_loraplus_optimizer(
    model, AdamW, lr=${learning_rate}, loraplus_lr_ratio=${settings.loraplus_lr_ratio}
)
`;
  return `from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainingArguments

BASE = "path or name of your model"

config = LoraConfig(
${lines(config)}
)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config)
model.print_trainable_parameters()
arguments = TrainingArguments(
    "my-lora",
${lines(given)}
)
${plus}`;
}

/** A script: the same run in lora_lab, with the losses of this page. */
export function labCode(settings, base) {
  const { task, n, modules, ...rest } = settings;
  const { target_modules, layers_to_transform } = modulesForPeft(modules, base.modules);
  const places = {
    target_modules: Array.isArray(target_modules)
      ? `(${target_modules.map(one => `${python(one)},`).join(" ")})`
      : python(target_modules),
  };
  if (layers_to_transform)
    places.layers_to_transform = `(${layers_to_transform.map(one => `${one},`).join(" ")})`;
  const load =
    task === OWN
      ? 'lab.load_task("my-examples.csv", base)'
      : `lab.load_task(${python(task)}, base${n === null || n === undefined ? "" : `, n=${n}`})`;
  return `import lora_lab as lab

base = lab.load_base("pocket")
task = ${load}
recipe = lab.Recipe(
${Object.entries(places)
  .map(([name, text]) => `    ${name}=${text},`)
  .join("\n")}
${lines(rest)}
)
for record in lab.train(base, task, recipe):
    print(record.step, record.loss)
`;
}
