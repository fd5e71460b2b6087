// Sets of target modules: as a word in a link, and as PEFT's LoraConfig takes them.
//
// `all` is the base's list [{name, layer, kind, in, out}]; a set is a list of names, in its order.

const ALL = "all-linear";

const kindsOf = all => [...new Set(all.map(one => one.kind))];
const layersOf = all => [...new Set(all.map(one => one.layer))];

/** The rows and columns of a set that is a full rectangle of layers × kinds; else null. */
function rectangle(names, all) {
  const chosen = all.filter(one => names.includes(one.name));
  const kinds = kindsOf(chosen),
    layers = layersOf(chosen);
  return kinds.length * layers.length === chosen.length ? { kinds, layers } : null;
}

/** A set as a link holds it: `all-linear`, `q_proj,v_proj`, or `0.q_proj,1.v_proj`. */
export function modulesInWord(names, all) {
  if (names.length === all.length) return ALL;
  const parts = rectangle(names, all);
  if (parts && parts.layers.length === layersOf(all).length) return parts.kinds.join(",");
  return all
    .filter(one => names.includes(one.name))
    .map(one => `${one.layer}.${one.kind}`)
    .join(",");
}

/** The set that a link's word stands for. Throws an Error in words if a part is unknown. */
export function modulesFromWord(word, all) {
  if (word === ALL) return all.map(one => one.name);
  const parts = word
      .split(",")
      .map(part => part.trim())
      .filter(Boolean),
    chosen = new Set();
  for (const part of parts) {
    const found = all.filter(one => part === one.kind || part === `${one.layer}.${one.kind}`);
    if (!found.length) {
      throw new Error(
        `“${part}” isn’t a module of this model; it has ${kindsOf(all).join(", ")}, ` +
          `in the layers ${layersOf(all)[0]} to ${layersOf(all).at(-1)}`,
      );
    }
    found.forEach(one => chosen.add(one.name));
  }
  return all.filter(one => chosen.has(one.name)).map(one => one.name);
}

/** The fields of PEFT's LoraConfig that adapt exactly this set. */
export function modulesForPeft(names, all) {
  if (names.length === all.length) return { target_modules: ALL };
  const parts = rectangle(names, all);
  if (!parts) return { target_modules: names };
  const everywhere = parts.layers.length === layersOf(all).length;
  return everywhere
    ? { target_modules: parts.kinds }
    : { target_modules: parts.kinds, layers_to_transform: parts.layers };
}

/** A set in words for a legend: `all modules`, `q_proj + v_proj`, `5 modules`. */
export function modulesInWords(names, all) {
  if (names.length === all.length) return "all modules";
  const parts = rectangle(names, all);
  if (!parts) return `${names.length} ${names.length === 1 ? "module" : "modules"}`;
  const kinds = parts.kinds.length > 3 ? `${parts.kinds.length} kinds` : parts.kinds.join(" + ");
  const { layers } = parts,
    everywhere = layers.length === layersOf(all).length;
  return everywhere
    ? kinds
    : `${kinds} in layer${layers.length > 1 ? "s" : ""} ${layers.join(", ")}`;
}

/** The number of parameters that LoRA of rank r trains in a set. */
export const trainedParameters = (names, all, r) =>
  all.filter(one => names.includes(one.name)).reduce((sum, one) => sum + r * (one.in + one.out), 0);
