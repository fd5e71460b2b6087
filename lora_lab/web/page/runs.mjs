// Runs as the page keeps them: the messages of a training so far, and its result.

import { filmedGroups, named } from "./film.mjs";
import { smoothed, widthFor } from "./smoothing.mjs";
import { brief, duration } from "./wording.mjs";

const FILM = 1.15; // the time with the film, as a multiple of the steps' time

/** A run that has not begun. Groups without looks show a task before its first run. */
export function newRun(settings, task) {
  return {
    id: null,
    settings: { ...settings },
    records: [],
    looks: [],
    begun: performance.now(),
    over: false,
    stopped: false,
    groups: filmedGroups(task, settings.n),
    scores: null,
    before: null,
    get losses() {
      return this.records.map(record => record.loss);
    },
    get finalLoss() {
      return lastOf(this.losses);
    },
  };
}

const lastOf = losses => smoothed(losses, widthFor(losses.length)).at(-1);

/** A run of before a reload: its numbers. Its adapter is gone. */
export const pastRun = (settings, losses, scores) => ({
  id: null,
  settings,
  losses,
  finalLoss: lastOf(losses),
  scores,
});

/** Writes down a message of the worker; returns whether the run has changed. */
export function note(run, message) {
  if (message.type === "started") run.groups = named(message.groups);
  else if (message.type === "step") run.records.push(message);
  else if (message.type === "film") run.looks.push(message);
  else return false;
  return true;
}

/** `step 34 of 150 · loss 0.41 · 11 s left`. */
export function progressInWords(run) {
  const done = run.records.length,
    { steps } = run.settings;
  if (!done) return "the first step is under way …";
  const recent = run.records.slice(-20);
  const pace = (FILM * recent.reduce((sum, one) => sum + one.seconds, 0)) / recent.length;
  const left = duration(Math.ceil(pace * (steps - done)));
  return `step ${done} of ${steps} · loss ${brief(run.records.at(-1).loss)} · ${left} left`;
}

/** The right answers of a run's latest look for the old facts: `{ right, n }`, or null. */
export function oldFactsKept({ groups, looks }) {
  const at = groups.findIndex(group => group.kind === "old");
  if (at < 0 || !looks.length) return null;
  return {
    right: [...looks.at(-1).marks[at]].filter(mark => mark === "+").length,
    n: groups[at].questions.length,
  };
}

/** The mean of several runs' losses, step by step, over the steps that all have. */
export function meanLosses(runs) {
  const all = runs.map(run => run.losses),
    shortest = Math.min(...all.map(losses => losses.length));
  return all[0]
    .slice(0, shortest)
    .map((_, step) => all.reduce((sum, losses) => sum + losses[step], 0) / all.length);
}

/** A line for each step: its number, its loss, and its learning rate, between tabs. */
export const lossesAsText = ({ records }) =>
  [
    "step\tloss\tlearning rate",
    ...records.map(
      ({ step, loss, learning_rate }) =>
        `${step}\t${loss}\t${Number(learning_rate.toPrecision(6))}`,
    ),
  ].join("\n");

/** Why the last steps changed nothing, in words; null if they did. */
export function lifeless({ records, settings }) {
  const first = records.findIndex(({ grad_norm }) => grad_norm === 0);
  if (records.at(-1)?.grad_norm !== 0) return null;
  const { learning_rate, lora_alpha, r } = settings;
  return (
    `From step ${records[first].step} on, the gradient is 0: the adapter has become so large that ` +
    "the model answers every question alike. " +
    `Try a tenth of the learning rate (${brief(learning_rate / 10)}), or a smaller alpha than ` +
    `${lora_alpha} for r ${r}.`
  );
}
