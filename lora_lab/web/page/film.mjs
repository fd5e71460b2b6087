// The forgetting film of the run at hand, its finding as a title, and meters of the full test.

import { forgettingFilm } from "../../widgets/forgetting_film.js";
import { groupsOf, spread } from "../engine/tasks.mjs";
import { make, say } from "./elements.mjs";
import { fieldsInWords, filmFinding } from "./findings.mjs";
import { OWN } from "./settings.mjs";
import { brief, share } from "./wording.mjs";

const QUESTIONS = 32; // of each kind, as in the engine's film

/**
 * The groups that the film of a task will show, before its first run: nothing has been asked. The
 * new questions depend on the number of examples, so they have no words yet.
 */
export function filmedGroups(task, n) {
  if (!task.test) return []; // own examples: the engine chooses those for the test
  const groups = named(
    groupsOf(task, task.old, task.strangers).map(({ name, kind, examples }) => ({
      name,
      kind,
      questions: spread(examples, QUESTIONS).map(({ prompt, answer }) => [prompt, answer]),
    })),
  );
  const count = Math.min(QUESTIONS, task.test.length, task.name === "new-facts" ? n : QUESTIONS);
  const later = ["This question is chosen when the training begins.", ""];
  return groups.map(group =>
    group.kind === "new"
      ? { ...group, questions: Array.from({ length: count }, () => later) }
      : group,
  );
}

/** The engine's groups with the names that the page gives them. */
export const named = groups =>
  groups.map(group => ({
    ...group,
    name: group.name === `new: ${OWN}` ? "my examples" : group.name,
  }));

/** `{ show(run) }`: the film of a run, or of a task before its first run. */
export function filmOf(place, title) {
  const film = forgettingFilm(place, { groups: [], looks: [], steps: 1 });
  let shown = "";
  return {
    show({ begun, groups, looks, settings }) {
      const now = [begun, groups.length, looks.length, settings.steps].join();
      if (now === shown && looks.length) return; // nothing new: the film rests
      shown = now;
      film.update({ groups, looks: [...looks], steps: settings.steps });
      say(title, filmFinding(groups, looks, settings.task));
    },
  };
}

const METERS = [
  ["test", "new", "learnt"],
  ["old", "old", "old facts kept"],
  ["strangers", "stranger", "strangers left “not known”"],
];

/** The scores on all test questions as meters; the tick is the base’s own score. */
export function meters(scores, before) {
  return make(
    "dl",
    { class: "meters" },
    ...METERS.filter(([name]) => scores[name]?.n).flatMap(([name, kind, words]) => {
      const { right, n, f1 } = scores[name],
        base = before?.[name];
      const bar = make("span", { class: `meter ${kind}`, style: `--share: ${right / n}` });
      if (base)
        bar.append(make("span", { class: "tick", style: `--share: ${base.right / base.n}` }));
      return [
        make("dt", {}, words),
        make(
          "dd",
          {},
          bar,
          make(
            "span",
            { class: "number" },
            `${share({ right, n })} (${brief((100 * right) / n, 3)} %)`,
            base ? `, before ${share(base)}` : "",
            f1 === undefined ? "" : ` · ${fieldsInWords(scores[name], base)}`,
          ),
        ),
      ];
    }),
  );
}
