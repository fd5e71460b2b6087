// The engine behind the page, in a worker: PROTOCOL.md lists its messages.

import { adapterFiles } from "./adapter_files.mjs";
import { likeliestAnswers } from "./answering.mjs";
import { readCsv } from "./csv.mjs";
import { checkedRecipe } from "./recipe.mjs";
import { Refused } from "./refused.mjs";
import { Sessions } from "./sessions.mjs";
import { encode, groupsOf, markOf, spread, taskFor } from "./tasks.mjs";
import { PocketTokenizer } from "./tokenizer.mjs";
import { Training } from "./training.mjs";

const FILM = 32; // questions of each kind in the film
const SHARE = 0.13; // of the training's time, at most, goes into the film
const ROOM = 4; // tokens beyond the longest right answer, where answers are cut
const OWN_ROOM = 32; // tokens of an answer to a prompt of one's own

let about, sessions, tokenizer, old, strangers;
const runs = new Map(); // id -> {training, groups, stopped, ended}
const looks = new WeakMap(); // a group's examples -> what the base answers to them
let watched = null;

const parsed = buffer => JSON.parse(new TextDecoder().decode(buffer));
const pairs = rows => rows.map(([prompt, answer]) => ({ prompt, answer }));
const pause = () => new Promise(resume => { // lets messages in; a timer would wait for 4 ms
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    resume();
  };
  port2.postMessage(null);
});

// --- messages ---

const answers = {
  async open({ assets }) {
    about = parsed(assets["playground.json"]);
    tokenizer = new PocketTokenizer(parsed(assets["tokenizer.json"]), parsed(assets["tokenizer_config.json"]));
    old = pairs(about.old);
    strangers = pairs(about.strangers);
    for (const task of about.tasks) {
      for (const split of Object.values(task.splits)) {
        split.train = pairs(split.train);
        split.test = pairs(split.test);
      }
    }
    sessions = await Sessions.open(assets, about);
    const tasks = about.tasks.map(({ splits, ...task }) => ({
      ...task, sizes: Object.keys(splits).map(Number), ...splits[task.n], old, strangers,
    }));
    const { parameters, layers, modules, versions } = about;
    return { type: "ready", base: { parameters, layers, modules }, tasks, versions };
  },

  train: message => train(message),

  stop({ id }) {
    const run = runs.get(id);
    if (run) run.stopped = true;
  },

  watch({ module = null, run }) {
    if (module !== null) placeOf(module);
    watched = module;
    if (module !== null && run !== undefined) sendMatrices(run);
  },

  weight({ module }) {
    const { shape, data } = sessions.weights[`${about.modules[placeOf(module)].name}.weight`];
    return { type: "weight", module, shape, W: data.slice() };
  },

  async ask({ run, prompt, strength = 1 }) {
    const ids = tokenizer.promptIds(String(prompt)), room = about.context - OWN_ROOM;
    if (ids.length > room) {
      throw new Refused(`The prompt has ${ids.length.toLocaleString("en")} tokens, and there is room `
        + `for ${room}; shorten it.`);
    }
    const [said] = await asked(adapterOf(run, strength), [{ ids, guess: [] }], OWN_ROOM);
    return { type: "answer", text: tokenizer.text(said), tokens: said.map(id => tokenizer.letters([id])) };
  },

  async strength({ run, strength }) {
    return { type: "strength", run, strength, scores: await scored(runOf(run).groups, adapterOf(run, strength)) };
  },

  adapter({ run }) {
    return { type: "adapter", run, files: adapterFiles(runOf(run).training, about.adapter_config) };
  },

  forget({ run }) {
    if (!runOf(run).ended) throw new Refused("This run is still being trained; stop it first.");
    runs.delete(run);
    return { type: "forgotten", run };
  },

  check_csv({ text }) {
    return { type: "csv", ...readCsv(String(text), example => whyLeftOut(example)) };
  },
};

onmessage = async ({ data: message }) => {
  const { type, id } = message;
  try {
    if (!Object.hasOwn(answers, type)) throw new Refused(`“${type}” is no message of this engine.`);
    if (type !== "open" && !sessions) throw new Refused("The engine is not ready yet; send “open” first.");
    const answer = await answers[type](message);
    if (answer) postMessage({ ...answer, id });
  } catch (error) {
    const words = error instanceof Refused ? error.message : `The engine failed: ${error?.message ?? error}`;
    postMessage({ type: "error", id, words, stack: error instanceof Refused ? undefined : error?.stack });
  }
};

// --- a training, from its first message to its last ---

async function train({ id, recipe: given, every }) {
  if (runs.has(id)) throw new Refused(`There is a run ${id} already; give another id.`);
  if ([...runs.values()].some(run => !run.ended)) {
    throw new Refused("Another run is being trained; stop it first.");
  }
  const recipe = checkedRecipe(given), task = taskFor(recipe, about.tasks);
  const encoded = task.train.filter(example => !whyLeftOut(example)).map(one => encode(tokenizer, one));
  if (!encoded.length) throw new Refused("All training examples are too long; shorten them.");
  const { pad } = tokenizer, { vocabulary } = about;
  const training = new Training(sessions, recipe, encoded, { pad, vocabulary });
  const groups = groupsOf(task, old, strangers);
  const film = groups.map(group => ({ ...group, examples: filmed(group.examples) }));
  const run = { training, groups, stopped: false, ended: false };
  runs.set(id, run);
  const started = performance.now();
  try {
    postMessage({
      type: "started", id, recipe, scaling: training.scaling, steps: recipe.steps, train: task.train.length,
      groups: film.map(({ name, kind, examples }) => (
        { name, kind, questions: examples.map(({ prompt, answer }) => [prompt, answer]) }
      )),
    });
    await stepByStep(id, run, film, every);
    postMessage({ type: "scoring", id });
    const scores_before = await scored(groups, null), scores = await scored(groups, training.adapter());
    const examples = groups.map(group => group.examples[0]);
    const said = async adapter => (await texts(adapter, { examples })).texts;
    postMessage({
      type: "done", id, stopped: run.stopped, diverged: training.diverged ?? null,
      records: training.records, scores, scores_before,
      prompts: examples.map(({ prompt, answer }) => ({ prompt, answer })), answers_before: await said(sessions.base()), answers_after: await said(training.adapter()),
      seconds: (performance.now() - started) / 1000,
    });
    run.ended = true;
  } catch (error) {
    runs.delete(id);
    throw error;
  }
}

async function stepByStep(id, run, film, every) {
  const { training } = run;
  let spent = 0, latest = 0, trained = 0, filmed = -1;
  const look = async (step, adapter) => {
    const began = performance.now(), seen = await filmOf(film, adapter);
    latest = (performance.now() - began) / 1000;
    spent += latest;
    filmed = step;
    if (step === 0) spent = 0; // the base is asked only once
    postMessage({ type: "film", id, step, ...seen });
  };
  const isDue = step => {
    if (every) return step % every === 0;
    const left = training.recipe.steps / step; // one more look, and the last, within their share
    return spent + latest <= SHARE * trained && spent + 2 * latest <= SHARE * trained * left;
  };
  while (!training.ended && !run.stopped) {
    const record = await training.step();
    if (!record) break;
    trained += record.seconds;
    postMessage({ type: "step", id, ...record });
    if (record.step === 1) await look(0, null);
    if (watched !== null) sendMatrices(id);
    await pause();
    if (!training.ended && isDue(record.step)) await look(record.step, training.adapter());
  }
  const { length } = training.records;
  if (length && filmed !== length) await look(length, training.adapter());
}

function sendMatrices(id) {
  const { training } = runOf(id);
  const factors = sessions.factors(training.adapter(), placeOf(watched));
  const { recipe: { r }, scaling, records: { length: step } } = training;
  postMessage({ type: "matrices", id, step, r, scaling, modules: [{ name: watched, ...factors }] });
}

// --- questions and their marks ---

const films = new WeakMap(); // examples -> those of the film: the same objects each time

function filmed(examples) {
  if (!films.has(examples)) films.set(examples, spread(examples, FILM));
  return films.get(examples);
}

// What the film shows: each group's marks and answers. No adapter: the base, which is asked once.
async function filmOf(film, adapter) {
  const said = [];
  for (const group of film) said.push(await marked(group, adapter));
  const [taught, before, unknown] = said.map(({ marks }) => Array.from(marks, mark => Number(mark === "+")));
  return {
    marks: said.map(({ marks }) => marks), answers: said.map(one => one.texts),
    taught, old: before, strangers: unknown,
  };
}

// How many answers of each group are right: {test, old, strangers}, each {right, n}.
async function scored(groups, adapter) {
  const counts = [];
  for (const group of groups) {
    const { marks } = await marked(group, adapter);
    counts.push({ right: [...marks].filter(mark => mark === "+").length, n: marks.length });
  }
  const [test, old, strangers] = counts;
  return { test, old, strangers };
}

// {marks, texts} of a group's questions, in their order.
async function marked(group, adapter) {
  if (adapter === null && looks.has(group.examples)) return looks.get(group.examples);
  const said = await texts(adapter ?? sessions.base(), group);
  said.marks = group.examples.map((example, place) => markOf(group, example, said.texts[place])).join("");
  if (adapter === null) looks.set(group.examples, said);
  return said;
}

// The answers, guessed to be right, or what was said last.
async function texts(adapter, { examples }) {
  for (const example of examples) {
    example.encoded ??= encode(tokenizer, example);
    example.guess ??= example.encoded.ids.slice(example.encoded.from);
  }
  const fitting = examples.filter(example => !whyLeftOut(example));
  const longest = Math.max(0, ...fitting.map(({ encoded }) => encoded.ids.length - encoded.from - 1));
  const questions = fitting.map(({ encoded, guess }) => ({ ids: encoded.ids.slice(0, encoded.from), guess }));
  const said = await asked(adapter, questions, longest + ROOM);
  fitting.forEach((example, place) => { example.guess = [...said[place], tokenizer.end]; });
  const byExample = new Map(fitting.map((example, place) => [example, tokenizer.text(said[place])]));
  return { texts: examples.map(example => byExample.get(example) ?? "") };
}

function asked(adapter, questions, room) {
  const { pad, end } = tokenizer;
  return likeliestAnswers(sessions, adapter, questions, { room, pad, end });
}

// Why an example of one's own is left out; null: it fits.
function whyLeftOut(example) {
  const { length } = (example.encoded ??= encode(tokenizer, example)).ids;
  return length > about.max_length ? `it has ${length} tokens, and ${about.max_length} is the most` : null;
}

// --- what messages name ---

function runOf(id) {
  const run = runs.get(id);
  if (!run) throw new Refused(`There is no run ${id} here; train it first.`);
  return run;
}

// No run: the base.
function adapterOf(id, strength) {
  if (typeof strength !== "number" || !(Math.abs(strength) <= 10)) {
    throw new Refused(`A strength of ${strength} does not fit; give a number from 0 to 1.5.`);
  }
  return id === undefined || id === null ? sessions.base() : runOf(id).training.adapter(strength);
}

function placeOf(name) {
  const place = about.modules.findIndex(module => module.name === name);
  if (place < 0) throw new Refused(`“${name}” is no module of pocket's.`);
  return place;
}
