// Examples: pocket's tasks, a person's own rows, and how they become tokens and batches.

import { jsonFields } from "./fields.mjs";
import { Generator } from "./torch_random.mjs";
import { Refused } from "./refused.mjs";
import { words } from "./text.mjs";

export const IGNORED = -100; // the label of a token without a loss
const UNKNOWN = "not known"; // the right answer about a stranger
const OWN_ROWS = 200, OWN_LEAST = 4; // the most and the least own rows

// --- examples as numbers ---

// {ids, from}: the tokens, and where the answer begins.
export function encode(tokenizer, { prompt, answer }) {
  const before = tokenizer.promptIds(prompt);
  return { ids: [...before, ...tokenizer.answerIds(answer)], from: before.length };
}

// A batch: {rows, tokens, ids, mask, places, labels, count}, all flat, row by row.
export function collate(encoded, pad) {
  const rows = encoded.length, tokens = Math.max(...encoded.map(({ ids }) => ids.length));
  const first = Math.min(...encoded.map(({ from }) => from)) - 1; // predicts the first label
  const labelled = Array.from({ length: tokens - 1 }, (_, place) => place)
    .filter(place => place >= first && encoded.some(one => predicts(one, place)));
  const ids = new BigInt64Array(rows * tokens).fill(BigInt(pad));
  const mask = new BigInt64Array(rows * tokens);
  const labels = new BigInt64Array(rows * labelled.length).fill(BigInt(IGNORED));
  let count = 0;
  encoded.forEach((one, row) => {
    one.ids.forEach((id, place) => { ids[row * tokens + place] = BigInt(id); });
    mask.fill(1n, row * tokens, row * tokens + one.ids.length);
    labelled.forEach((place, column) => {
      if (!predicts(one, place)) return;
      labels[row * labelled.length + column] = BigInt(one.ids[place + 1]);
      count += 1;
    });
  });
  return { rows, tokens, ids, mask, places: BigInt64Array.from(labelled, BigInt), labels, count };
}

const predicts = ({ ids, from }, place) => place + 1 >= from && place + 1 < ids.length;

// --- marks ---

const exactly = (expected, given) => words(expected).join(" ") === words(given).join(" ");
const sameLabel = (expected, given) => (
  exactly(expected.toLowerCase(), given.replace(/[\s.!,]+$/, "").toLowerCase())
);

// "+" is right, "-" is wrong, "?" is "not known" where that is wrong.
export function markOf(group, { answer }, given) {
  const right = group.rule === "label" ? sameLabel : exactly;
  if (right(answer, given)) return "+";
  return exactly(UNKNOWN, given) ? "?" : "-";
}

// --- groups of questions ---

// A kind of questions: {name, kind: "new" | "old" | "stranger", rule, byField, examples}. byField:
// beside the right answers, "field F1" is counted.
export function groupsOf({ name, metric, test }, old, strangers) {
  const own = name === "new-facts" ? "new facts" : `new: ${name}`;
  const rule = metric === "accuracy" ? "label" : "exactly";
  return [
    { name: own, kind: "new", rule, byField: metric === "field F1", examples: test },
    { name: "old facts", kind: "old", rule: "exactly", examples: old },
    { name: "strangers", kind: "stranger", rule: "exactly", examples: strangers },
  ];
}

// A number of them, evenly over the whole.
export function spread(examples, count) {
  if (examples.length <= count) return examples;
  return Array.from({ length: count }, (_, i) => examples[Math.floor(i * examples.length / count)]);
}

// --- the task that a recipe names ---

// {name, metric, train, test} for a recipe of one of `tasks`, or with examples of its own.
export function taskFor(recipe, tasks) {
  if (recipe.examples) return ownTask(recipe.examples);
  const task = tasks.find(({ name }) => name === recipe.task);
  if (!task) {
    const names = tasks.map(({ name }) => name).join(", ");
    throw new Refused(`“${recipe.task}” isn’t a task of this page; choose one of ${names}.`);
  }
  const n = recipe.n ?? task.n;
  const sizes = Object.keys(task.splits);
  if (!Object.hasOwn(task.splits, n)) {
    throw new Refused(`n is ${n}, and this page has ${sizes.join(", ")} examples of ${task.name}; `
      + "choose one of these.");
  }
  return { name: task.name, metric: task.metric, ...task.splits[n] };
}

// A person's own rows, shuffled: four fifths are for training, the others for the test.
export function ownTask(examples) {
  const isText = value => typeof value === "string" && words(value).length > 0;
  const isPair = one => isText(one?.prompt) && isText(one?.answer);
  if (!Array.isArray(examples) || !examples.every(isPair)) {
    throw new Refused("Each example takes a prompt and an answer, both as text that is not blank.");
  }
  if (examples.length < OWN_LEAST || examples.length > OWN_ROWS) {
    throw new Refused(`There are ${examples.length} examples, and it takes from ${OWN_LEAST} to `
      + `${OWN_ROWS} to train and to test.`);
  }
  const shuffled = new Generator(0).randperm(examples.length).map(place => examples[place]);
  const test = Math.max(1, Math.round(examples.length / 5));
  const labels = new Set(examples.map(({ answer }) => answer));
  const few = labels.size <= 10 && labels.size * 2 <= examples.length;
  const inFields = examples.every(({ answer }) => jsonFields(answer));
  const metric = inFields ? "field F1" : few ? "accuracy" : "exact match";
  return { name: "own", metric, train: shuffled.slice(test), test: shuffled.slice(0, test) };
}
