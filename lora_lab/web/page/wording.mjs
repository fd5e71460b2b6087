// Numbers and counts in words, as all parts of the page write them.

/** `12,345`. */
export const thousands = number => number.toLocaleString("en-US");

/** A number with a few significant digits, without an exponent where one can be avoided. */
export function brief(number, digits = 2) {
  if (!Number.isFinite(number)) return String(number);
  if (number !== 0 && Math.abs(number) < 1e-4) return number.toExponential(digits - 1);
  return Math.abs(number) >= 1000
    ? thousands(Math.round(number))
    : String(Number(number.toPrecision(digits)));
}

/** `1 step`, `3 steps`. */
export const counted = (number, noun, nouns = `${noun}s`) =>
  `${thousands(number)} ${number === 1 ? noun : nouns}`;

/** `a, b and c`. */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** `4 s`, `2 min 5 s`. */
export function duration(seconds) {
  if (seconds < 10) return `${brief(seconds, 2)} s`;
  const whole = Math.round(seconds);
  return whole < 90 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** `58 of 60`. */
export const share = ({ right, n }) => `${thousands(right)} of ${thousands(n)}`;

/** The text, or its beginning if it is longer than a quotation should be. */
export const quoted = text => (text.length > 40 ? `“${text.slice(0, 40)}…”` : `“${text}”`);
