// The LoRA picture: W, B, A and ΔW of a layer to scale, with sliders for r and for the step.
//
// A web page: `const picture = loraPicture(element, data, chosen)`, then `picture.update(data)`
// whenever the data have changed, and `picture.remove()`; `chosen(r)` is called when r was moved.
// The data are plain; a matrix is a Float32Array or a list, row by row:
//   module: name, shape: [out, in], r, largest (rank of the slider)
//   every:  2, if the matrices hold every second row and column of `out` and `in`; else 1
//   weight: W; start: A of the largest r as LoRA starts it (a smaller r has its first rows)
//   looks:  [{r, step, steps, scaling, A, B, values, change}] of trainings, one or none for each r;
//           values: ΔW's singular values, the largest first; change: the size of ΔW over W's
// In a notebook, anywidget calls `render`, at the end of this file.

const BLUE = "#0072B2", LIGHT_BLUE = "#56B4E9", GREY = "#8A8A8A"; // the light one on dark pages
const FRAME = 1000 / 30; // milliseconds
const HIGH = 250, HEAD = 40, GAP = 26, BARS = 150; // pixels: a matrix, above it, between two, values
const ROOM = { W: 58, B: 58, A: 58, "ΔW": 128 }; // pixels for the words above a matrix
const TYPICAL = 0.995; // of the numbers are not above the darkest shade

const STYLE = `
.lora-picture { color: var(--jp-ui-font-color1, inherit); font: 13px/1.4 system-ui, sans-serif;
  max-width: 900px; }
.lora-picture canvas { display: block; width: 100%; }
.lora-picture .bar { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 4px 0; }
.lora-picture label { display: flex; flex: 1; align-items: center; gap: 8px; min-width: 240px; }
.lora-picture input { flex: 1; min-width: 80px; margin: 0; accent-color: ${BLUE}; }
.lora-picture output { min-width: 5em; font-variant-numeric: tabular-nums; }
.lora-picture p { min-height: 2.8em; margin: 0; }`;

export function loraPicture(element, data, chosen = () => {}) {
  const root = make("div", { className: "lora-picture" });
  root.setAttribute("role", "group");
  const canvas = make("canvas"), said = make("p");
  canvas.setAttribute("role", "img");
  said.setAttribute("aria-live", "polite");
  const rank = control("r", "rank r"), step = control("step", "step of the training");
  const bar = make("div", { className: "bar" });
  bar.append(rank.label, step.label);
  root.append(make("style", { textContent: STYLE }), canvas, bar, said);
  element.append(root);
  for (const one of [rank.input, step.input]) {
    one.dataset.lmSuppressShortcuts = true; // JupyterLab would take the arrow keys for its cells
  }

  let r = data.r, at = Infinity, scales, maps = {}, places = [], pointed = null;
  let frame = 0, painted = 0, frames = 0;

  const looks = () => data.looks.filter(look => look.r === r);
  const look = () => looks()[Math.min(at, looks().length - 1)] ?? null;
  const rows = () => Math.ceil(data.shape[0] / data.every);
  const columns = () => Math.ceil(data.shape[1] / data.every);
  const numbers = r => r * (data.shape[0] + data.shape[1]);

  // --- the matrices: as they are shown now ---

  function matrices() {
    const now = look(), out = rows(), width = columns();
    const A = now ? now.A : data.start.slice(0, r * width);
    const B = now ? now.B : new Float32Array(out * r);
    const change = new Float32Array(out * width), scaling = now ? now.scaling : 1;
    for (let row = 0; row < out; row++) {
      for (let k = 0; k < r; k++) {
        const factor = scaling * B[row * r + k];
        if (!factor) continue;
        for (let column = 0; column < width; column++) {
          change[row * width + column] += factor * A[k * width + column];
        }
      }
    }
    return { A, B, change };
  }

  function shade(ink) { // each matrix as a picture of its own, a pixel for each number
    const { A, B, change } = matrices(), [out, width] = [rows(), columns()];
    const light = Math.min(...colourOf(ink)) > 127, blue = colourOf(light ? LIGHT_BLUE : BLUE);
    const old = maps.W?.ink === ink ? maps.W : null;
    maps = {
      W: old ?? { ...heat(data.weight, out, width, scales.large, colourOf(ink)), ink },
      B: heat(B, out, r, scales.small, blue),
      A: heat(A, r, width, scales.small, blue),
      "ΔW": heat(change, out, width, scales.large, blue),
    };
  }

  // --- what is drawn: at most 30 times a second, and only when something has changed ---

  function draw(now) {
    frame = 0;
    if (now - painted < FRAME - 4) return wake();
    painted = now;
    const ink = getComputedStyle(root).color;
    shade(ink);
    const [out, width] = data.shape, page = Math.max(320, root.clientWidth || 800);
    const sizes = { W: [width, out], B: [r, out], A: [width, r], "ΔW": [width, out] };
    const room = (name, unit) => GAP + Math.max(ROOM[name], sizes[name][0] * unit);
    const needed = unit => Object.keys(sizes).reduce((sum, name) => sum + room(name, unit), BARS + 8);
    let unit = HIGH / out; // pixels for a number, the same in all matrices
    while (needed(unit) > page && unit * out > 20) unit *= 0.97;
    const height = HEAD + unit * out + 4, scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(page * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const signs = { W: "+", B: "·", A: "", "ΔW": "" };
    let left = 1;
    places = Object.entries(sizes).map(([name, [wide, high]]) => {
      const box = [left, HEAD, Math.max(1, wide * unit), Math.max(1, high * unit)];
      pen.imageSmoothingEnabled = unit * data.every < 1;
      pen.drawImage(maps[name].canvas, ...box);
      pen.strokeStyle = GREY;
      pen.lineWidth = 1;
      pen.strokeRect(box[0] - 0.5, box[1] - 0.5, box[2] + 1, box[3] + 1);
      const factor = +(look()?.scaling ?? NaN).toPrecision(3) || "scaling";
      words(pen, ink, left, name === "ΔW" ? `ΔW = ${factor} · BA` : name, `${high} × ${wide}`);
      const middle = left + room(name, unit) - GAP / 2;
      pen.textAlign = "center";
      pen.font = "16px system-ui, sans-serif";
      pen.fillText(signs[name], middle, HEAD + Math.min(unit * out, 120) / 2 + 5);
      pen.textAlign = "left";
      left += room(name, unit);
      return { name, box };
    });
    drawValues(pen, ink, left, unit * out);
    frames += 1;
    canvas.dataset.frames = frames;
  }

  function words(pen, ink, left, name, rest) {
    pen.fillStyle = ink;
    pen.font = "600 13px system-ui, sans-serif";
    pen.fillText(name, left, 14);
    pen.font = "12px system-ui, sans-serif";
    pen.fillText(rest, left, 31);
  }

  function drawValues(pen, ink, left, high) {
    const values = look()?.values ?? Array(r).fill(0);
    const most = Math.max(...looks().flatMap(one => one.values), 0); // the axis stands still
    words(pen, ink, left, "ΔW’s singular values", most
      ? `the largest: ${values[0].toPrecision(3)}` : "all 0, since B is 0");
    const step = BARS / values.length;
    pen.fillStyle = BLUE;
    values.forEach((value, place) => {
      const size = most ? high * value / most : 0;
      pen.fillRect(left + place * step, HEAD + high - size, Math.max(1, step * 0.8), size);
    });
    pen.fillStyle = GREY;
    pen.fillRect(left, HEAD + high, BARS, 1);
  }

  const wake = () => { if (!frame) frame = requestAnimationFrame(draw); };

  // --- what is said ---

  function tell() {
    const now = look(), [out, width] = data.shape, all = looks();
    rank.input.max = data.largest;
    rank.input.min = 1;
    rank.input.value = r;
    rank.output.textContent = `r = ${r}`;
    rank.input.setAttribute("aria-valuetext", `r = ${r}: A and B hold ${thousands(numbers(r))} numbers`);
    step.label.style.visibility = all.length > 1 ? "visible" : "hidden";
    step.input.max = Math.max(0, all.length - 1);
    step.input.value = Math.min(at, all.length - 1);
    step.output.textContent = now ? `${now.step} of ${now.steps}` : "";
    step.input.setAttribute("aria-valuetext", now ? `step ${now.step} of ${now.steps}` : "");
    const share = 100 * numbers(r) / (out * width);
    const sizes = `W holds ${thousands(out * width)} numbers and is frozen. A and B hold ` +
      `${thousands(numbers(r))} (${share.toPrecision(2)} %).`;
    const state = !now ? `Nothing was trained at r = ${r} yet: B is 0, and so is ΔW = B · A.`
      : `Step ${now.step} of ${now.steps}: the size of ΔW = ${+now.scaling.toPrecision(3)} · B · A is ` +
        `${(100 * now.change).toPrecision(2)} % of W’s.`;
    const cell = pointed === null ? "" : ` ${pointed}`;
    const line = `${sizes} ${state}${cell}`;
    if (said.textContent !== line) said.textContent = line;
    root.setAttribute("aria-label", `The LoRA picture of ${data.module}`);
    canvas.setAttribute("aria-label", `W, B, A and ΔW of ${data.module} to scale. ${sizes} ${state}`);
  }

  const thousands = number => number.toLocaleString("en-US");

  // --- what a person does ---

  rank.input.addEventListener("input", () => {
    r = Number(rank.input.value);
    at = Infinity;
    pointed = null;
    chosen(r);
    tell();
    wake();
  });
  step.input.addEventListener("input", () => {
    at = Number(step.input.value);
    if (at >= looks().length - 1) at = Infinity; // goes on with what comes
    tell();
    wake();
  });
  canvas.addEventListener("pointermove", event => {
    const bounds = canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    const inside = places.find(({ box: [left, top, wide, high] }) =>
      x >= left && x < left + wide && y >= top && y < top + high);
    pointed = inside ? cellIn(inside, x, y) : null;
    tell();
  });
  canvas.addEventListener("pointerleave", () => { pointed = null; tell(); });

  function cellIn({ name, box: [left, top, wide, high] }, x, y) {
    const { canvas: map, numbers } = maps[name];
    const column = Math.floor((x - left) / wide * map.width);
    const row = Math.floor((y - top) / high * map.height);
    const ofRows = name === "A" ? 1 : data.every, ofColumns = name === "B" ? 1 : data.every;
    const value = numbers[row * map.width + column];
    return `${name}[${row * ofRows}, ${column * ofColumns}] = ${value.toPrecision(3)}`;
  }

  // --- what changes around it ---

  const themes = new MutationObserver(() => wake());
  for (const page of [document.documentElement, document.body]) {
    themes.observe(page, { attributes: true });
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", wake);
  const sizes = new ResizeObserver(() => wake());
  sizes.observe(root);

  function update(newData) {
    if (newData.r !== r) at = Infinity;
    r = newData.r;
    data = newData;
    scales ??= { large: typical(data.weight), small: typical(data.start) };
    tell();
    wake();
  }
  update(data);

  return {
    update,
    remove() {
      cancelAnimationFrame(frame);
      themes.disconnect();
      sizes.disconnect();
      dark.removeEventListener("change", wake);
      root.remove();
    },
  };
}

function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function control(word, name) {
  const label = make("label"), input = make("input", { type: "range", min: 0, max: 0, step: 1 });
  const output = make("output");
  input.setAttribute("aria-label", name);
  label.append(word, input, output);
  return { label, input, output };
}

function colourOf(text) { // "#0072B2" or "rgb(1, 2, 3)" as three numbers
  const pen = make("canvas").getContext("2d");
  pen.fillStyle = text;
  const hex = pen.fillStyle;
  if (!hex.startsWith("#")) return hex.match(/[\d.]+/g).slice(0, 3).map(Number);
  return [1, 3, 5].map(place => parseInt(hex.slice(place, place + 2), 16));
}

function typical(numbers) { // the size that nearly no number exceeds: it has the darkest shade
  const sizes = Float32Array.from(numbers, Math.abs).sort();
  return sizes[Math.min(sizes.length - 1, Math.floor(TYPICAL * sizes.length))] || 1;
}

function heat(numbers, rows, columns, largest, [red, green, blue]) { // 0 is blank: what lies behind
  const canvas = make("canvas", { width: columns, height: rows });
  const image = new ImageData(columns, rows), pixels = new DataView(image.data.buffer);
  const colour = (red * 2 ** 24) + (green << 16) + (blue << 8);
  for (let place = 0; place < rows * columns; place++) {
    const size = Math.sqrt(Math.min(1, Math.abs(numbers[place]) / largest));
    pixels.setUint32(4 * place, colour + Math.round(255 * size));
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, numbers };
}

function render({ model, el }) {
  const matrix = bytes => new Float32Array(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const names = ["module", "shape", "every", "r", "largest", "looks", "weight", "start"];
  const weight = matrix(model.get("weight")), start = matrix(model.get("start"));
  const unpacked = new WeakMap(); // a look's bytes are turned into numbers once
  const read = look => {
    if (!unpacked.has(look.A)) {
      unpacked.set(look.A, { ...look, A: matrix(look.A), B: matrix(look.B) });
    }
    return unpacked.get(look.A);
  };
  const data = () => {
    const plain = Object.fromEntries(names.map(name => [name, model.get(name)]));
    return { ...plain, weight, start, looks: plain.looks.map(read) };
  };
  const picture = loraPicture(el, data(), r => { model.set("r", r); model.save_changes(); });
  const update = () => picture.update(data());
  model.on("change:looks", update);
  model.on("change:r", update);
  return () => {
    model.off("change:looks", update);
    model.off("change:r", update);
    picture.remove();
  };
}

export default { render };
