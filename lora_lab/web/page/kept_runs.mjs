// Kept runs: their settings, their scores side by side, and what else may explain a difference.

import { confounds, differing, settingInWords } from "./confounds.mjs";
import { byId, make } from "./elements.mjs";
import { modulesInWords } from "./modules.mjs";
import { tradeOff } from "./trade_off.mjs";
import { brief, counted, thousands } from "./wording.mjs";

const USUAL = ["r", "lora_alpha", "learning_rate"]; // named where nothing differs

/** The settings in which some entries differ. */
export function varying(entries) {
  const [first, ...rest] = entries.map(entry => entry.settings);
  return [...new Set(rest.flatMap(other => differing(first, other)))];
}

/** An entry's name in a legend: `r 4, 0.002`. */
export function labelOf({ settings, runs }, names, base) {
  const parts = (names.length ? names : USUAL).map(name => {
    const value = settings[name];
    if (name === "modules") return modulesInWords(value, base.modules);
    if (name === "r") return `r ${value}`;
    if (name === "lora_alpha") return `α ${value}`;
    if (name === "learning_rate") return `rate ${value}`;
    if (name === "task" || name === "lr_scheduler_type") return String(value);
    return `${settingInWords(name)} ${value}`;
  });
  return `${parts.join(", ")}${runs.length > 1 ? `, ${runs.length} seeds` : ""}`;
}

/** `58 of 60`, or `57 to 60 of 60` where there are several seeds. */
export function scoreRange(runs, name) {
  const scores = runs.map(run => run.scores?.[name]).filter(Boolean);
  if (!scores.length) return "–";
  const rights = scores.map(score => score.right),
    low = Math.min(...rights),
    high = Math.max(...rights);
  const range = low === high ? thousands(low) : `${thousands(low)} to ${thousands(high)}`;
  const f1 = scores.map(score => 100 * score.f1).filter(Number.isFinite),
    [least, most] = [Math.min(...f1), Math.max(...f1)].map(value => brief(value, 3));
  const fields = !f1.length ? "" : `, field F1 ${least === most ? least : `${least} to ${most}`} %`;
  return `${range} of ${thousands(scores[0].n)}${fields}`;
}

/** `{ show(kept) }`; `use(settings)` and `drop(entry)` do what their buttons say. */
export function keptRuns({ base, use, drop }) {
  const place = byId("kept"),
    plane = byId("plane"),
    notes = byId("confounds"),
    empty = byId("kept-empty");

  function row(entry, label, number) {
    const losses = entry.runs.map(run => run.finalLoss);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, `${number + 1}. ${label}`),
      make("td", {}, scoreRange(entry.runs, "test")),
      make("td", {}, scoreRange(entry.runs, "old")),
      make("td", {}, scoreRange(entry.runs, "strangers")),
      make("td", {}, losses.map(loss => brief(loss)).join(", ")),
      make(
        "td",
        { class: "acts" },
        make(
          "button",
          {
            type: "button",
            "aria-label": `use the settings of run ${number + 1}`,
            onclick: () => use(entry.settings),
          },
          "Use",
        ),
        make(
          "button",
          { type: "button", "aria-label": `remove run ${number + 1}`, onclick: () => drop(entry) },
          "Remove",
        ),
      ),
    );
  }

  function planeOf(kept, names) {
    // of runs that took the same test
    const points = kept.flatMap((entry, at) =>
      entry.runs
        .filter(run => run.scores?.old)
        .map(({ scores }) => ({
          name: labelOf(entry, names, base),
          number: at + 1,
          test: scores.test,
          old: scores.old,
        })),
    );
    if (kept.length < 2 || names.includes("task") || names.includes("n") || !points.length)
      return [];
    return [
      make(
        "h3",
        { class: "finding" },
        "Up and to the right is better: more learnt, less forgotten",
      ),
      tradeOff(points),
    ];
  }

  return {
    show(kept) {
      empty.hidden = kept.length > 0;
      place.hidden = notes.hidden = !kept.length;
      plane.replaceChildren();
      if (!kept.length) return;
      const names = varying(kept);
      place.replaceChildren(
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            ...["settings", "learnt", "old facts", "strangers “not known”", "final loss", ""].map(
              word => (word ? make("th", { scope: "col" }, word) : make("td")),
            ),
          ),
        ),
        make(
          "tbody",
          {},
          ...kept.map((entry, number) => row(entry, labelOf(entry, names, base), number)),
        ),
      );
      plane.replaceChildren(...planeOf(kept, names));
      const said = [];
      kept.forEach((one, first) =>
        kept.slice(first + 1).forEach((other, more) => {
          for (const sentence of confounds(one.settings, other.settings, base)) {
            said.push(make("li", {}, `Runs ${first + 1} and ${first + more + 2}: `, sentence));
          }
        }),
      );
      const most = 4,
        single = kept.filter(entry => entry.runs.length < 2).length;
      notes.replaceChildren(
        ...said.slice(0, most),
        ...(said.length > most
          ? [make("li", {}, `${counted(said.length - most, "more sentence")} of this kind.`)]
          : []),
        ...(kept.length > 1 && single
          ? [
              make(
                "li",
                { class: "calm" },
                "One seed tells little: another seed alone moves these scores. “3 seeds” shows by how much.",
              ),
            ]
          : []),
      );
    },
  };
}
