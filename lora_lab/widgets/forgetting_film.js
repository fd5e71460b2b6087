// The forgetting film: a dot for each question, which changes while a model is trained.
//
// A web page: `const film = forgettingFilm(element, data)`, then `film.update(data)` whenever the
// data have grown, and `film.remove()`. The data are plain:
//   groups: [{name: "new facts", kind: "new" | "old" | "stranger", questions: [[prompt, answer]]}]
//   looks:  [{step: 0, answers: [[text]], marks: ["+-?"]}], one list and one text for each group;
//           "+" right, "-" wrong, "?" says "not known" where that is wrong. Step 0 is the base.
//   steps:  of the whole training
// In a notebook, anywidget calls `render`, at the end of this file.

const COLOURS = { new: "#009E73", old: "#CC79A7", stranger: "#8A8A8A" };
const RIGHT = { new: "right", old: "right", stranger: "“not known”" };
const SHAPES = { "+": [1, 1], "-": [0, 1], "?": [0.4, 0.3], " ": [0, 0.25] }; // filled, ring
const FADE = 400, FRAME = 1000 / 30, PAUSE = 600; // milliseconds: a change, a frame, a replayed look
const HEAD = 40, GAP = 20; // pixels: above the dots, between groups
const KEYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

const STYLE = `
.forgetting-film { color: var(--jp-ui-font-color1, inherit); font: 13px/1.4 system-ui, sans-serif;
  max-width: 760px; }
.forgetting-film canvas { display: block; width: 100%; border-radius: 4px; cursor: default; }
.forgetting-film canvas:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; }
.forgetting-film .bar { display: flex; align-items: center; gap: 10px; margin: 4px 0; }
.forgetting-film .bar label { display: flex; flex: 1; align-items: center; gap: 8px; }
.forgetting-film .bar input { flex: 1; min-width: 80px; margin: 0; accent-color: #0072B2; }
.forgetting-film .bar button { font: inherit; color: inherit; background: none; cursor: pointer;
  border: 1px solid #8A8A8A; border-radius: 3px; padding: 1px 10px; }
.forgetting-film .bar button:disabled { opacity: 0.5; cursor: default; }
.forgetting-film output { min-width: 8.5em; font-variant-numeric: tabular-nums; }
.forgetting-film .said { min-height: 4.2em; margin: 0; white-space: pre-line; }
.forgetting-film .key { opacity: 0.75; margin: 0 0 2px; }`;

export function forgettingFilm(element, data) {
  const root = make("div", { className: "forgetting-film", role: "group" });
  root.setAttribute("aria-label", "The forgetting film");
  const canvas = make("canvas", { tabIndex: 0, role: "application" });
  const slider = make("input", { type: "range", min: 0, max: 0, step: 1, value: 0 });
  slider.setAttribute("aria-label", "step of the training");
  const output = make("output"), replay = make("button", { textContent: "Replay" });
  const key = make("p", { className: "key" }), said = make("p", { className: "said" });
  key.textContent = "● right   ○ wrong   • says “not known” (for a stranger, that is right: ●)";
  said.setAttribute("aria-live", "polite");
  const label = make("label"), bar = make("div", { className: "bar" });
  label.append("step", slider, output);
  bar.append(label, replay);
  root.append(make("style", { textContent: STYLE }), canvas, bar, key, said);
  element.append(root);
  for (const one of [canvas, slider, replay]) {
    one.dataset.lmSuppressShortcuts = true; // JupyterLab would take the arrow keys for its cells
  }

  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let dots = [], layout = null, focus = null, before = [], changed = -Infinity;
  let frame = 0, painted = 0, timer = 0, frames = 0;

  const last = () => data.looks.length - 1;
  const shown = () => Math.min(Number(slider.value), last());
  const mark = (dot, look) => data.looks[look]?.marks[dot.group][dot.place] ?? " ";
  const count = (group, look) => [...(data.looks[look]?.marks[group] ?? "")]
    .filter(one => one === "+").length;

  function inWords(look) {
    if (look < 0) return "nothing has been asked yet";
    const parts = data.groups.map((group, number) =>
      `${group.name} ${count(number, look)} of ${group.questions.length} ${RIGHT[group.kind]}`);
    return `step ${data.looks[look].step} of ${data.steps}: ${parts.join(", ")}`;
  }

  // --- where the dots are ---

  function arrange() {
    const width = Math.max(260, root.clientWidth || 700), groups = data.groups.length || 1;
    const most = Math.max(1, ...data.groups.map(group => group.questions.length));
    const room = (width - GAP * (groups - 1)) / groups;
    const columns = Math.max(1, Math.min(most, Math.round(Math.sqrt(most * 2))));
    const pitch = Math.min(26, room / columns), rows = Math.ceil(most / columns);
    dots = data.groups.flatMap((group, number) => group.questions.map((_, place) => ({
      group: number, place, column: place % columns, row: Math.floor(place / columns),
      x: number * (room + GAP) + pitch * (place % columns + 0.5),
      y: HEAD + pitch * (Math.floor(place / columns) + 0.5),
    })));
    layout = { width, height: HEAD + pitch * rows + 2, room, radius: pitch * 0.36, columns, rows };
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(layout.height * scale);
    canvas.style.height = `${layout.height}px`;
    if (focus !== null) focus = Math.min(focus, dots.length - 1);
  }

  // --- what is drawn: at most 30 times a second, and only while something changes ---

  function draw(now) {
    frame = 0;
    if (now - painted < FRAME - 4) return wake();
    painted = now;
    frames += 1;
    const part = still.matches ? 1 : Math.min(1, (now - changed) / FADE), look = shown();
    const pen = canvas.getContext("2d"), scale = canvas.width / layout.width;
    const ink = getComputedStyle(root).color;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, layout.width, layout.height);
    data.groups.forEach((group, number) => heading(pen, ink, group, number, look));
    dots.forEach((dot, place) => drawDot(pen, ink, dot, place, look, part));
    canvas.dataset.frames = frames;
    if (part < 1) wake();
  }

  function heading(pen, ink, group, number, look) {
    const x = number * (layout.room + GAP);
    const was = look > 0 ? `${count(number, 0)} → ` : "";
    const right = `${was}${count(number, look)} of ${group.questions.length} ${RIGHT[group.kind]}`;
    pen.textBaseline = "alphabetic";
    pen.fillStyle = ink;
    pen.font = "600 13px system-ui, sans-serif";
    pen.fillText(group.name, x, 14);
    pen.font = "12px system-ui, sans-serif";
    pen.fillText(look < 0 ? "not asked yet" : right, x, 31, layout.room); // squeezed, if need be
  }

  function drawDot(pen, ink, dot, place, look, part) {
    const now = mark(dot, look), from = SHAPES[before[place] ?? now], to = SHAPES[now];
    const mix = number => from[number] + (to[number] - from[number]) * part;
    const colour = COLOURS[data.groups[dot.group].kind], radius = layout.radius;
    const circle = size => { pen.beginPath(); pen.arc(dot.x, dot.y, size, 0, 2 * Math.PI); };
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = 1.3;
    pen.globalAlpha = mix(1);
    circle(radius);
    pen.stroke();
    pen.globalAlpha = 1;
    if (mix(0) > 0.02) { circle(radius * mix(0)); pen.fill(); }
    if (part < 1 && from[0] === 1 && to[0] < 1) { // a light goes out
      pen.globalAlpha = 1 - part;
      circle(radius * (1 + 0.7 * part));
      pen.stroke();
      pen.globalAlpha = 1;
    }
    if (place === focus) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      circle(radius + 3);
      pen.stroke();
    }
  }

  const wake = () => { if (!frame) frame = requestAnimationFrame(draw); };

  // --- what is said ---

  function tell() {
    const look = shown();
    slider.setAttribute("aria-valuetext", inWords(look));
    canvas.setAttribute("aria-label", `A dot for each question. ${inWords(look)}. Arrow keys ` +
      "move over the dots.");
    output.textContent = look < 0 ? "" : `${data.looks[look].step} of ${data.steps}`;
    replay.disabled = last() < 1;
    if (focus === null || !dots[focus]) {
      said.textContent = "Point at a dot, or move over the dots with the arrow keys: you see the " +
        "question, and the answers before training and now.";
      return;
    }
    const dot = dots[focus], group = data.groups[dot.group];
    const [prompt, expected] = group.questions[dot.place];
    const answer = number => {
      if (!data.looks[number]) return "not asked yet";
      const text = data.looks[number].answers[dot.group][dot.place] || "(says nothing)";
      return mark(dot, number) === "+" ? `${text} ✓` : `${text} ✗ (right: ${expected})`;
    };
    const step = data.looks[look]?.step ?? 0;
    said.textContent = `${prompt}\nbefore: ${answer(0)}\n` +
      (step ? `step ${step}: ${answer(look)}` : "");
  }

  function choose(place) {
    focus = place;
    tell();
    wake();
  }

  function go(look) { // show another look; the dots move there from where they are
    before = dots.map(dot => mark(dot, shown()));
    slider.value = look;
    changed = performance.now();
    tell();
    wake();
  }

  // --- what a person does ---

  let at = 0; // the look that the slider stood at
  slider.addEventListener("input", () => {
    stop();
    const look = Number(slider.value);
    slider.value = at;
    go(look);
    at = look;
  });
  canvas.addEventListener("pointermove", event => {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const place = dots.findIndex(dot => Math.hypot(dot.x - x, dot.y - y) < layout.radius * 1.4);
    if (place >= 0 && place !== focus) choose(place);
  });
  canvas.addEventListener("focus", () => { if (focus === null && dots.length) choose(0); });
  canvas.addEventListener("keydown", event => {
    const move = KEYS[event.key];
    if (!move || focus === null || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const dot = dots[focus], { columns } = layout, across = dot.group * columns + dot.column;
    const column = across + move[0], row = dot.row + move[1];
    const group = Math.floor(column / columns);
    const place = dots.findIndex(other => other.group === group && other.row === row &&
      other.column === column - group * columns);
    if (place >= 0) choose(place);
  });
  replay.addEventListener("click", () => {
    stop();
    go(at = 0);
    timer = setInterval(() => (at < last() ? go(at += 1) : stop()), PAUSE);
  });
  const stop = () => clearInterval(timer);

  // --- what changes around it ---

  const repaint = () => wake();
  const themes = new MutationObserver(repaint);
  for (const page of [document.documentElement, document.body]) {
    themes.observe(page, { attributes: true });
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", repaint);
  const sizes = new ResizeObserver(() => {
    if (layout && Math.abs(root.clientWidth - layout.width) < 1) return;
    arrange();
    wake();
  });
  sizes.observe(root);

  function update(newData) {
    const wasLast = at >= last(), again = newData.looks.length <= data.looks.length;
    const old = dots.map(dot => mark(dot, shown()));
    data = newData;
    slider.max = Math.max(0, last());
    if (again || wasLast) at = Math.max(0, last()); // a reader who looks back stays there
    slider.value = at;
    arrange();
    before = old;
    changed = performance.now();
    tell();
    wake();
  }
  update(data);

  return {
    update,
    remove() {
      stop();
      cancelAnimationFrame(frame);
      themes.disconnect();
      sizes.disconnect();
      dark.removeEventListener("change", repaint);
      root.remove();
    },
  };
}

function make(name, properties = {}) {
  const { role, ...rest } = properties, element = Object.assign(document.createElement(name), rest);
  if (role) element.setAttribute("role", role);
  return element;
}

function render({ model, el }) {
  const data = () => Object.fromEntries(
    ["groups", "looks", "steps"].map(name => [name, model.get(name)]));
  const film = forgettingFilm(el, data());
  const update = () => film.update(data());
  model.on("change:looks", update);
  return () => { model.off("change:looks", update); film.remove(); };
}

export default { render };
