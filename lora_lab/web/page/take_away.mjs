// What a person takes away: the link, the code, the adapter; and links for a class.

import { zipSync, strToU8 } from "../vendor/fflate/browser.js";
import { byId, download, make, say } from "./elements.mjs";
import { labCode, peftCode } from "./peft_code.mjs";
import { linkOf, OWN, PARTS } from "./settings.mjs";

const FOLDER = "pocket-lora";

/** The files of an adapter as one zip that unpacks into a folder. */
export function zipped(files) {
  const entries = Object.entries(files).map(([name, content]) => [
    `${FOLDER}/${name}`,
    typeof content === "string" ? strToU8(content) : new Uint8Array(content),
  ]);
  return zipSync(Object.fromEntries(entries), { level: 0 }); // the numbers do not compress
}

/** `{ show(settings), ready(run) }`. */
export function takeAway({ base, engine }) {
  const code = byId("code"),
    link = byId("link"),
    said = byId("took"),
    save = byId("save");
  const forClass = byId("class-link"),
    boxes = byId("class-parts");
  let settings = null,
    run = null;

  const address = hidden => `${location.href.split("#")[0]}#${linkOf(settings, hidden, base)}`;
  const checked = () => [...boxes.querySelectorAll("input:checked")].map(box => box.value);
  const kind = () => document.querySelector("input[name=code]:checked").value;

  function show(next = settings) {
    settings = next;
    code.textContent = (kind() === "peft" ? peftCode : labCode)(settings, base);
    link.value = address([]);
    forClass.value = address(checked());
    byId("link-note").textContent =
      settings.task === OWN
        ? "The link holds the settings and the seed, but not your examples."
        : location.protocol === "file:"
          ? "This page is a file on your computer: the part after # works in every copy of it."
          : "";
  }

  async function copy(field, what) {
    const text = field.value ?? field.textContent;
    try {
      await navigator.clipboard.writeText(text);
      say(said, `${what} is in your clipboard.`);
    } catch {
      // a page from disk may not be allowed to: the text is then selected for Ctrl+C
      if (field.select) field.select();
      else getSelection().selectAllChildren(field);
      say(said, `Your browser keeps the clipboard to itself. ${what} is selected: press Ctrl+C.`);
    }
  }
  byId("copy-link").addEventListener("click", () => copy(link, "The link"));
  byId("copy-code").addEventListener("click", () => copy(code, "The code"));
  byId("copy-class-link").addEventListener("click", () => copy(forClass, "The link"));
  document
    .querySelectorAll("input[name=code]")
    .forEach(one => one.addEventListener("change", () => show()));
  boxes.replaceChildren(
    ...Object.entries(PARTS).map(([name, words]) =>
      make(
        "label",
        {},
        make("input", { type: "checkbox", value: name, onchange: () => show() }),
        words,
      ),
    ),
  );

  save.addEventListener("click", async () => {
    try {
      const { files } = await engine.request("adapter", { run: run.id });
      download(`${FOLDER}.zip`, zipped(files), "application/zip");
      say(said, `${FOLDER}.zip holds ${Object.keys(files).join(" and ")}.`);
    } catch (error) {
      say(said, error.message);
    }
  });

  return {
    show,
    ready(next) {
      run = next;
      save.disabled = !run?.id;
    },
  };
}
