// The settings of a run: their names (PEFT's and transformers'), bounds, and how a link holds them.

import { modulesFromWord, modulesInWord } from "./modules.mjs";
import { quoted } from "./wording.mjs";

/** Every number: [least, greatest, whole?, an example that fits, its stops on a slider]. */
export const NUMBERS = {
  r: { least: 1, most: 64, whole: true, usual: 8, stops: [1, 2, 4, 8, 16, 32, 64] },
  lora_alpha: { least: 0.001, most: 4096, usual: 16, stops: [1, 2, 4, 8, 16, 32, 64, 128] },
  learning_rate: {
    least: 1e-8,
    most: 1000,
    usual: 0.002,
    stops: [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 0.01, 0.02, 0.05, 0.1],
  },
  steps: {
    least: 1,
    most: 2000,
    whole: true,
    usual: 150,
    stops: [10, 20, 40, 60, 80, 100, 120, 150, 200, 300, 400, 600],
  },
  seed: { least: 0, most: 2 ** 32 - 1, whole: true, usual: 0 },
  batch_size: { least: 1, most: 128, whole: true, usual: 16 },
  warmup_steps: { least: 0, most: 1999, whole: true, usual: 0 },
  weight_decay: { least: 0, most: 10, usual: 0 },
  max_grad_norm: { least: 1e-6, most: 1e6, usual: 1 },
  loraplus_lr_ratio: { least: 0.01, most: 1000, usual: 1 },
};
export const CHOICES = { lr_scheduler_type: ["linear", "cosine", "constant"] };
export const FLAGS = ["use_rslora"];
export const OWN = "own"; // the name of the task that is made of a person's own examples

/** Parts of the page that a link may hide: `hide=r,seed`. */
export const PARTS = {
  guess: "the guess before the first run",
  task: "task",
  r: "rank",
  lora_alpha: "alpha",
  learning_rate: "learning rate",
  modules: "target modules",
  steps: "steps",
  seed: "seed",
  more: "more settings",
  loss: "loss chart",
  prompts: "prompts",
  inside: "the picture of W, B, A",
  compare: "kept runs",
  own: "own examples",
  take: "code, adapter and link",
};

/** A text as one of NUMBERS. Throws an Error that says what was given and what would fit. */
export function numberFrom(name, text) {
  const { least, most, whole, usual } = NUMBERS[name],
    value = Number(text);
  if (String(text).trim() === "" || !Number.isFinite(value)) {
    throw new Error(`${quoted(String(text))} is not a number; give for example ${usual}`);
  }
  if (whole && !Number.isInteger(value)) {
    throw new Error(`${text} is not a whole number; give for example ${usual}`);
  }
  if (value < least || value > most) {
    throw new Error(`${text} is out of range; give a number from ${least} to ${most}`);
  }
  return value;
}

/** Why settings do not fit together, in words; null if they do. */
export function misfit(settings) {
  if (!settings.modules.length)
    return "No module is chosen, so nothing would be trained. Click at least one cell of the grid.";
  if (settings.warmup_steps >= settings.steps) {
    return (
      `${settings.warmup_steps} warm-up steps leave none of the ${settings.steps} steps at ` +
      `the full learning rate. Give at most ${settings.steps - 1} warm-up steps.`
    );
  }
  return null;
}

/** The settings that a task starts with. */
export function usualSettings(task, base) {
  const settings = { task: task.name, n: task.n ?? null };
  for (const [name, { usual }] of Object.entries(NUMBERS))
    settings[name] = task.recipe[name] ?? usual;
  for (const [name, known] of Object.entries(CHOICES))
    settings[name] = task.recipe[name] ?? known[0];
  for (const name of FLAGS) settings[name] = task.recipe[name] ?? false;
  settings.modules = base.modules.map(one => one.name);
  return settings;
}

/** The settings as a worker takes them. */
export function recipeOf({ modules, n, ...settings }) {
  return { ...settings, ...(n === null ? {} : { n }), target_modules: modules };
}

/** A link's text after `#` that holds all settings, and the parts that are hidden. */
export function linkOf(settings, hidden, base) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined) continue;
    words.set(name, name === "modules" ? modulesInWord(value, base.modules) : String(value));
  }
  if (!settings.modules.length) words.set("modules", "");
  if (hidden.length) words.set("hide", hidden.join(","));
  return words.toString().replaceAll("%2C", ",");
}

/** The settings of a link, what it hides, and a sentence for each part that could not be used. */
export function readLink(text, tasks, base) {
  const words = new URLSearchParams(text.replace(/^#/, "")),
    complaints = [];
  const named = words.get("task") ?? tasks[0].name;
  let task = tasks.find(one => one.name === named);
  if (!task && named === OWN) {
    complaints.push(
      "The run of this link used somebody’s own examples, which a link does not carry. Paste them below, under “Can it learn my own examples?”.",
    );
  } else if (!task) {
    complaints.push(
      `task: ${quoted(named)} is not known here; there is ${tasks.map(one => one.name).join(", ")}.`,
    );
  }
  task ??= tasks[0];
  const settings = usualSettings(task, base);
  const attempt = (name, read) => {
    const word = words.get(name);
    if (word === null) return;
    try {
      settings[name] = read(word);
    } catch (error) {
      complaints.push(`${name}: ${error.message}.`);
    }
  };
  for (const name of Object.keys(NUMBERS)) attempt(name, word => numberFrom(name, word));
  for (const [name, known] of Object.entries(CHOICES)) attempt(name, word => oneOf(word, known));
  for (const name of FLAGS) attempt(name, word => oneOf(word, ["true", "false"]) === "true");
  attempt("modules", word => modulesFromWord(word, base.modules));
  if (task.sizes) attempt("n", word => Number(oneOf(word, task.sizes.map(String))));
  const hidden = (words.get("hide") ?? "").split(",").filter(Boolean);
  const unknown = hidden.filter(part => !(part in PARTS));
  if (unknown.length)
    complaints.push(
      `hide: ${quoted(unknown.join(","))} isn’t a part of this page; there is ${Object.keys(PARTS).join(", ")}.`,
    );
  const known = [
    "task",
    "n",
    "modules",
    "hide",
    ...Object.keys({ ...NUMBERS, ...CHOICES }),
    ...FLAGS,
  ];
  for (const name of new Set(words.keys())) {
    if (!known.includes(name))
      complaints.push(
        `${quoted(name)} isn’t a setting of this page, so the link’s value was left out.`,
      );
  }
  return {
    settings,
    hidden: hidden.filter(part => part in PARTS),
    complaints,
    replays: words.has("seed"),
  };
}

function oneOf(word, known) {
  if (!known.includes(word))
    throw new Error(`${quoted(word)} is not a choice; give ${known.join(", ")}`);
  return word;
}
