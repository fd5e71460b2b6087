// A guess before the first run, and the result beside it.

import { make, say } from "./elements.mjs";

/** Ranges of old facts that may be left, the most first: `[[32, 32], [24, 31], …]`. */
export function ranges(n) {
  const at = part => Math.round(n * part);
  return [
    [n, n],
    [at(0.75), n - 1],
    [at(0.5), at(0.75) - 1],
    [0, at(0.5) - 1],
  ];
}

const inWords = ([low, high], n) =>
  low === n ? `all ${n}` : low === 0 ? `fewer than ${high + 1}` : `${low} to ${high}`;

/** `{ ask(n), reveal(kept), value }`: how many of n old facts will it still know? */
export function guess(place) {
  let choices = [],
    chosen = null,
    asked = 0;
  const line = make("p", { class: "reveal", role: "status" });
  const options = make("div", { class: "options" });
  const question = make("legend");
  place.append(make("fieldset", {}, question, options), line);

  return {
    get value() {
      return chosen;
    },
    ask(n) {
      if (n === asked) return;
      asked = n;
      chosen = null;
      choices = ranges(n);
      say(question, `Your guess first: of ${n} old facts, how many will it still know?`);
      say(line, "");
      options.replaceChildren(
        ...choices.map((range, number) =>
          make(
            "label",
            {},
            make("input", {
              type: "radio",
              name: "guess",
              value: number,
              onchange: () => {
                chosen = range;
                say(line, "Now press Train.");
              },
            }),
            make("span", {}, inWords(range, n)),
          ),
        ),
      );
    },
    reveal(kept, n) {
      options.querySelectorAll("input").forEach(input => {
        input.disabled = true;
      });
      const right = chosen && kept >= chosen[0] && kept <= chosen[1];
      say(
        line,
        chosen
          ? `You guessed ${inWords(chosen, n)}. It still knows ${kept} of ${n}${right ? ": your guess was right." : "."}`
          : `It still knows ${kept} of ${n}.`,
      );
    },
  };
}
