// Answers in JSON, field by field: lab.evaluate's "field F1". Numbers are JavaScript's: 1.0 is 1.

// A JSON object's fields, key and value as one text each; null for anything else.
export function jsonFields(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return null;
  return new Set(Object.entries(value).map(([key, field]) => JSON.stringify([key, sorted(field)])));
}

// F1 over all fields of all [expected, given] pairs; an answer that is no JSON object has no fields.
export function fieldF1(pairs) {
  let hits = 0, fields = 0;
  for (const pair of pairs) {
    const [right, answered] = pair.map(text => jsonFields(text) ?? new Set());
    for (const field of answered) hits += right.has(field);
    fields += right.size + answered.size;
  }
  return fields ? 2 * hits / fields : 0;
}

// The same value with the keys of its objects in order.
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).map(([key, field]) => [key, sorted(field)]);
  return Object.fromEntries(entries.sort(([one], [other]) => (one < other ? -1 : 1)));
}
