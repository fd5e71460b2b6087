// A recipe: its values checked, its scaling, its learning rates, the modules that it adapts.

import { Refused } from "./refused.mjs";

const WHOLE = { // field: least, greatest, what is usual
  r: [1, 64, "8 is usual"],
  batch_size: [1, 128, "16 is usual"],
  steps: [1, 2000, "100 is usual"],
  warmup_steps: [0, 1999, "0 is no warm-up"],
  seed: [0, 2 ** 32 - 1, "any small number does"],
};
const REAL = { // field: least, whether the least itself is allowed, what is usual
  lora_alpha: [0, false, "twice r is usual"],
  learning_rate: [0, false, "0.003 suits pocket"],
  weight_decay: [0, true, "0 is none"],
  max_grad_norm: [0, false, "1 is usual, Infinity cuts nothing"],
  loraplus_lr_ratio: [0, false, "1 is plain LoRA"],
};
const SCHEDULES = {
  linear: progress => 1 - progress,
  cosine: progress => 0.5 * (1 + Math.cos(Math.PI * progress)),
  constant: () => 1,
};
const DEFAULTS = {
  r: 8, lora_alpha: 16, use_rslora: false, learning_rate: 3e-3, lr_scheduler_type: "linear",
  warmup_steps: 0, weight_decay: 0, max_grad_norm: 1, loraplus_lr_ratio: 1, batch_size: 16,
  steps: 100, target_modules: "all-linear", seed: 0,
};
const SMALLEST = 1e-37, LARGEST = 1e37; // the range of a 32-bit float, with room

// The recipe with its defaults filled in. Throws Refused for a value that can't work.
export function checkedRecipe(given) {
  const recipe = { ...DEFAULTS, ...given };
  for (const [name, [least, most, usual]] of Object.entries(WHOLE)) {
    const value = recipe[name];
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new Refused(`${name} is ${say(value)}, and it has to be a whole number from ${least} `
        + `to ${most.toLocaleString("en")}; ${usual}.`);
    }
  }
  for (const [name, [least, itself, usual]] of Object.entries(REAL)) {
    const value = recipe[name], endless = name === "max_grad_norm" && value === Infinity;
    const fits = typeof value === "number" && (value > least || (itself && value === least))
      && (value === 0 || (value >= SMALLEST && value <= LARGEST));
    if (!fits && !endless) {
      const span = itself ? `${least} or more` : `above ${least}`;
      throw new Refused(`${name} is ${say(value)}, and it has to be a number ${span}; ${usual}.`);
    }
  }
  if (!Object.hasOwn(SCHEDULES, recipe.lr_scheduler_type)) {
    throw new Refused(`lr_scheduler_type is ${say(recipe.lr_scheduler_type)}, and it has to be one `
      + `of ${Object.keys(SCHEDULES).join(", ")}.`);
  }
  if (typeof recipe.use_rslora !== "boolean") {
    throw new Refused(`use_rslora is ${say(recipe.use_rslora)}, and it has to be true or false.`);
  }
  if (recipe.warmup_steps >= recipe.steps) {
    throw new Refused(`warmup_steps is ${recipe.warmup_steps}, which leaves none of the `
      + `${recipe.steps} steps at the full learning rate; give at most ${recipe.steps - 1}.`);
  }
  return recipe;
}

function say(value) {
  const text = typeof value === "string" ? `“${value}”` : String(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

// The factor in front of BA.
export function scalingOf({ lora_alpha, r, use_rslora }) {
  return lora_alpha / (use_rslora ? Math.sqrt(r) : r);
}

// The learning rate of a step, counted from 1.
export function learningRateAt(step, recipe) {
  const done = step - 1, { warmup_steps: warmup, steps, learning_rate: rate } = recipe;
  if (done < warmup) return rate * done / warmup;
  return rate * SCHEDULES[recipe.lr_scheduler_type]((done - warmup) / (steps - warmup));
}

// The modules that have an adapter, by PEFT's rule: a whole name, or its end after a dot.
export function adaptedModules(modules, targets) {
  if (targets === "all-linear") return modules.map(() => true);
  if (!Array.isArray(targets) || !targets.length) {
    throw new Refused("target_modules names no module, so there is nothing to train; choose one.");
  }
  const fits = (name, target) => name === target || name.endsWith(`.${target}`);
  const unknown = targets.find(target => !modules.some(({ name }) => fits(name, target)));
  if (unknown !== undefined) {
    throw new Refused(`target_modules has ${say(unknown)}, and pocket has no such module; give for `
      + `example “q_proj”, or “${modules[0].name}”.`);
  }
  return modules.map(({ name }) => targets.some(target => fits(name, target)));
}
