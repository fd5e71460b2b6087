// Kept runs in a plane: what they learnt against the old facts that they kept.

import { brief } from "./wording.mjs";

const WIDE = 340,
  HIGH = 230,
  LEFT = 46,
  BELOW = 40,
  ABOVE = 14,
  RIGHT = 14,
  NEAR = 12; // pixels
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const percent = score => (100 * score.right) / score.n;

/** A point for each run, `{ name, number, test, old }` with its scores; the top right is best. */
export function tradeOff(points) {
  const least = Math.min(...points.map(point => percent(point.old)));
  const start = Math.min(80, 10 * Math.floor(least / 10)); // where the axis of the old facts begins
  const x = value => LEFT + ((WIDE - LEFT - RIGHT) * (value - start)) / (100 - start);
  const y = value => HIGH - BELOW - ((HIGH - ABOVE - BELOW) * value) / 100;
  const words = points.map(
    ({ name, test, old }) =>
      `${name}: ${brief(percent(test), 3)} % learnt, ${brief(percent(old), 3)} % of the old facts kept`,
  );
  const picture = draw("svg", {
    viewBox: `0 0 ${WIDE} ${HIGH}`,
    role: "img",
    class: "trade-off",
    "aria-label": words.join("; "),
  });
  for (const value of [0, 50, 100]) {
    picture.append(
      draw("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
    );
  }
  for (const value of [start, (start + 100) / 2, 100]) {
    picture.append(
      draw("line", { x1: x(value), x2: x(value), y1: y(0), y2: y(100), class: "grid" }),
      draw("text", { x: x(value), y: HIGH - BELOW + 16, "text-anchor": "middle" }, String(value)),
    );
  }
  picture.append(
    draw(
      "text",
      { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 6, "text-anchor": "middle" },
      "old facts still right, %",
    ),
    draw(
      "text",
      {
        x: 12,
        y: (y(0) + y(100)) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 12 ${(y(0) + y(100)) / 2})`,
      },
      "learnt, %",
    ),
  );
  points.forEach(({ number, test, old }, at) => {
    const left = x(percent(old)),
      top = y(percent(test));
    picture.append(draw("circle", { cx: left, cy: top, r: 5 }));
    if (points.findIndex(point => point.number === number) < at) return; // another seed: named once
    const below = top + (top < NEAR * 2 ? NEAR : 4);
    const place = { x: left - NEAR, y: below, "text-anchor": "middle", class: "name" };
    picture.append(draw("text", place, String(number)));
  });
  return picture;
}
