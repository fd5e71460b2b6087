// The most likely answers, in batches. A guess at an answer is checked in one pass.

const ROWS = 64; // questions answered at once

// The tokens of each answer, without the end token: what token-by-token greedy decoding gives.
//
// A row's guess is put after its prompt. At each place, the model gives the token that follows. So the
// guess is right up to the first place where the model gives another token, which is right too.
//
//   adapter: {A, B, r, scale}; questions: [{ids, guess}], guess: the tokens it may answer, or [];
//   room: where an answer is cut; pad, end: tokens.
export async function likeliestAnswers(sessions, adapter, questions, { room, pad, end }) {
  const order = questions.map((_, place) => place)
    .sort((one, other) => questions[one].ids.length - questions[other].ids.length);
  const answers = Array(questions.length);
  for (let at = 0; at < order.length; at += ROWS) {
    let left = order.slice(at, at + ROWS).map(place => ({
      place, ids: questions[place].ids, said: [], guess: questions[place].guess.slice(0, room),
    }));
    while (left.length) {
      await extend(sessions, adapter, left, { room, pad, end });
      for (const { place, said } of left) answers[place] = said.filter(id => id !== end);
      left = left.filter(({ said }) => said.at(-1) !== end && said.length < room);
    }
  }
  return answers;
}

// Each row gains at least one token. Prompts are padded on the left, so that answers line up.
async function extend(sessions, adapter, rows, { room, pad, end }) {
  const width = Math.max(...rows.map(({ ids }) => ids.length));
  const first = Math.min(...rows.map(({ said }) => said.length));
  const longest = Math.max(...rows.map(({ said, guess }) => said.length + guess.length));
  const tokens = width + longest, count = longest - first + 1;
  const ids = new BigInt64Array(rows.length * tokens).fill(BigInt(pad));
  const mask = new BigInt64Array(rows.length * tokens);
  rows.forEach((row, number) => {
    const all = [...row.ids, ...row.said, ...row.guess];
    const from = number * tokens + width - row.ids.length;
    all.forEach((id, place) => { ids[from + place] = BigInt(id); });
    mask.fill(1n, from, from + all.length);
  });
  const places = BigInt64Array.from({ length: count }, (_, i) => BigInt(width - 1 + first + i));
  const next = await sessions.likeliest(adapter, { rows: rows.length, tokens, ids, mask, places });
  rows.forEach((row, number) => {
    for (;;) {
      const token = next[number * count + row.said.length - first], guessed = row.guess.shift();
      row.said.push(token);
      if (token === end || row.said.length === room || token !== guessed) return;
    }
  });
}
