// White space as Python has it: unlike JavaScript's, without U+FEFF, and with U+001C to U+001F.

const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a"
  + "\\u2028\\u2029\\u202f\\u205f\\u3000]";
const ENDS = new RegExp(`^${SPACE}+|${SPACE}+$`, "gu"), BETWEEN = new RegExp(`${SPACE}+`, "u");

export const strip = text => text.replace(ENDS, "");
export const words = text => text.split(BETWEEN).filter(Boolean);
