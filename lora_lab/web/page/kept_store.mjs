// Kept runs over a reload: in the browser's store of this tab, as numbers without their adapters.

import { pastRun } from "./runs.mjs";
import { linkOf, OWN, readLink } from "./settings.mjs";
import { counted } from "./wording.mjs";

const PLACE = "lora_lab playground: kept runs";
const DIGITS = 9; // of a loss: enough to distinguish all 32-bit numbers
const LONGEST = 2000; // steps of a run
const SEEDS = 3; // runs of an entry

const STAY =
  "Kept runs stay over a reload of this page, until you close its tab. Their adapters do not stay.";
const OWN_GO = "Runs on your own examples do not stay: the examples are written nowhere.";
const NO_STORE = "This browser stores nothing for this page: a reload loses the kept runs.";
const FULL = "This browser has no room for these kept runs: a reload loses them.";

/** The browser's store of this tab; null where a page may not use it. */
export function storeOfTab() {
  try {
    const tried = `${PLACE}, tried`;
    sessionStorage.setItem(tried, "");
    sessionStorage.removeItem(tried);
    return sessionStorage;
  } catch {
    return null; // private windows, blocked cookies, frames without an origin
  }
}

const textOf = (kept, base) =>
  JSON.stringify(
    kept.map(({ settings, runs }) => ({
      link: linkOf(settings, [], base),
      runs: runs.map(({ settings: { seed }, losses, scores }) => ({
        seed,
        losses: losses.map(loss => Number(loss.toPrecision(DIGITS))),
        scores,
      })),
    })),
  );

/** Writes the kept runs down; what a person should know about it, in words. */
export function writeKept(store, kept, base) {
  if (!kept.length && !store?.getItem(PLACE)) return "";
  if (!store) return NO_STORE;
  const staying = kept.filter(({ settings }) => settings.task !== OWN);
  try {
    store.setItem(PLACE, textOf(staying, base));
  } catch {
    store.removeItem(PLACE); // an older list would come back
    return FULL;
  }
  if (!kept.length) return "";
  return staying.length < kept.length ? `${STAY} ${OWN_GO}` : STAY;
}

/** `{ kept, words }`: what was written down and can be read, and what to say about it. */
export function readKept(store, tasks, base) {
  const text = store?.getItem(PLACE);
  if (!text) return { kept: [], words: "" };
  let written;
  try {
    written = JSON.parse(text);
  } catch {
    written = null;
  }
  if (!Array.isArray(written))
    return { kept: [], words: "The kept runs of before the reload could not be read." };
  const kept = written.map(one => entryFrom(one, tasks, base)).filter(Boolean);
  const lost = written.length - kept.length;
  const said = lost
    ? `${counted(lost, "kept run")} of before the reload could not be read. `
    : "";
  return { kept, words: `${said}${kept.length ? STAY : ""}`.trim() };
}

// An entry of kept runs; null where anything about it is not what the page has written.
function entryFrom(one, tasks, base) {
  if (typeof one?.link !== "string" || !Array.isArray(one.runs)) return null;
  const { settings, complaints } = readLink(one.link, tasks, base);
  const count = one.runs.length;
  if (complaints.length || count < 1 || count > SEEDS || !one.runs.every(isRun)) return null;
  const runs = one.runs.map(({ seed, losses, scores }) =>
    pastRun({ ...settings, seed }, losses.map(Math.fround), scores),
  );
  return { settings, runs };
}

function isRun(run) {
  const { seed, losses, scores } = run ?? {};
  const known = scores === null || ["test", "old", "strangers"].every(name => isScore(scores?.[name]));
  return (
    Number.isInteger(seed) &&
    known &&
    Array.isArray(losses) &&
    losses.length > 0 &&
    losses.length <= LONGEST &&
    losses.every(loss => Number.isFinite(loss) && Number.isFinite(Math.fround(loss)))
  );
}

const isScore = score =>
  Number.isInteger(score?.right) &&
  Number.isInteger(score.n) &&
  0 <= score.right &&
  score.right <= score.n &&
  score.n > 0 &&
  (score.f1 === undefined || (score.f1 >= 0 && score.f1 <= 1));
