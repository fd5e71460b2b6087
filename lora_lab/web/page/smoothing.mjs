// A curve's running mean, and where an axis ends.

/** The mean of each value and those before it, `width` in all: what the thick line shows. */
export function smoothed(values, width) {
  let sum = 0;
  return values.map((value, place) => {
    sum += value - (place >= width ? values[place - width] : 0);
    return sum / Math.min(place + 1, width);
  });
}

/** The number of steps that a mean is taken over, for so many steps. */
export const widthFor = steps => Math.max(1, Math.round(steps / 15));

/** The next of 1, 2, 5, 10, 20 … that is not below a value. */
export function axisEnd(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return power * ([1, 2, 5].find(one => one * power >= value * (1 - 1e-9)) ?? 10);
}
