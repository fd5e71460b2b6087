// The worker that trains, as promises. A request ends with one reply, or with an error in words.

const REPLY = {
  open: "ready",
  train: "done",
  ask: "answer",
  strength: "strength",
  adapter: "adapter",
  check_csv: "csv",
  weight: "weight",
  forget: "forgotten",
};

// A module with a SIMD instruction: `i8x16.splat`, `i8x16.popcnt`.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
];

export class Engine {
  #worker;
  #heard;
  #waiting = new Map(); // id: { ends, resolve, reject, heard }
  #last = 0;
  #failed = null; // why the worker as a whole has failed, in words

  /**
   * `lost(words)` is called when the worker as a whole has failed, `heard(message)` with messages
   * that belong to no request.
   */
  constructor(worker, { lost, heard }) {
    this.#worker = worker;
    this.#heard = heard;
    worker.onmessage = ({ data }) => this.#hear(data);
    worker.onerror = event => {
      const words =
        `The engine has stopped: ${event.message || "it could not be started"}. ` +
        "Reload the page; its address holds all settings.";
      this.#fail(words);
      lost(words);
    };
  }

  #fail(words) {
    this.#failed = words; // it may fail before anything waits for it
    for (const one of this.#waiting.values()) one.reject(new Error(words));
    this.#waiting.clear();
  }

  /** The engine of this page. Throws an Error in words where the browser cannot run it. */
  static async start(listeners) {
    if (!globalThis.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD))) {
      throw new Error(
        "This browser lacks WebAssembly with SIMD, which the model’s arithmetic needs. " +
          "Chrome and Edge 91, Firefox 89, Safari 16.4 and later have it.",
      );
    }
    return new Engine(await globalThis.makeWorker(), listeners);
  }

  /** Gives the worker the model and its graphs; its reply, `ready`. */
  async open() {
    const { playgroundAssets } = globalThis,
      assets = {};
    await Promise.all(
      playgroundAssets.names.map(async name => {
        assets[name] = await playgroundAssets(name);
      }),
    );
    return this.request("open", { assets });
  }

  /** Sends a request; `heard` gets the messages before the reply. */
  request(type, message = {}, heard = () => {}) {
    const id = ++this.#last;
    if (this.#failed) return Promise.reject(new Error(this.#failed));
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { ends: REPLY[type], resolve, reject, heard });
      this.#worker.postMessage({ type, id, ...message });
    });
  }

  /** Sends a message that has no reply. */
  tell(type, message = {}) {
    this.#worker.postMessage({ type, id: ++this.#last, ...message });
  }

  /** Asks the run that is being trained to stop after the step at hand. */
  stop() {
    for (const [id, one] of this.#waiting) {
      if (one.ends === "done") this.#worker.postMessage({ type: "stop", id });
    }
  }

  #hear(data) {
    const ends = one => one.ends === data.type || data.type === "error";
    // A worker that could not start does not know the id: all waiting requests are rejected.
    if (data.type === "error" && data.id === undefined) return this.#fail(data.words);
    const one = this.#waiting.get(data.id);
    if (!one) return this.#heard(data);
    if (!ends(one)) return one.heard(data);
    this.#waiting.delete(data.id);
    if (data.type !== "error") return one.resolve(data);
    one.reject(new Error(data.words));
  }
}
