// The target modules as a grid to click: a row for each layer, a column for each kind of module.

import { make } from "./elements.mjs";
import { trainedParameters } from "./modules.mjs";
import { thousands } from "./wording.mjs";

const PRESETS = [
  ["all", () => true],
  ["q and v", one => ["q_proj", "v_proj"].includes(one.kind)],
  ["attention", one => /^[qkvo]_proj$/.test(one.kind)],
  ["MLP", one => !/^[qkvo]_proj$/.test(one.kind)],
];

/** `{ element, show(names, r) }`. `chosen(names)` is called when a person has changed the set. */
export function moduleGrid(base, chosen) {
  const all = base.modules,
    layers = [...new Set(all.map(one => one.layer))];
  const kinds = [...new Set(all.map(one => one.kind))];
  let names = [];
  const count = make("p", { class: "help", id: "module-count" });
  const cells = new Map();

  const pick = test => () => {
    const group = all.filter(test).map(one => one.name);
    const full = group.every(name => names.includes(name));
    const next = full ? names.filter(name => !group.includes(name)) : [...names, ...group];
    chosen(all.map(one => one.name).filter(name => next.includes(name)));
  };
  const only = test => () => chosen(all.filter(test).map(one => one.name));

  const head = make(
    "tr",
    {},
    make("td"),
    ...kinds.map(kind =>
      make(
        "th",
        { scope: "col" },
        make(
          "button",
          {
            type: "button",
            title: `${kind} of every layer`,
            "aria-label": `${kind}, all layers`,
            onclick: pick(one => one.kind === kind),
          },
          kind.replace("_proj", ""),
        ),
      ),
    ),
  );
  const rows = layers.map(layer =>
    make(
      "tr",
      {},
      make(
        "th",
        { scope: "row" },
        make(
          "button",
          {
            type: "button",
            title: `every module of layer ${layer}`,
            "aria-label": `layer ${layer}, all modules`,
            onclick: pick(one => one.layer === layer),
          },
          String(layer),
        ),
      ),
      ...kinds.map(kind => {
        const one = all.find(each => each.layer === layer && each.kind === kind);
        if (!one) return make("td");
        const cell = make("button", {
          type: "button",
          class: "cell",
          "aria-label": `layer ${layer}, ${kind}`,
          title: `layer ${layer}, ${kind}: ${one.in} → ${one.out}`,
          onclick: pick(each => each === one),
          onkeydown: move,
        });
        cells.set(one.name, cell);
        return make("td", {}, cell);
      }),
    ),
  );

  function move(event) {
    // arrow keys walk over the cells
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -kinds.length, ArrowDown: kinds.length }[
      event.key
    ];
    if (!step) return;
    event.preventDefault();
    const every = [...cells.values()];
    every[every.indexOf(event.currentTarget) + step]?.focus();
  }

  const element = make(
    "fieldset",
    { class: "modules", "data-part": "modules", "aria-describedby": "module-count" },
    make("legend", {}, "target modules"),
    make(
      "p",
      { class: "presets" },
      ...PRESETS.map(([name, test]) =>
        make("button", { type: "button", onclick: only(test) }, name),
      ),
    ),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
    count,
  );

  function show(set, r) {
    names = set;
    for (const [name, cell] of cells) cell.setAttribute("aria-pressed", String(set.includes(name)));
    const trained = trainedParameters(set, all, r);
    count.textContent =
      `${set.length} of ${all.length} modules, ${thousands(trained)} trained ` +
      `parameters (${((100 * trained) / base.parameters).toPrecision(2)} % of the model’s)`;
    count.classList.toggle("error", !set.length);
  }
  return { element, show };
}
