// A person's own examples: pasted, dropped or chosen as a file. They stay in this page.

import { byId, make, say } from "./elements.mjs";
import { counted } from "./wording.mjs";

const BIGGEST = 2_000_000; // characters of a file: 200 rows need far fewer
const LEAST = 4; // rows that the engine can train and test with
const SHOWN = 5; // rows that are named at most

/** Calls `taken(examples)` once a text has passed the engine's check. */
export function ownExamples({ engine, taken }) {
  const text = byId("csv"),
    file = byId("csv-file"),
    said = byId("csv-said");

  async function check() {
    say(said, make("p", {}, "reading …"));
    try {
      const {
        examples,
        dropped = [],
        error,
      } = await engine.request("check_csv", { text: text.value });
      if (error) return say(said, make("p", { class: "error" }, error));
      const left = dropped
        .slice(0, SHOWN)
        .map(({ row, reason }) => make("li", {}, `row ${row}: ${reason}`));
      if (dropped.length > SHOWN) left.push(make("li", {}, `and ${dropped.length - SHOWN} more`));
      const enough = examples.length >= LEAST;
      const found = `${counted(examples.length, "example")} can be used`;
      say(
        said,
        enough
          ? make("p", {}, `${found}. The task is now “my own examples”: press Train.`)
          : make("p", { class: "error" }, `${found}, and it takes ${LEAST} to train and to test.`),
        ...(dropped.length
          ? [make("p", {}, `${counted(dropped.length, "row")} left out:`), make("ul", {}, ...left)]
          : []),
      );
      if (enough) taken(examples);
    } catch (error) {
      say(said, make("p", { class: "error" }, error.message));
    }
  }

  async function read(chosen) {
    if (!chosen) return;
    if (chosen.size > BIGGEST) {
      return say(
        said,
        make(
          "p",
          { class: "error" },
          `${chosen.name} has ${counted(chosen.size, "byte")}, and this page takes 200 rows. Give a smaller file.`,
        ),
      );
    }
    try {
      text.value = new TextDecoder("utf-8", { fatal: true }).decode(await chosen.arrayBuffer());
    } catch {
      return say(
        said,
        make(
          "p",
          { class: "error" },
          `${chosen.name} is not text in UTF-8. Save it as “CSV UTF-8”, and give it again.`,
        ),
      );
    }
    await check();
  }

  byId("csv-check").addEventListener("click", check);
  file.addEventListener("change", () => read(file.files[0]));
  text.addEventListener("dragover", event => {
    event.preventDefault();
    text.classList.add("over");
  });
  text.addEventListener("dragleave", () => text.classList.remove("over"));
  text.addEventListener("drop", event => {
    text.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    read(event.dataTransfer.files[0]);
  });
}
