// A fine-tune of pocket, step by step: the batches, the start and the numbers of lab.train.

import { linearStart, Generator, orderOfExamples } from "./torch_random.mjs";
import { adaptedModules, learningRateAt, scalingOf } from "./recipe.mjs";
import { collate } from "./tasks.mjs";

const LOUD = 16; // from this many times r on, lora_alpha is to blame for a divergence
const GOOD_EVERY = 10; // steps between two copies of the weights to fall back on

export class Training {
  // encoded: the training examples as tokens; recipe: checked.
  constructor(sessions, recipe, encoded, { pad, vocabulary }) {
    Object.assign(this, { sessions, recipe, encoded, pad, vocabulary });
    this.adapted = adaptedModules(sessions.modules, recipe.target_modules);
    this.scaling = scalingOf(recipe);
    this.state = sessions.start(startOfA(sessions, this.adapted, recipe), recipe.r);
    this.good = this.state;
    this.order = orderOfExamples(encoded.length, recipe.seed);
    this.records = [];
  }

  get ended() {
    return this.records.length >= this.recipe.steps || Boolean(this.diverged);
  }

  // The adapter as it is now, for answers; at another strength than 1, louder or quieter.
  adapter(strength = 1) {
    const { A, B } = this.state, factor = this.scaling * strength;
    const scale = Float32Array.from(this.adapted, on => (on ? factor : 0));
    return { A, B, r: this.recipe.r, scale };
  }

  // {step, loss, grad_norm, learning_rate, seconds}; null if it diverged, and `diverged` says why.
  async step() {
    const started = performance.now(), step = this.records.length + 1;
    const chosen = Array.from({ length: this.recipe.batch_size }, () => (
      this.encoded[this.order.next().value]
    ));
    const rate = learningRateAt(step, this.recipe);
    const { loss, norm, state } = await this.sessions.step(
      this.state, this.adapter().scale, collate(chosen, this.pad), step, rate, this.recipe,
    );
    if (!this.#isSound(step, loss, norm)) return null;
    if (step % GOOD_EVERY === 1) this.good = this.state; // these gave a finite loss
    this.state = state;
    const seconds = (performance.now() - started) / 1000;
    const record = { step, loss, grad_norm: norm, learning_rate: rate, seconds };
    this.records.push(record);
    return record;
  }

  #isSound(step, loss, norm) {
    const first = this.records[0]?.loss ?? loss;
    const hopeless = 2 * (first + Math.log(this.vocabulary));
    if (Number.isFinite(loss) && Number.isFinite(norm) && loss <= hopeless) return true;
    this.state = this.good;
    this.diverged = `The loss was ${loss.toPrecision(3)} at step ${step}, after `
      + `${first.toPrecision(3)} at step 1; ${this.#blame()} `
      + "The weights are those of a step before.";
    return false;
  }

  #blame() {
    const { lora_alpha, r, learning_rate } = this.recipe;
    if (lora_alpha > LOUD * r) {
      return `lora_alpha ${lora_alpha} with r ${r} multiplies the adapter by `
        + `${this.scaling.toPrecision(3)}, which is too much; try lora_alpha ${2 * r}.`;
    }
    return `a learning rate of ${learning_rate} with scaling ${this.scaling.toPrecision(3)} is too `
      + `large a step; try ${Number((learning_rate / 10).toPrecision(3))}.`;
  }
}

// A, (r, ins), as PEFT starts it: it makes A and B of a module as linear layers, then draws A anew.
function startOfA({ modules, ins }, adapted, { r, seed }) {
  const generator = new Generator(seed), A = new Float32Array(r * ins);
  let left = 0;
  modules.forEach((module, place) => {
    if (adapted[place]) {
      linearStart(generator, r, module.in);
      linearStart(generator, module.out, r);
      const own = linearStart(generator, r, module.in);
      for (let row = 0; row < r; row++) {
        A.set(own.subarray(row * module.in, (row + 1) * module.in), row * ins + left);
      }
    }
    left += module.in;
  });
  return A;
}
