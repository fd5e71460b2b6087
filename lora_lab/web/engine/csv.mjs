// A person's own rows as text: prompts and answers in columns, separated by commas, semicolons or tabs.

import { strip } from "./text.mjs";

const HEADINGS = { // names of columns that are recognised
  prompt: ["prompt", "question", "input", "instruction", "text"],
  answer: ["answer", "response", "output", "completion", "label"],
};
const MOST = 200; // rows
const OPEN = "A quotation mark is opened and never closed; close it, or write it twice.";
const NONE = "No row can be used; the reasons stand beside them.";

// {examples, dropped: [{row, reason}], error}: rows are counted from 1, the heading included.
export function readCsv(text, fits = () => null) {
  const rows = parseRows(text.replace(/^\ufeff/, ""));
  if (rows === null) return failed(OPEN);
  const used = rows.filter(({ cells }) => cells.some(strip));
  if (!used.length) return failed("There is no row; give a prompt and its answer in each.");
  const columns = columnsOf(used[0].cells);
  if (used.every(({ cells }) => cells.length < 2)) {
    return failed("Each row has one column; give a prompt and its answer, separated by a comma.");
  }
  const examples = [], dropped = [], known = new Map();
  for (const { cells, row } of columns.heading ? used.slice(1) : used) {
    const prompt = strip(cells[columns.prompt] ?? "");
    const answer = strip(cells[columns.answer] ?? "");
    let reason = null;
    if (!prompt) reason = "it has no prompt";
    else if (!answer) reason = "it has no answer";
    else if (known.has(prompt)) {
      const { row: first, answer: before } = known.get(prompt);
      const other = before === answer ? "" : ", with another answer";
      reason = `its prompt stands in row ${first} already${other}`;
    } else if (examples.length === MOST) reason = `the first ${MOST} rows are taken`;
    else reason = fits({ prompt, answer });
    if (reason) dropped.push({ row, reason });
    else {
      known.set(prompt, { row, answer });
      examples.push({ prompt, answer });
    }
  }
  if (!examples.length) return { ...failed(NONE), dropped };
  return { examples, dropped, error: null };
}

const failed = error => ({ examples: [], dropped: [], error });

// The columns of prompts and answers: by the heading, else the first two.
function columnsOf(cells) {
  const names = cells.map(cell => strip(cell).toLowerCase());
  const find = role => names.findIndex(name => HEADINGS[role].includes(name));
  const prompt = find("prompt"), answer = find("answer");
  return prompt < 0 || answer < 0
    ? { prompt: 0, answer: 1, heading: false }
    : { prompt, answer, heading: true };
}

// The most frequent separator in the first line, outside of quotation marks.
function separatorOf(text) {
  const line = text.replace(/"[^"]*"/g, "").split(/[\r\n]/).find(one => /[^ ]/.test(one)) ?? "";
  const count = mark => line.split(mark).length;
  return [",", ";", "\t"].reduce((best, mark) => (count(mark) > count(best) ? mark : best));
}

// [{cells, row}] as RFC 4180 has it; null if a quotation mark stays open.
function parseRows(text) {
  const separator = separatorOf(text), rows = [];
  let cells = [], cell = "", quoted = false, row = 1;
  const endRow = () => {
    cells.push(cell);
    rows.push({ cells, row });
    cells = [];
    cell = "";
    row += 1;
  };
  for (let at = 0; at < text.length; at++) {
    const mark = text[at];
    if (quoted) {
      if (mark !== '"') cell += mark;
      else if (text[at + 1] === '"') cell += text[++at];
      else quoted = false;
    } else if (mark === '"' && !strip(cell)) {
      cell = "";
      quoted = true;
    } else if (mark === separator) {
      cells.push(cell);
      cell = "";
    } else if (mark === "\n" || mark === "\r") {
      if (mark === "\r" && text[at + 1] === "\n") at += 1;
      endRow();
    } else cell += mark;
  }
  if (cell || cells.length) endRow();
  return quoted ? null : rows;
}
