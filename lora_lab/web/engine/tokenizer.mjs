// Pocket's tokenizer and chat format: Hugging Face's library on pocket's own tokenizer.json.

import { strip } from "./text.mjs";
import { Tokenizer } from "../vendor/tokenizers/tokenizers.min.mjs";

export class PocketTokenizer {
  // file: tokenizer.json, config: tokenizer_config.json, both parsed.
  constructor(file, config) {
    this.tokenizer = new Tokenizer(file, config);
    this.end = this.tokenizer.token_to_id(config.eos_token);
    this.pad = this.tokenizer.token_to_id(config.pad_token);
  }

  ids(text) {
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  // The tokens before the answer, in the chat format of chat_template.jinja.
  promptIds(prompt) {
    return this.ids(`<|user|> ${prompt}<|assistant|>`);
  }

  // The tokens of an answer, the end token last.
  answerIds(answer) {
    const ids = this.ids(` ${answer}<|end|>`);
    return ids.at(-1) === this.end ? ids : [...ids, this.end];
  }

  // An answer as it is read: without white space at its ends.
  text(ids) {
    return strip(this.letters(ids));
  }

  letters(ids) {
    if (!ids.length) return ""; // the library refuses to decode nothing
    return this.tokenizer.decode(ids, { skip_special_tokens: true });
  }
}
