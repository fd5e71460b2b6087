// ONNX Runtime Web with the three graphs and pocket's weights: one thread, one graph at a time.

import * as ort from "../vendor/onnxruntime-web/ort.wasm.bundle.min.mjs";
import { readTensors } from "./safetensors.mjs";
import { Refused } from "./refused.mjs";

const STATE = ["A", "B", "A_mean", "B_mean", "A_square", "B_square"];
const EPS = Float32Array.of(1e-8, 1e-6); // AdamW's and the clipping's epsilon, as in step.py
const NO_SIMD = "This browser has no WebAssembly with SIMD, which the training needs; a Chromium, "
  + "Firefox or Safari of 2021 or later has it.";
// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): it needs SIMD
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10,
  1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

const float = (data, ...dims) => new ort.Tensor("float32", data, dims);
const int = (data, ...dims) => new ort.Tensor("int64", data, dims);
const number = value => float(Float32Array.of(value));

export class Sessions {
  // assets: the files by name; about: playground.json, parsed.
  static async open(assets, about) {
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) throw new Refused(NO_SIMD);
    ort.env.wasm.numThreads = 1; // more need headers of a server, and small matrices gain nothing
    ort.env.wasm.wasmBinary = assets["ort-wasm-simd-threaded.wasm"];
    ort.env.logLevel = "error";
    const self = new Sessions();
    self.modules = about.modules;
    self.ins = about.modules.reduce((sum, module) => sum + module.in, 0);
    self.outs = about.modules.reduce((sum, module) => sum + module.out, 0);
    self.weights = readTensors(assets["model.safetensors"]);
    const data = inOneFile(about.weights.map(name => self.weights[name].data));
    const options = {
      executionProviders: ["wasm"],
      enableMemPattern: false, // it would lay out memory anew for every shape of batch
      externalData: [{ path: "weights", data }],
    };
    const create = (name, more) => ort.InferenceSession.create(new Uint8Array(assets[name]), more);
    self.gradients = await create("gradients.onnx", options);
    self.answers = await create("answers.onnx", options);
    self.adamw = await create("adamw.onnx", { executionProviders: ["wasm"] });
    self.turn = Promise.resolve();
    return self;
  }

  // A graph's outputs; calls from several places wait for each other.
  run(session, inputs) {
    const outputs = this.turn.then(() => session.run(inputs));
    this.turn = outputs.catch(() => {});
    return outputs;
  }

  // The state that a training hands from step to step: A as given, (r, ins), and zeros.
  start(A, r) {
    const zeros = name => (name[0] === "A"
      ? float(new Float32Array(r * this.ins), r, this.ins)
      : float(new Float32Array(this.outs * r), this.outs, r));
    const state = Object.fromEntries(STATE.map(name => [name, zeros(name)]));
    return { ...state, A: float(A, r, this.ins) };
  }

  // A step: {loss, norm, state}, all still to be judged.
  async step(state, scale, batch, step, learningRate, recipe) {
    const { loss, A_gradient, B_gradient } = await this.run(this.gradients, {
      A: state.A,
      B: state.B,
      scale: float(scale, scale.length),
      input_ids: int(batch.ids, batch.rows, batch.tokens),
      attention_mask: int(batch.mask, batch.rows, batch.tokens),
      places: int(batch.places, batch.places.length),
      labels: int(batch.labels, batch.rows, batch.places.length),
      weight: number(1 / batch.count),
    });
    const stepped = await this.run(this.adamw, {
      ...state,
      A_gradient,
      B_gradient,
      learning_rate: number(learningRate),
      loraplus_lr_ratio: number(recipe.loraplus_lr_ratio),
      weight_decay: number(recipe.weight_decay),
      max_grad_norm: number(recipe.max_grad_norm),
      step: number(step),
      eps: float(EPS, EPS.length),
    });
    const next = Object.fromEntries(STATE.map(name => [name, stepped[`new_${name}`]]));
    return { loss: loss.data[0], norm: stepped.norm.data[0], state: next };
  }

  // The most likely next token at some places of each row: an array of rows * places numbers.
  async likeliest({ A, B, scale }, { rows, tokens, ids, mask, places }) {
    const outputs = await this.run(this.answers, {
      A,
      B,
      scale: float(scale, scale.length),
      input_ids: int(ids, rows, tokens),
      attention_mask: int(mask, rows, tokens),
      places: int(places, places.length),
    });
    return Array.from(outputs.tokens.data, Number);
  }

  // The base alone, as an adapter of rank 1 that changes nothing.
  base() {
    const { A, B } = this.start(new Float32Array(this.ins), 1);
    return { A, B, r: 1, scale: new Float32Array(this.modules.length) };
  }

  // One module's part of A and B: {A: (r, in), B: (out, r)}, copies.
  factors({ A, B, r }, place) {
    const module = this.modules[place], before = this.modules.slice(0, place);
    const left = before.reduce((sum, one) => sum + one.in, 0);
    const above = before.reduce((sum, one) => sum + one.out, 0);
    const own = new Float32Array(r * module.in);
    for (let row = 0; row < r; row++) {
      const from = row * this.ins + left;
      own.set(A.data.subarray(from, from + module.in), row * module.in);
    }
    return { A: own, B: B.data.slice(above * r, (above + module.out) * r) };
  }
}

function inOneFile(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return new Uint8Array(whole.buffer);
}
