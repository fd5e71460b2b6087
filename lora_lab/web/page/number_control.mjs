// A number to choose: a slider over usual values, and a box for any other.

import { make } from "./elements.mjs";
import { NUMBERS, numberFrom } from "./settings.mjs";

/** `{ element, show(value) }`. `chosen(value)` is called when a person has chosen another. */
export function numberControl(name, { label, help, chosen }) {
  const { stops } = NUMBERS[name],
    id = `setting-${name}`;
  const box = make("input", {
    id,
    type: "text",
    inputmode: "decimal",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": `${id}-help ${id}-error`,
  });
  const slider =
    stops &&
    make("input", {
      type: "range",
      min: 0,
      max: stops.length - 1,
      step: 1,
      "aria-label": `${label}, usual values`,
    });
  const error = make("p", { class: "error", id: `${id}-error`, hidden: true });
  const element = make(
    "div",
    { class: "setting", "data-part": name },
    make("label", { for: id }, label),
    box,
    slider ?? "",
    make("p", { class: "help", id: `${id}-help` }, help),
    error,
  );

  function show(value) {
    box.value = String(value);
    box.removeAttribute("aria-invalid");
    error.hidden = true;
    if (!slider) return;
    const distances = stops.map(stop => Math.abs(Math.log(stop / value)));
    slider.value = distances.indexOf(Math.min(...distances));
    slider.setAttribute("aria-valuetext", String(value));
  }

  slider?.addEventListener("input", () => {
    const value = stops[Number(slider.value)];
    show(value);
    chosen(value);
  });
  box.addEventListener("change", () => {
    try {
      const value = numberFrom(name, box.value.replace(",", "."));
      show(value);
      chosen(value);
    } catch (problem) {
      box.setAttribute("aria-invalid", "true");
      error.textContent = `${problem.message}. Until then, the last good value is used.`;
      error.hidden = false;
    }
  });
  return { element, show };
}
