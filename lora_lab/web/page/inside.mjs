// What LoRA changes in a module: the picture of W, B, A and ΔW, while the run goes on.

import { loraPicture } from "../../widgets/lora_picture.js";
import { byId, make, say, sparingly } from "./elements.mjs";
import { singularValues } from "./singular_values.mjs";

const LOOKS = 40,
  PAUSE = 200; // looks of a run that are kept; milliseconds between two
const size = numbers => Math.sqrt(numbers.reduce((sum, value) => sum + value * value, 0));

/** A message with matrices as a look of the picture, given the size of W. */
export function lookOf({ step, A, B, scaling }, r, steps, sizeOfW) {
  const values = singularValues(A, B, r, scaling);
  return { r, step, steps, scaling, A, B, values, change: size(values) / sizeOfW };
}

/** `{ begin(run), hear(message) }`: the picture of the module that a person has chosen. */
export function inside({ base, engine }) {
  const select = byId("watched"),
    place = byId("picture"),
    note = byId("picture-note");
  let weight = null,
    picture = null,
    run = null,
    looks = [],
    start = null,
    latest = null;

  select.replaceChildren(
    ...base.modules.map(one =>
      make("option", { value: one.name }, `layer ${one.layer}, ${one.kind}`),
    ),
  );
  const usual =
    base.modules.find(one => one.kind === "v_proj" && one.layer === 1) ?? base.modules[0];
  select.value = usual.name;

  function draw() {
    if (!weight || !start || weight.module !== select.value) return;
    const { r } = run.settings;
    const data = {
      module: select.selectedOptions[0].textContent,
      shape: weight.shape,
      r,
      largest: r,
      every: 1,
      weight: weight.W,
      start,
      looks,
    };
    if (picture) picture.update(data);
    else {
      picture = loraPicture(place, data);
      place.hidden = false;
    }
    say(
      note,
      place.scrollWidth > place.clientWidth ? "Scroll the picture sideways to see all of it." : "",
    );
  }

  function clear() {
    picture?.remove();
    picture = null;
    looks = [];
    start = latest = null;
    place.hidden = true;
  }

  async function watch() {
    clear();
    const module = select.value;
    say(note, idle());
    try {
      const message = await engine.request("weight", { module });
      if (module !== select.value) return;
      weight = { ...message, size: size(message.W) };
      engine.tell("watch", { module }); // from now on, its matrices come
    } catch (error) {
      say(note, error.message);
    }
  }
  select.addEventListener("change", watch);

  function idle() {
    if (!run) return "Press Train: this picture fills while the model learns.";
    return run.settings.modules.includes(select.value)
      ? ""
      : "This module has no adapter in this run. Choose another, or add it to the target modules.";
  }

  const take = sparingly(PAUSE, () => {
    if (!latest || !weight) return;
    start ??= latest.A;
    const { steps, r } = run.settings,
      every = Math.ceil(steps / LOOKS);
    const last = looks.at(-1),
      next = lookOf(latest, r, steps, weight.size);
    if (last && last.step - (looks.at(-2)?.step ?? -every) < every) looks = looks.slice(0, -1);
    looks = [...looks.filter(look => look.step < next.step), next];
    latest = null;
    draw();
  });

  function hear(message) {
    if (message.type !== "matrices" || !run?.settings.modules.includes(select.value)) return;
    const own = message.modules.find(one => one.name === select.value);
    if (!own || message.r !== run.settings.r) return;
    latest = { ...own, step: message.step, scaling: message.scaling };
    take();
  }

  return {
    hear,
    watch,
    begin(next) {
      run = next;
      clear();
      say(note, idle());
    },
  };
}
