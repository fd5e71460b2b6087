// A run's adapter as the two files that PEFT loads.

import { writeTensors } from "./safetensors.mjs";

// config: what PEFT writes for a LoRA on pocket, to be filled in.
export function adapterFiles(training, config) {
  const { sessions, recipe, adapted } = training, adapter = training.adapter();
  const { r, lora_alpha, use_rslora } = recipe, tensors = {};
  const names = sessions.modules.filter((_, place) => adapted[place]).map(({ name }) => name);
  sessions.modules.forEach((module, place) => {
    if (!adapted[place]) return;
    const { A, B } = sessions.factors(adapter, place), prefix = `base_model.model.${module.name}`;
    tensors[`${prefix}.lora_A.weight`] = { shape: [r, module.in], data: A };
    tensors[`${prefix}.lora_B.weight`] = { shape: [module.out, r], data: B };
  });
  const filled = { ...config, r, lora_alpha, use_rslora, target_modules: names };
  return {
    "adapter_model.safetensors": writeTensors(tensors),
    "adapter_config.json": `${JSON.stringify(filled, null, 2)}\n`,
  };
}
