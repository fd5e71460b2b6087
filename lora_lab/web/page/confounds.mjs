// What else may explain the difference between two kept runs, in sentences.

import { trainedParameters } from "./modules.mjs";
import { brief, listed, thousands } from "./wording.mjs";

const WORDS = {
  task: "task",
  n: "number of examples",
  r: "rank",
  lora_alpha: "alpha",
  learning_rate: "learning rate",
  steps: "steps",
  batch_size: "batch size",
  warmup_steps: "warm-up",
  weight_decay: "weight decay",
  max_grad_norm: "longest gradient",
  loraplus_lr_ratio: "LoRA+ ratio",
  lr_scheduler_type: "schedule",
  use_rslora: "rsLoRA",
  modules: "target modules",
};

/** The factor on B · A: alpha / r, or alpha / √r with rsLoRA. */
export const scalingOf = ({ lora_alpha, r, use_rslora }) =>
  lora_alpha / (use_rslora ? Math.sqrt(r) : r);

/** The names of the settings that differ, the seed aside. */
export const differing = (one, other) =>
  Object.keys(WORDS).filter(name => String(one[name]) !== String(other[name]));

/** A sentence for each thing that moves along when two settings are compared. */
export function confounds(one, other, base) {
  const names = differing(one, other),
    said = [];
  if (names.includes("task") || names.includes("n")) {
    return ["they learnt different examples, so their scores are not of the same test."];
  }
  if (names.length > 1) {
    said.push(
      `they differ in ${listed(names.map(name => WORDS[name]))}: a difference cannot be attributed to one of these.`,
    );
  }
  const both = measure => [measure(one), measure(other)];
  const [scale, otherScale] = both(scalingOf);
  if (names.length === 1 && names[0] === "r" && scale !== otherScale) {
    said.push(
      `only the rank was changed, but the scaling moved along (${brief(scale, 3)} and ${brief(otherScale, 3)}): a difference may be its doing.`,
    );
  }
  const [seen, otherSeen] = both(each => each.steps * each.batch_size);
  if (names.length === 1 && names[0] === "batch_size") {
    said.push(
      `a step of the larger batch sees more examples (${thousands(seen)} and ${thousands(otherSeen)} in all): a difference may be their doing.`,
    );
  }
  const [count, otherCount] = both(each => trainedParameters(each.modules, base.modules, each.r));
  if (names.length === 1 && names[0] === "modules" && count !== otherCount) {
    said.push(
      `the number of trained parameters moved along (${thousands(count)} and ${thousands(otherCount)}): a difference may be its doing.`,
    );
  }
  return said;
}

export const settingInWords = name => WORDS[name] ?? name;
