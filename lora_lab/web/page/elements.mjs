// Elements of the page, made from plain values. Text goes in as text, never as HTML.

export const byId = name => document.getElementById(name);

/** An element: `make("p", { class: "note", "aria-hidden": "true", onclick }, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

/** Gives an element other children; does nothing to its focus if it already says the same. */
export function say(element, ...children) {
  const text = children.length === 1 && typeof children[0] === "string" ? children[0] : null;
  if (text !== null && element.textContent === text && !element.children.length) return;
  element.replaceChildren(...children);
}

/** Calls a function at most once in `pause` milliseconds, the last call always. */
export function sparingly(pause, work) {
  let timer = 0,
    latest = -Infinity;
  return () => {
    if (timer) return;
    timer = setTimeout(
      () => {
        timer = 0;
        latest = performance.now();
        work();
      },
      Math.max(0, latest + pause - performance.now()),
    );
  };
}

/** Runs `work` when `events` have been quiet for `pause` milliseconds. */
export function afterwards(pause, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(work, pause, ...given);
  };
}

/** Gives a file to the browser's downloads. */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
