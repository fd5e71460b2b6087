"""Train each base briefly, so that what is measured once on a machine is in the shared cache.

That is whether bfloat16 is faster here, and whether steps run by ONNX Runtime are equal and
faster. Learners can't write into the shared cache, so each kernel would measure it anew.
"""

from dataclasses import replace

import lora_lab as lab

TAUGHT = {"pocket": "new-facts", "smollm2": "film-sentiment"}

if __name__ == "__main__":
    for name, taught in TAUGHT.items():
        base = lab.load_base(name)
        task = lab.load_task(taught, base, n=32)
        training = lab.train(base, task, replace(task.recipe, steps=3))
        for _ in training:
            pass
        print(training.about)
