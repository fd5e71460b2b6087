// The answers of pocket, alone or with an adapter, to groups of questions, and their marks.

import { likeliestAnswers } from "./answering.mjs";
import { fieldF1 } from "./fields.mjs";
import { encode, markOf, spread } from "./tasks.mjs";

const FILM = 32; // questions of each kind in the film
const ROOM = 4; // tokens beyond the longest right answer, where answers are cut
const OWN_ROOM = 32; // tokens of an answer to a person's own prompt

export class Questions {
  #films = new WeakMap(); // examples -> those of the film: the same list each time
  #ofBase = new WeakMap(); // examples -> the base's answers to them: it is asked once

  // longest: tokens that an example may have; context: of the model.
  constructor(sessions, tokenizer, { max_length, context }) {
    Object.assign(this, { sessions, tokenizer, longest: max_length, context });
  }

  encoded(example) {
    return (example.encoded ??= encode(this.tokenizer, example));
  }

  // Why an example is left out; null if it fits.
  whyLeftOut(example) {
    const { length } = this.encoded(example).ids;
    if (length <= this.longest) return null;
    return `it has ${length} tokens, and ${this.longest} is the most`;
  }

  // The same groups with only the film's questions.
  filmed(groups) {
    return groups.map(group => {
      const { examples } = group;
      if (!this.#films.has(examples)) this.#films.set(examples, spread(examples, FILM));
      return { ...group, examples: this.#films.get(examples) };
    });
  }

  // The film's answers and marks for its groups. Without an adapter, the base answers.
  async film(groups, adapter) {
    const said = [];
    for (const group of groups) said.push(await this.#marked(group, adapter));
    const [taught, old, strangers] = said.map(({ marks }) => (
      Array.from(marks, mark => Number(mark === "+"))
    ));
    const marks = said.map(one => one.marks), answers = said.map(({ texts }) => texts);
    return { marks, answers, taught, old, strangers };
  }

  // How many answers of each group are right: {test, old, strangers}, each {right, n}. If answers are
  // marked by field too, it is {right, n, f1}, with F1 over the fields.
  async scores(groups, adapter) {
    const counts = [];
    for (const group of groups) {
      const { marks, texts } = await this.#marked(group, adapter);
      const count = { right: marks.split("+").length - 1, n: marks.length };
      const pairs = group.examples.map(({ answer }, place) => [answer, texts[place]]);
      counts.push(group.byField ? { ...count, f1: fieldF1(pairs) } : count);
    }
    const [test, old, strangers] = counts;
    return { test, old, strangers };
  }

  // {marks, texts} of a group's questions, in their order.
  async #marked(group, adapter) {
    const { examples } = group;
    if (adapter === null && this.#ofBase.has(examples)) return this.#ofBase.get(examples);
    const texts = await this.texts(examples, adapter);
    const marks = examples.map((example, place) => markOf(group, example, texts[place])).join("");
    if (adapter === null) this.#ofBase.set(examples, { marks, texts });
    return { marks, texts };
  }

  // The answers to some examples. The guesses are the right answers at first, then the last answers.
  async texts(examples, adapter) {
    const fitting = examples.filter(example => !this.whyLeftOut(example));
    const lengths = fitting.map(({ encoded: { ids, from } }) => ids.length - from - 1);
    const questions = fitting.map(({ encoded: { ids, from }, guess = ids.slice(from) }) => (
      { ids: ids.slice(0, from), guess }
    ));
    const said = await this.#asked(questions, adapter, Math.max(0, ...lengths) + ROOM);
    const texts = new Map();
    fitting.forEach((example, place) => {
      example.guess = [...said[place], this.tokenizer.end];
      texts.set(example, this.tokenizer.text(said[place]));
    });
    return examples.map(example => texts.get(example) ?? "");
  }

  // How many tokens a person's own prompt may have.
  get promptRoom() {
    return this.context - OWN_ROOM;
  }

  // The tokens of the answer to a prompt's tokens.
  async answer(ids, adapter) {
    const [said] = await this.#asked([{ ids, guess: [] }], adapter, OWN_ROOM);
    return said;
  }

  #asked(questions, adapter, room) {
    const { pad, end } = this.tokenizer;
    const asked = adapter ?? this.sessions.base();
    return likeliestAnswers(this.sessions, asked, questions, { room, pad, end });
  }
}
