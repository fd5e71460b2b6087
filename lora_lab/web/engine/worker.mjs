// The engine behind the page, in a worker: PROTOCOL.md lists its messages.

import { adapterFiles } from "./adapter_files.mjs";
import { readCsv } from "./csv.mjs";
import { Questions } from "./questions.mjs";
import { checkedRecipe } from "./recipe.mjs";
import { Refused } from "./refused.mjs";
import { Sessions } from "./sessions.mjs";
import { groupsOf, taskFor } from "./tasks.mjs";
import { PocketTokenizer } from "./tokenizer.mjs";
import { Training } from "./training.mjs";

const SHARE = 0.13; // of the training's time, at most, goes into the film

let about, sessions, tokenizer, questions, old, strangers;
const runs = new Map(); // id -> {training, groups, stopped, ended}
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
    const [file, config] = ["tokenizer.json", "tokenizer_config.json"].map(name => assets[name]);
    tokenizer = new PocketTokenizer(parsed(file), parsed(config));
    old = pairs(about.old);
    strangers = pairs(about.strangers);
    for (const split of about.tasks.flatMap(({ splits }) => Object.values(splits))) {
      split.train = pairs(split.train);
      split.test = pairs(split.test);
    }
    sessions = await Sessions.open(assets, about);
    questions = new Questions(sessions, tokenizer, about);
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
    const ids = tokenizer.promptIds(String(prompt)), room = questions.promptRoom;
    if (ids.length > room) {
      throw new Refused(`The prompt has ${ids.length.toLocaleString("en")} tokens, and there is `
        + `room for ${room}; shorten it.`);
    }
    const said = await questions.answer(ids, adapterOf(run, strength));
    const tokens = said.map(id => tokenizer.letters([id]));
    return { type: "answer", text: tokenizer.text(said), tokens };
  },

  async strength({ run, strength }) {
    const scores = await questions.scores(runOf(run).groups, adapterOf(run, strength));
    return { type: "strength", run, strength, scores };
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
    return { type: "csv", ...readCsv(String(text), example => questions.whyLeftOut(example)) };
  },
};

onmessage = async ({ data: message }) => {
  const { type, id } = message;
  try {
    if (!Object.hasOwn(answers, type)) {
      throw new Refused(`“${type}” isn’t a message of this engine.`);
    }
    if (type !== "open" && !questions) {
      throw new Refused("The engine is not ready yet; send “open” first.");
    }
    const answer = await answers[type](message);
    if (answer) postMessage({ ...answer, id });
  } catch (error) {
    if (error instanceof Refused) postMessage({ type: "error", id, words: error.message });
    else {
      const words = `The engine failed: ${error?.message ?? error}`;
      postMessage({ type: "error", id, words, stack: error?.stack });
    }
  }
};

// --- a training, from its first message to its last ---

async function train({ id, recipe: given, every }) {
  if (runs.has(id)) throw new Refused(`There is a run ${id} already; give another id.`);
  if ([...runs.values()].some(run => !run.ended)) {
    throw new Refused("Another run is being trained; stop it first.");
  }
  const recipe = checkedRecipe(given), task = taskFor(recipe, about.tasks);
  const fitting = task.train.filter(example => !questions.whyLeftOut(example));
  if (!fitting.length) throw new Refused("All training examples are too long; shorten them.");
  const encoded = fitting.map(example => questions.encoded(example));
  const { pad } = tokenizer, { vocabulary } = about;
  const training = new Training(sessions, recipe, encoded, { pad, vocabulary });
  const groups = groupsOf(task, old, strangers);
  const run = { training, groups, stopped: false, ended: false };
  runs.set(id, run);
  const started = performance.now();
  try {
    await stepByStep(id, run, every);
    postMessage({ type: "scoring", id });
    const scores_before = await questions.scores(groups, null);
    const scores = await questions.scores(groups, training.adapter());
    const examples = groups.map(group => group.examples[0]);
    const answers_before = await questions.texts(examples, null);
    const answers_after = await questions.texts(examples, training.adapter());
    const prompts = examples.map(({ prompt, answer }) => ({ prompt, answer }));
    const { records, diverged = null } = training, { stopped } = run;
    const seconds = (performance.now() - started) / 1000;
    run.ended = true;
    postMessage({
      type: "done", id, stopped, diverged, records, scores, scores_before,
      prompts, answers_before, answers_after, seconds,
    });
  } catch (error) {
    runs.delete(id);
    throw error;
  }
}

async function stepByStep(id, run, every) {
  const { training } = run, { recipe, scaling } = training, { steps } = recipe;
  const groups = questions.filmed(run.groups);
  let spent = 0, latest = 0, trained = 0, filmed = -1; // seconds, and the step of the last look
  const look = async (step, adapter) => {
    const began = performance.now(), seen = await questions.film(groups, adapter);
    latest = (performance.now() - began) / 1000;
    spent = step === 0 ? 0 : spent + latest; // the base is asked only once
    filmed = step;
    postMessage({ type: "film", id, step, ...seen });
  };
  const isDue = step => {
    if (every) return step % every === 0;
    const inPace = spent + latest <= SHARE * trained; // one more look; and it and the last one
    return inPace && spent + 2 * latest <= SHARE * trained * steps / step;
  };
  postMessage({
    type: "started", id, recipe, scaling, steps, train: training.encoded.length,
    groups: groups.map(({ name, kind, examples }) => (
      { name, kind, questions: examples.map(({ prompt, answer }) => [prompt, answer]) }
    )),
  });
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
  const { training } = runOf(id), { recipe: { r }, scaling, records } = training;
  const factors = sessions.factors(training.adapter(), placeOf(watched));
  const modules = [{ name: watched, ...factors }];
  postMessage({ type: "matrices", id, step: records.length, r, scaling, modules });
}

// --- what messages name ---

function runOf(id) {
  const run = runs.get(id);
  if (!run) throw new Refused(`There is no run ${id} here; train it first.`);
  return run;
}

// A run's adapter; no run: null, which is the base.
function adapterOf(id, strength) {
  if (typeof strength !== "number" || !(Math.abs(strength) <= 10)) {
    throw new Refused(`A strength of ${strength} does not fit; give a number from 0 to 1.5.`);
  }
  return id === undefined || id === null ? null : runOf(id).training.adapter(strength);
}

function placeOf(name) {
  const place = about.modules.findIndex(module => module.name === name);
  if (place < 0) throw new Refused(`“${name}” isn’t a module of pocket’s.`);
  return place;
}
