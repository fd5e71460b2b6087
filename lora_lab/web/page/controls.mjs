// The controls of a run: some in sight, the rest folded.

import { make } from "./elements.mjs";
import { moduleGrid } from "./module_grid.mjs";
import { numberControl } from "./number_control.mjs";
import { CHOICES, OWN } from "./settings.mjs";

const SHOWN = {
  r: ["rank r", "How many directions the change of a weight matrix may have."],
  lora_alpha: ["alpha", "The change is multiplied by alpha / r: the adapter’s volume."],
  learning_rate: ["learning rate", "How far each step goes. Too far, and the loss jumps up."],
  steps: ["steps", "How many times the weights are moved."],
  seed: ["seed", "Decides the random start of A and the order of the examples."],
};
const FOLDED = {
  batch_size: ["batch size", "How many examples each step looks at."],
  warmup_steps: ["warm-up steps", "Steps over which the learning rate rises from 0."],
  weight_decay: ["weight decay", "How strongly A and B are pulled towards 0."],
  max_grad_norm: ["longest gradient", "A longer gradient is cut to this length."],
  loraplus_lr_ratio: ["LoRA+ ratio", "B’s learning rate, as a multiple of A’s."],
};
const TASKS = {
  "new-facts": "new facts about people",
  sentiment: "sentiment of reviews",
  style: "speak like a sailor",
  json: "orders as JSON",
  "two-hop": "where somebody works",
  "two-hop-chain": "where somebody works, in steps",
  [OWN]: "my own examples",
};

const taskInWords = name => TASKS[name] ?? name;

/**
 * Fills `place`. Returns `{ show(settings, task), tasks(list) }`; `changed(name, value)` is called
 * for each setting that a person changes.
 */
export function controls(place, { base, changed }) {
  const numbers = {};
  const numberOf = ([name, [label, help]]) => {
    numbers[name] = numberControl(name, { label, help, chosen: value => changed(name, value) });
    return numbers[name].element;
  };
  const task = select("setting-task", value => changed("task", value));
  const n = select("setting-n", value => changed("n", Number(value)));
  const schedule = select("setting-lr_scheduler_type", value =>
    changed("lr_scheduler_type", value),
  );
  schedule.replaceChildren(
    ...CHOICES.lr_scheduler_type.map(word => make("option", { value: word }, word)),
  );
  const rslora = make("input", {
    type: "checkbox",
    id: "setting-use_rslora",
    onchange: () => changed("use_rslora", rslora.checked),
  });
  const about = make("p", { class: "help", id: "task-about" });
  const count = make(
    "div",
    { class: "setting", "data-part": "task" },
    make("label", { for: "setting-n" }, "training examples"),
    n,
  );
  const grid = moduleGrid(base, names => changed("modules", names));

  place.replaceChildren(
    make(
      "div",
      { class: "setting wide", "data-part": "task" },
      make("label", { for: "setting-task" }, "task"),
      task,
      about,
    ),
    count,
    ...Object.entries(SHOWN).slice(0, 3).map(numberOf),
    grid.element,
    ...Object.entries(SHOWN).slice(3).map(numberOf),
    make(
      "details",
      { class: "more", "data-part": "more" },
      make("summary", {}, "More settings"),
      make(
        "div",
        { class: "setting" },
        make("label", { for: "setting-lr_scheduler_type" }, "schedule"),
        schedule,
        make("p", { class: "help" }, "How the learning rate falls."),
      ),
      ...Object.entries(FOLDED).map(numberOf),
      make(
        "div",
        { class: "setting check" },
        rslora,
        make("label", { for: "setting-use_rslora" }, "rsLoRA"),
        make("p", { class: "help" }, "Multiplies by alpha / √r, so that a large r is not muted."),
      ),
    ),
  );

  return {
    tasks(list) {
      task.replaceChildren(
        ...list.map(one => make("option", { value: one.name }, taskInWords(one.name))),
      );
    },
    show(settings, ofTask) {
      task.value = settings.task;
      const byField = ofTask.metric === "field F1";
      about.textContent =
        ofTask.about.replace(/ Made by .*$/, "") +
        (byField ? " A right answer is the same text; field F1 counts the fields, in any order." : "");
      count.hidden = !(ofTask.sizes?.length > 1);
      n.replaceChildren(
        ...(ofTask.sizes ?? []).map(one => make("option", { value: one }, String(one))),
      );
      n.value = settings.n ?? "";
      for (const [name, control] of Object.entries(numbers)) control.show(settings[name]);
      schedule.value = settings.lr_scheduler_type;
      rslora.checked = settings.use_rslora;
      grid.show(settings.modules, settings.r);
    },
  };
}

function select(id, chosen) {
  const element = make("select", { id });
  element.addEventListener("change", () => chosen(element.value));
  return element;
}
