// The random numbers of torch on a CPU, bit for bit: mt19937, uniform_ and randperm.

const SIZE = 624, SHIFT = 397; // mt19937's own

export class Generator {
  // seed: a whole number of at most 53 bits; torch takes its lowest 32.
  constructor(seed) {
    const state = (this.state = new Uint32Array(SIZE));
    state[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let i = 1; i < SIZE; i++) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
    this.next = SIZE;
  }

  // 32 random bits.
  random() {
    if (this.next === SIZE) this.#twist();
    let bits = this.state[this.next++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  }

  #twist() {
    const state = this.state;
    for (let i = 0; i < SIZE; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  // As torch.empty(count).uniform_(from, to): a Float32Array.
  uniform(count, from, to) {
    const low = Math.fround(from), width = Math.fround(Math.fround(to) - low);
    return Float32Array.from({ length: count }, () => (
      (this.random() & 0xffffff) / 0x1000000 * width + low // rounded once, as torch does
    ));
  }

  // As torch.randperm(count): an array.
  randperm(count) {
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = 0; i < count - 1; i++) {
      const other = i + this.random() % (count - i);
      [order[i], order[other]] = [order[other], order[i]];
    }
    return order;
  }
}

// A matrix (rows, fanIn) as torch.nn.Linear starts it: kaiming_uniform_ with a = sqrt(5).
export function linearStart(generator, rows, fanIn) {
  const bound = Math.sqrt(3) * (Math.sqrt(2 / 6) / Math.sqrt(fanIn));
  return generator.uniform(rows * fanIn, -bound, bound);
}

// The numbers of the examples in training order, without end: each pass is shuffled anew.
export function* orderOfExamples(count, seed) {
  const generator = new Generator(seed);
  for (;;) yield* generator.randperm(count);
}
