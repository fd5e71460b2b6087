// The worker that trains, as promises. A request ends with one reply, or with an error in words.

const REPLY = {
  open: "ready", train: "done", ask: "answer", strength: "strength", adapter: "adapter",
  check_csv: "csv", weight: "weight", forget: "forgotten",
};

export class Engine {
  #worker;
  #heard;
  #waiting = new Map(); // id: { ends, resolve, reject, heard }
  #last = 0;

  /**
   * `lost(words)` is called when the worker as a whole has failed, `heard(message)` with messages
   * that belong to no request.
   */
  constructor(worker, { lost, heard }) {
    this.#worker = worker;
    this.#heard = heard;
    worker.onmessage = ({ data }) => this.#hear(data);
    worker.onerror = event => {
      const words = `The engine has stopped: ${event.message || "it could not be started"}. ` +
        "Reload the page; its address holds all settings.";
      for (const one of this.#waiting.values()) one.reject(new Error(words));
      this.#waiting.clear();
      lost(words);
    };
  }

  /** Sends a request; `heard` gets the messages before the reply. */
  request(type, message = {}, heard = () => {}) {
    const id = ++this.#last;
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
    const id = this.#waiting.has(data.id) ? data.id
      : [...this.#waiting].find(([, one]) => ends(one))?.[0];
    const one = this.#waiting.get(id);
    if (!one) return this.#heard(data);
    if (!ends(one)) return one.heard(data);
    this.#waiting.delete(id);
    if (data.type !== "error") return one.resolve(data);
    one.reject(new Error(data.words));
  }
}
