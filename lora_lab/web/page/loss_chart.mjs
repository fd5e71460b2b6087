// The loss by step: the run at hand, its other seeds as a band, and kept runs in grey.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { make } from "./elements.mjs";
import { axisEnd, smoothed, widthFor } from "./smoothing.mjs";
import { brief } from "./wording.mjs";

const HEIGHT = 240,
  LABEL = 12; // pixels: the chart, a line of text at a curve's end

/**
 * `{ show({ run, seeds, kept, steps }), redraw(), log(on) }`. A run is `{ label, losses }`.
 *
 * `seeds`: runs of the same settings with other seeds; `steps`: of the whole training.
 */
export function lossChart(place, readout) {
  let plot = null,
    shape = "",
    drawn = {},
    shown = { run: null, seeds: [], kept: [], steps: 100 },
    logarithmic = false;
  const colour = name => getComputedStyle(place).getPropertyValue(name).trim();

  function table({ run, seeds, kept, steps }) {
    // the lines from the back to the front
    const lines = [],
      all = [...kept, ...seeds, ...(run ? [run] : [])];
    const length = Math.max(1, steps, ...all.map(one => one.losses.length));
    const filled = values => Array.from({ length }, (_, at) => values[at] ?? null);
    const mean = one =>
      smoothed(
        one.losses,
        widthFor(one.losses.length < steps && one === run ? steps : one.losses.length),
      );
    kept.forEach((one, age) =>
      lines.push({
        values: filled(mean(one)),
        stroke: () => colour("--earlier"),
        width: 1.6,
        label: one.label,
        alpha: 1 - (0.5 * (kept.length - 1 - age)) / Math.max(1, kept.length),
      }),
    );
    if (seeds.length > 1) {
      const means = seeds.map(mean);
      const edge = pick =>
        filled(means[0].map((_, at) => pick(...means.map(each => each[at] ?? means[0][at]))));
      lines.push({ values: edge(Math.max), stroke: "transparent", width: 0, band: true });
      lines.push({ values: edge(Math.min), stroke: "transparent", width: 0 });
    }
    seeds.forEach(one =>
      lines.push({
        values: filled(mean(one)),
        stroke: () => colour("--run"),
        width: 1,
        label: one.label,
        alpha: 0.9,
      }),
    );
    if (run) {
      lines.push({
        values: filled(run.losses),
        stroke: () => colour("--run"),
        width: 1,
        alpha: 0.35,
      });
      lines.push({
        values: filled(mean(run)),
        stroke: () => colour("--run"),
        width: 2.4,
        label: run.label,
      });
    }
    const steady = Array.from({ length }, (_, at) => at + 1);
    return { lines, data: [steady, ...lines.map(line => line.values)] };
  }

  function options(drawn) {
    // drawn.lines: those of now; a plot keeps its own `drawn`
    const { lines } = drawn;
    const ink = () => colour("--ink-soft"),
      grid = () => colour("--grid");
    const axis = {
      stroke: ink,
      grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const values = () => drawn.lines.flatMap(line => line.values.filter(value => value > 0));
    const highest = () => Math.max(1e-3, ...values()),
      lowest = () => Math.min(1, ...values());
    const top = lines.findIndex(line => line.band) + 1;
    return {
      width: Math.max(240, place.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      padding: [8, place.clientWidth > 480 && lines.some(line => line.label) ? 118 : 12, 0, 0],
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: (_, low, high) => [0, high] },
        y: logarithmic
          ? {
              distr: 3,
              range: () => [
                10 ** Math.floor(Math.log10(lowest())),
                10 ** Math.ceil(Math.log10(highest())),
              ],
            }
          : { range: () => [0, axisEnd(highest())] },
      },
      axes: [
        {
          ...axis,
          incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
          label: "steps",
          labelSize: 20,
          size: 34,
          labelFont: axis.font,
        },
        {
          ...axis,
          label: "loss, nats per token",
          labelSize: 20,
          size: 48,
          labelFont: axis.font,
          values: (_, ticks) => ticks.map(tick => (tick === null ? "" : brief(tick, 3))),
        },
      ],
      series: [
        {},
        ...lines.map(line => ({
          stroke: line.stroke,
          width: line.width,
          alpha: line.alpha ?? 1,
          points: { show: false },
          spanGaps: false,
        })),
      ],
      bands: top ? [{ series: [top, top + 1], fill: () => colour("--band") }] : [],
      hooks: { draw: [chart => labels(chart, drawn.lines)], setCursor: [tell] },
    };
  }

  function labels(chart, lines) {
    // a curve's name at its end, moved apart where they would overlap
    if (chart.width <= 480) return;
    const scale = devicePixelRatio,
      found = [];
    lines.forEach((line, number) => {
      if (!line.label) return;
      const values = chart.data[number + 1];
      let last = values.length - 1;
      while (last >= 0 && values[last] === null) last -= 1;
      if (last < 0) return;
      const y = chart.valToPos(Math.max(values[last], 1e-9), "y", true);
      found.push({ line, y, x: chart.valToPos(chart.data[0][last], "x", true) });
    });
    found.sort((one, other) => one.y - other.y);
    const lowest = chart.bbox.top + chart.bbox.height;
    for (let at = found.length - 1, limit = lowest; at >= 0; at--) {
      found[at].y = Math.min(found[at].y, limit);
      limit = found[at].y - LABEL * scale * 1.15;
    }
    const pen = chart.ctx;
    pen.save();
    pen.font = `${LABEL * scale}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    for (const { line, x, y } of found) {
      pen.fillStyle = line.stroke();
      pen.fillText(line.label, x + 6 * scale, y);
    }
    pen.restore();
  }

  function tell(chart) {
    const at = chart.cursor.idx,
      { run } = shown;
    const value = at === null || at === undefined ? null : run?.losses[at];
    readout.textContent = Number.isFinite(value) ? `step ${at + 1}: loss ${brief(value, 3)}` : "";
  }

  function draw() {
    const { lines, data } = table(shown);
    const now = JSON.stringify([
      lines.map(line => [line.label, line.width]),
      logarithmic,
      place.clientWidth,
    ]);
    if (plot && now === shape) {
      drawn.lines = lines;
      return plot.setData(data);
    }
    plot?.destroy();
    drawn = { lines };
    plot = new uPlot(options(drawn), data, place);
    shape = now;
  }

  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) < 2) return;
    width = place.clientWidth;
    draw();
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw());
  place.setAttribute("role", "img");

  return {
    show(next, words) {
      shown = next;
      place.setAttribute("aria-label", words);
      draw();
    },
    log(on) {
      logarithmic = on;
      draw();
    },
  };
}

export const legendOf = (kept, seeds) =>
  make(
    "p",
    { class: "help" },
    "Thin: each step. Thick: the mean of the last steps.",
    kept.length ? " Grey: kept runs, the same mean." : "",
    seeds > 1 ? ` Band: from the lowest to the highest of ${seeds} seeds.` : " 1 seed.",
  );
