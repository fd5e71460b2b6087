// The forgetting film of the run at hand, its finding as a title, and meters of the full test.

import { forgettingFilm } from "../../widgets/forgetting_film.js";
import { make, say } from "./elements.mjs";
import { MARKS, filmFinding } from "./findings.mjs";
import { OWN } from "./settings.mjs";
import { brief, share } from "./wording.mjs";

const KINDS = [["taught", "new"], ["old", "old"], ["strangers", "stranger"]];
const NAMES = { old: "old facts", strangers: "strangers" };

/** The film's groups of a task: `[{ name, kind, questions }]`. */
export function groupsOf(film, task) {
  const taught = task === "new-facts" ? "new facts" : task === OWN ? "my examples" : `new: ${task}`;
  return KINDS.filter(([name]) => film[name]?.length)
    .map(([name, kind]) => ({ name: NAMES[name] ?? taught, kind, questions: film[name] }));
}

/** A message of the worker as a look of the film. */
export function lookOf(message, groups) {
  const names = groups.map(group => KINDS.find(([, kind]) => kind === group.kind)[0]);
  return {
    step: message.step,
    marks: names.map(name => Array.from(message[name], mark => MARKS[mark]).join("")),
    answers: names.map(name => message.answers[name]),
  };
}

/** `{ show(run) }`: the film of a run, or of a task before its first run. */
export function filmOf(place, title) {
  const film = forgettingFilm(place, { groups: [], looks: [], steps: 1 });
  return {
    show({ groups, looks, settings }) {
      film.update({ groups, looks, steps: settings.steps });
      say(title, filmFinding(groups, looks, settings.task));
    },
  };
}

const METERS = [["test", "new", "learnt"], ["old", "old", "old facts kept"], ["strangers", "stranger", "strangers left “not known”"]];

/** The scores on all test questions as meters; the tick is the base’s own score. */
export function meters(scores, before) {
  return make("dl", { class: "meters" }, ...METERS.filter(([name]) => scores[name]?.n).flatMap(([name, kind, words]) => {
    const { right, n } = scores[name], base = before?.[name];
    const bar = make("span", { class: `meter ${kind}`, style: `--share: ${right / n}` });
    if (base) bar.append(make("span", { class: "tick", style: `--share: ${base.right / base.n}` }));
    return [make("dt", {}, words), make("dd", {}, bar,
      make("span", { class: "number" }, `${share({ right, n })} (${brief(100 * right / n, 3)} %)`,
        base ? `, before ${share(base)}` : ""))];
  }));
}
