// The playground: opens the engine, and moves what it says into the parts of the page.

import { controls } from "./controls.mjs";
import { byId, make, say, sparingly } from "./elements.mjs";
import { Engine } from "./engine.mjs";
import { filmOf, meters } from "./film.mjs";
import { filmFinding, lossFinding, scoresInWords } from "./findings.mjs";
import { guess } from "./guess.mjs";
import { inside } from "./inside.mjs";
import { keptRuns, labelOf, varying } from "./kept_runs.mjs";
import { readKept, storeOfTab, writeKept } from "./kept_store.mjs";
import { licences } from "./licences.mjs";
import { legendOf, lossChart } from "./loss_chart.mjs";
import { ownExamples } from "./own_examples.mjs";
import { prompts } from "./prompts.mjs";
import { lifeless, lossesAsText, meanLosses, newRun, note, oldFactsKept, progressInWords } from "./runs.mjs";
import { OWN, linkOf, misfit, readLink, recipeOf, usualSettings } from "./settings.mjs";
import { takeAway } from "./take_away.mjs";
import { brief, duration } from "./wording.mjs";

const FIRST = { name: "new-facts", n: 60 }; // the task that the page opens with, and what its title says
const SEEDS = 3; // runs of a band
const PAUSE = 200; // milliseconds between two pictures at least
const SPOKEN = 5000; // milliseconds between two reports to a screen reader

const parts = {},
  store = storeOfTab(),
  kept = []; // an entry of kept: { settings, runs }, the runs differing in their seed
let engine,
  base,
  tasks,
  settings,
  hidden = [],
  run,
  entry = null,
  busy = false,
  halted = false,
  warned = false;

const taskOf = name => tasks.find(task => task.name === name);
const state = words => say(byId("state"), words);
const announce = words => say(byId("live"), words);

function notices(list, kind = "error") {
  byId("notices").replaceChildren(...list.map(words => make("p", { class: kind }, words)));
}

// --- what is shown ---

function draw() {
  parts.film.show(run);
  parts.prompts.show(run);
  const others = entry?.runs.filter(one => one !== run) ?? [];
  const earlier = kept.filter(one => one !== entry);
  const names = varying(entry ? [...earlier, entry] : earlier);
  const words = lossFinding(run.records, run.over);
  say(byId("loss-title"), words);
  parts.loss.show(
    {
      run: { losses: run.losses, label: earlier.length ? "this run" : "" },
      steps: run.settings.steps,
      seeds: others.length ? [...others, run].map(one => ({ losses: one.losses, label: "" })) : [],
      kept: earlier.map(one => ({
        losses: meanLosses(one.runs),
        label: labelOf(one, names, base),
      })),
    },
    `The loss by step. ${words}.`,
  );
  byId("loss-legend").replaceChildren(legendOf(earlier, others.length + 1));
  if (byId("numbers").open) byId("losses").textContent = lossesAsText(run);
  byId("progress").value = run.records.length / run.settings.steps;
}
const drawSoon = sparingly(PAUSE, draw);

function buttons() {
  byId("train").disabled = byId("seeds").disabled = busy || Boolean(misfit(settings));
  byId("stop").disabled = !busy;
  byId("keep").disabled = busy || !entry || kept.includes(entry);
}

// After any change of the settings.
function shown() {
  parts.controls.show(settings, taskOf(settings.task));
  parts.take.show(settings);
  history.replaceState(null, "", `#${linkOf(settings, hidden, base)}`);
  const problem = misfit(settings);
  if (problem) notices([problem]);
  else if (warned) notices([]);
  warned = Boolean(problem);
  buttons();
}

// A task before its first run.
function before() {
  if (busy || run?.records.length) return;
  run = newRun(settings, taskOf(settings.task));
  draw();
  const old = run.groups.find(group => group.kind === "old");
  if (old) parts.guess.ask(old.questions.length);
}

function change(name, value) {
  settings =
    name === "task"
      ? { ...usualSettings(taskOf(value), base), seed: settings.seed }
      : { ...settings, [name]: value };
  shown();
  before();
}

function hide() {
  document
    .querySelectorAll("[data-part]")
    .forEach(element => element.classList.toggle("away", hidden.includes(element.dataset.part)));
  const any = [...byId("controls").querySelectorAll("[data-part]")].some(
    one => !one.classList.contains("away"),
  );
  byId("h-controls").parentElement.classList.toggle("away", !any);
}

// --- a run ---

async function trainOne(chosen, prefix = "") {
  const task = taskOf(chosen.task),
    recipe = recipeOf(chosen);
  const begun = (run = newRun(chosen, task));
  let spoken = performance.now();
  parts.inside.begin(run);
  byId("meters").replaceChildren();
  state(`${prefix}${progressInWords(run)}`);
  draw();
  const hear = message => {
    parts.inside.hear(message);
    if (message.type === "scoring") state(`${prefix}asking all test questions …`);
    if (!note(begun, message)) return;
    if (message.type === "started") draw();
    state(`${prefix}${progressInWords(begun)}`);
    if (performance.now() - spoken > SPOKEN) {
      spoken = performance.now();
      announce(
        `${prefix}step ${begun.records.length} of ${chosen.steps}, loss ${brief(begun.records.at(-1)?.loss ?? NaN)}`,
      );
    }
    drawSoon();
  };
  const given = task.examples ? { ...recipe, task: undefined, examples: task.examples } : recipe;
  try {
    const done = await engine.request("train", { recipe: given }, hear);
    Object.assign(begun, {
      id: done.id,
      scores: done.scores,
      before: done.scores_before,
      stopped: done.stopped,
      diverged: done.diverged,
    });
  } finally {
    begun.over = true;
  }
  return begun;
}

function finished(of) {
  draw();
  if (of.scores)
    byId("meters").replaceChildren(
      make("h3", { class: "small" }, "And on all test questions?"),
      meters(of.scores, of.before),
    );
  const wrong = of.diverged ?? lifeless(of);
  if (wrong) notices([wrong]);
  const took = duration((performance.now() - of.begun) / 1000);
  const words =
    of.stopped || of.diverged
      ? `${of.diverged ? "ended" : "stopped"} after ${of.records.length} of ${of.settings.steps} steps · ${took}`
      : `trained: ${of.settings.steps} steps · loss ${brief(of.finalLoss)} · ${took}`;
  state(words);
  announce(
    `${of.stopped ? "Stopped" : "Training is over"}. ${lossFinding(of.records, true)}. ` +
      `${filmFinding(of.groups, of.looks, of.settings.task)}.${of.scores ? ` On all test questions: ${scoresInWords(of.scores, of.settings.task)}.` : ""}`,
  );
  const left = oldFactsKept(of);
  if (left && of.looks.length > 1) parts.guess.reveal(left.right, left.n);
  parts.prompts.ready(of);
  parts.take.ready(of);
}

// Frees the memory of runs that nothing shows any longer.
function drop({ runs }) {
  for (const { id } of runs) {
    if (id !== null) engine.request("forget", { run: id }).catch(() => {}); // it was freed before
  }
}

async function work(job) {
  const typed = [byId("train"), byId("seeds")].includes(document.activeElement);
  busy = true;
  halted = false;
  notices([]);
  parts.prompts.ready(null);
  parts.take.ready(null);
  buttons();
  if (typed) byId("stop").focus(); // the button that was pressed is disabled for now
  try {
    await job();
  } catch (error) {
    const steps = run.records.length;
    state(steps ? `ended after ${steps} of ${run.settings.steps} steps` : "not trained");
    announce(error.message);
    notices([error.message]);
    draw();
  }
  const waiting = document.activeElement === byId("stop");
  busy = false;
  buttons();
  if (waiting) byId("train").focus();
}

const sameSettings = one =>
  linkOf({ ...one, seed: 0 }, [], base) === linkOf({ ...settings, seed: 0 }, [], base);

function train() {
  const guessing =
    !hidden.includes("guess") &&
    !parts.guess.value &&
    !run.records.length &&
    !byId("guess").dataset.skipped;
  if (guessing) { // asked once; a second click trains without a guess
    byId("guess").dataset.skipped = "yes";
    state("First a guess, above: one click. Or press Train again to go on without one.");
    announce(byId("state").textContent);
    byId("guess").querySelector("input")?.focus();
    return;
  }
  return work(async () => {
    if (entry && !kept.includes(entry)) drop(entry);
    entry = null;
    const one = await trainOne(settings);
    entry = one.records.length ? { settings: one.settings, runs: [one] } : null;
    finished(one);
  });
}

function trainSeeds() {
  return work(async () => {
    const seeds = Array.from({ length: SEEDS }, (_, more) => (settings.seed + more) % 2 ** 32);
    const had = entry && !kept.includes(entry) ? entry.runs : [];
    const fits = one => sameSettings(one.settings) && seeds.includes(one.settings.seed);
    const runs = had.filter(one => fits(one) && !one.stopped && !one.diverged);
    drop({ runs: had.filter(one => !runs.includes(one)) });
    entry = { settings: { ...settings }, runs };
    for (const [number, seed] of seeds.entries()) {
      if (halted || runs.some(one => one.settings.seed === seed)) continue;
      const one = await trainOne({ ...settings, seed }, `seed ${number + 1} of ${SEEDS} · `);
      if (!one.stopped) runs.push(one);
      finished(one);
    }
    if (!runs.length) entry = null;
    else
      say(
        byId("state"),
        `${runs.length} seeds trained: the band in the loss chart and the ranges of a kept run show what chance alone does`,
      );
  });
}

function showKept() {
  parts.kept.show(kept);
  say(byId("kept-note"), writeKept(store, kept, base));
  draw();
  buttons();
}

function keep() {
  if (!entry || kept.includes(entry)) return;
  kept.push(entry);
  showKept();
  announce(`Kept: ${labelOf(entry, [], base)}. ${kept.length} kept in all.`);
}

// --- the start ---

function build(ready) {
  base = ready.base;
  const named = one => one.name === FIRST.name;
  tasks = [
    ...ready.tasks.filter(named).map(one => ({ ...one, ...FIRST })),
    ...ready.tasks.filter(one => !named(one)),
  ];
  parts.controls = controls(byId("controls"), { base, changed: change });
  parts.controls.tasks(tasks);
  parts.film = filmOf(byId("film"), byId("film-title"));
  parts.loss = lossChart(byId("loss"), byId("readout"));
  parts.prompts = prompts({ engine });
  parts.inside = inside({ base, engine });
  parts.guess = guess(byId("guess"));
  parts.take = takeAway({ base, engine });
  parts.kept = keptRuns({
    base,
    use: chosen => {
      settings = { ...chosen };
      shown();
      before();
    },
    drop: one => {
      kept.splice(kept.indexOf(one), 1);
      if (one !== entry) drop(one);
      showKept();
    },
  });
  const stored = readKept(store, tasks, base);
  kept.push(...stored.kept);
  parts.kept.show(kept);
  say(byId("kept-note"), stored.words);
  ownExamples({
    engine,
    taken: examples => {
      tasks = tasks.filter(task => task.name !== OWN);
      const like = tasks.find(task => task.name === "sentiment");
      tasks.push({
        name: OWN,
        about: "Your own examples: most of them train, and the others test.",
        examples,
        n: examples.length,
        recipe: like.recipe,
      });
      parts.controls.tasks(tasks);
      change("task", OWN);
    },
  });
  const versions = Object.entries(ready.versions ?? {}).map(
    ([name, version]) => `${name} ${version}`,
  );
  licences(byId("others"));
  byId("versions").textContent = versions.join(" · ");
}

function openLink() {
  const link = readLink(location.hash, tasks, base);
  ({ settings, hidden } = link);
  notices(link.complaints);
  hide();
  shown();
  before();
  if (!link.complaints.length && location.hash.length > 1 && link.replays) {
    notices(
      [
        `This link holds a run: ${labelOf({ settings, runs: [] }, [], base)}, ${settings.steps} steps, seed ${settings.seed}. Press Train to replay it.`,
      ],
      "note",
    );
  }
}

async function start() {
  engine = await Engine.start({
    lost: words => {
      notices([words]);
      state("the engine has stopped");
    },
    heard: message => parts.inside?.hear(message),
  });
  build(await engine.open());
  openLink();
  parts.inside.watch();
  byId("train").addEventListener("click", train);
  byId("seeds").addEventListener("click", trainSeeds);
  byId("keep").addEventListener("click", keep);
  byId("stop").addEventListener("click", () => {
    halted = true;
    engine.stop();
    state("stopping after this step …");
  });
  byId("log").addEventListener("change", event => parts.loss.log(event.target.checked));
  byId("numbers").addEventListener("toggle", draw);
  byId("reset").addEventListener("click", () => {
    settings = usualSettings(taskOf(settings.task), base);
    shown();
    before();
  });
  addEventListener("hashchange", () => {
    if (!busy) openLink();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || !busy) return;
    notices(["The training went on while this tab was hidden."], "note");
    draw();
  });
  state("ready · press Train");
  document.documentElement.dataset.ready = "yes";
}

start().catch(error => {
  notices([error.message]);
  state("The engine could not be started.");
});
