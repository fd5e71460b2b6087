// Findings in words: the titles of the charts, and the texts for screen readers.

import { OWN } from "./settings.mjs";
import { smoothed, widthFor } from "./smoothing.mjs";
import { brief, counted, listed, share } from "./wording.mjs";

const rights = marks => [...marks].filter(mark => mark === "+").length;

export const learnt = task =>
  task === "new-facts" ? "new facts" : task === OWN ? "of your test examples" : "new questions";

/** The title of the loss chart. */
export function lossFinding(records, over) {
  if (!records.length) return "The loss appears here, step by step";
  const losses = records.map(record => record.loss),
    last = smoothed(losses, widthFor(losses.length)).at(-1);
  if (!over) return `Loss after ${counted(losses.length, "step")}: ${brief(last)}`;
  const verb = last < 0.97 * losses[0] ? "fell" : last > 1.03 * losses[0] ? "rose" : "stayed";
  return verb === "stayed"
    ? `The loss stayed near ${brief(last)}`
    : `The loss ${verb} from ${brief(losses[0])} to ${brief(last)}`;
}

/** The title of the film: the counts of the look at hand against those of the base. */
export function filmFinding(groups, looks, task) {
  if (!looks.length) return "A dot for each question; training will change them";
  const of = kind => {
    const group = groups.findIndex(one => one.kind === kind);
    if (group < 0) return null;
    const n = groups[group].questions.length;
    return { n, was: rights(looks[0].marks[group]), is: rights(looks.at(-1).marks[group]) };
  };
  const taught = of("new"),
    old = of("old"),
    strangers = of("stranger");
  if (looks.length < 2) {
    const parts = [
      taught && `${taught.was} of ${taught.n} ${learnt(task)}`,
      old && `${old.was} of ${old.n} old facts`,
    ];
    return `Before training it answers ${listed(parts.filter(Boolean))}`;
  }
  const parts = [];
  if (taught) parts.push(`It answers ${taught.is} of ${taught.n} ${learnt(task)}`);
  if (old)
    parts.push(
      old.is < old.was
        ? `has forgotten ${old.was - old.is} of ${old.was} old ones`
        : "has forgotten no old one",
    );
  if (strangers && strangers.is < strangers.was) {
    const invented = strangers.was - strangers.is;
    parts.push(
      `invents answers about ${invented === strangers.n ? "every stranger" : `${invented} of ${strangers.n} strangers`}`,
    );
  }
  return listed(parts);
}

/** `field F1 83 %, before 12 %`: answers in JSON, counted field by field. */
export function fieldsInWords({ f1 }, before) {
  const percent = score => `${brief(100 * score, 3)} %`;
  return `field F1 ${percent(f1)}${before ? `, before ${percent(before.f1)}` : ""}`;
}

/** The scores on all questions, as a sentence. */
export function scoresInWords(scores, task) {
  const parts = [];
  if (scores.test) {
    const fields = scores.test.f1 === undefined ? "" : ` (${fieldsInWords(scores.test)})`;
    parts.push(`${share(scores.test)} ${learnt(task)} right${fields}`);
  }
  if (scores.old) parts.push(`${share(scores.old)} old facts kept`);
  if (scores.strangers) parts.push(`“not known” for ${share(scores.strangers)} strangers`);
  return listed(parts);
}
