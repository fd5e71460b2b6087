// The same prompts before and after, a person's own prompt, and the adapter's strength.

import { afterwards, byId, make, say } from "./elements.mjs";
import { scoresInWords } from "./findings.mjs";
import { brief } from "./wording.mjs";

const ABOUT = { new: "taught", old: "old fact", stranger: "a stranger" };
const SPOKEN = text => (text === "" ? "(says nothing)" : text);

function card({ kind, prompt, right, lines }) {
  return make(
    "li",
    {},
    make(
      "p",
      { class: "asked" },
      prompt,
      make("span", { class: `chip ${kind}` }, ABOUT[kind] ?? "yours"),
    ),
    make(
      "dl",
      {},
      ...lines.flatMap(([when, text]) => {
        const good =
          right === null ? null : text.trim().toLowerCase() === right.trim().toLowerCase();
        return [
          make("dt", {}, when),
          make(
            "dd",
            {},
            make("code", {}, SPOKEN(text)),
            good === null
              ? null
              : make(
                  "span",
                  { class: good ? "good" : "bad" },
                  good ? "✓ right" : `✗ right: ${right}`,
                ),
          ),
        ];
      }),
    ),
  );
}

/**
 * A question of each group, with the answers at a run's first and its latest look: the first one
 * that was taught, the first old fact that is forgotten (if any), and the first stranger.
 */
export function threePrompts({ groups, looks }) {
  return groups.map((group, number) => {
    const marks = group.kind === "old" && looks.length ? [...looks.at(-1).marks[number]] : [];
    const place = Math.max(
      0,
      marks.findIndex(mark => mark !== "+"),
    );
    const [prompt, right] = group.questions[place] ?? ["", ""],
      lines = [];
    const answer = look => look.answers[number][place];
    if (looks.length) lines.push(["before", answer(looks[0])]);
    if (looks.length > 1) lines.push([`step ${looks.at(-1).step}`, answer(looks.at(-1))]);
    return { kind: group.kind, prompt, right, lines };
  });
}

/** `{ show(run), ready(run) }`; `engine` answers. */
export function prompts({ engine }) {
  const list = byId("prompts"),
    own = byId("own-prompt"),
    answer = byId("own-answer");
  const slider = byId("strength"),
    output = byId("strength-value"),
    line = byId("strength-scores");
  let run = null,
    seen = -1,
    cards = [];

  const strength = () => Number(slider.value);
  const draw = () => list.replaceChildren(...cards.map(card));

  async function ask(prompt, atStrength, ofRun) {
    const message =
      ofRun === null ? { prompt, strength: 1 } : { prompt, strength: atStrength, run: ofRun };
    return (await engine.request("ask", message)).text;
  }

  const apply = afterwards(120, async () => {
    if (!run?.id) return;
    const now = strength(),
      of = run;
    try {
      say(line, `asking at strength ${brief(now)} …`);
      const { scores } = await engine.request("strength", { run: of.id, strength: now });
      const texts = [];
      for (const one of cards) texts.push(await ask(one.prompt, now, of.id));
      if (of !== run || now !== strength()) return;
      cards = threePrompts(of).map((one, place) =>
        now === 1 ? one : { ...one, lines: [...one.lines, [`at ${brief(now, 3)}`, texts[place]]] },
      );
      draw();
      say(line, `At strength ${brief(now, 3)}: ${scoresInWords(scores, of.settings.task)}.`);
    } catch (error) {
      say(line, error.message);
    }
  });
  slider.addEventListener("input", () => {
    output.textContent = brief(strength(), 3);
    slider.setAttribute("aria-valuetext", `strength ${brief(strength(), 3)}`);
    apply();
  });

  byId("ask").addEventListener("submit", async event => {
    event.preventDefault();
    const prompt = own.value.trim(),
      of = run,
      now = strength();
    if (!prompt)
      return say(
        answer,
        make(
          "li",
          { class: "note" },
          "Write a question first, for example: Milin Fenby has which job?",
        ),
      );
    say(answer, make("li", { class: "note" }, "asking …"));
    try {
      const lines = [["base", await ask(prompt, 1, null)]];
      if (of?.id)
        lines.push([
          now === 1 ? "adapted" : `adapted, at ${brief(now, 3)}`,
          await ask(prompt, now, of.id),
        ]);
      say(answer, card({ kind: "own", prompt, right: null, lines }));
    } catch (error) {
      say(answer, make("li", { class: "error" }, error.message));
    }
  });

  return {
    show(next) {
      // while it trains
      if (run === next && next.looks.length === seen) return;
      run = next;
      seen = next.looks.length;
      cards = threePrompts(next);
      draw();
    },
    ready(next) {
      // its adapter can be asked; null: none can
      run = next ?? run;
      slider.disabled = !next?.id;
      slider.value = 1;
      output.textContent = "1";
      say(
        line,
        next?.id
          ? "Strength multiplies the adapter’s change: 0 is the base, 1 is what was trained."
          : "After a run, this slider turns the adapter down to 0 or up to 1.5.",
      );
    },
  };
}
