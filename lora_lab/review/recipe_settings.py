"""Findings about a recipe's numbers: rate, factor, steps, precision, and traps of its tool."""

import functools
from collections.abc import Iterator

from lora_lab.findings.defaults import defaults
from lora_lab.recipe import Recipe, nearest
from lora_lab.review.finding import Finding
from lora_lab.tools.brought_recipe import BroughtRecipe
from lora_lab.wording import counted, percent, significant

# LoRA's best learning rate is about ten times full fine-tuning's (14 models, fit 9.8), and about
# 15 times in short runs: thinkingmachines.ai/blog/lora.
FULL_RATE = 2e-5  # what full fine-tuning usually takes, and TRL's default
# Of 80 runs that diverged in tinker-cookbook's sweep of 35 models, 72 had this rate.
HIGH_RATE = 3e-3
DEAD_RATE = 1e-2
LORA_RATE = 2e-4  # the rate that most LoRA examples have; some train every weight with it too
HIGH_FULL_RATE = 1e-3
ABOVE_FORMULA = 4  # times tinker-cookbook's rate for a width: from there on, a rate is named
WIDE = 1024  # hidden size above which the rates above are known to hold
LONG_WARMUP = 0.5  # a share of all steps
MANY_EPOCHS = 10
SUPERVISED = ("sft", "pretrain", "another head")  # a loss that labels give


def rate_text(rate: float) -> str:
    """A learning rate as people write it: `2e-5`, `0.0002`."""
    return f"{rate:g}".replace("e-0", "e-")


def settings_findings(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> list[Finding]:
    """The findings about a recipe's numbers.

    Args:
        brought: the recipe as it was read.
        recipe: the same as `lab.Recipe`.
        width: the base's hidden size; None: not known.
    """
    checks = (_rate, _factor, _adalora, _schedule, _precision, _packing, _tokens, _traps, _keys)
    return [found for check in checks for found in check(brought, recipe, width)]


def _rate(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    rate = brought.fields.get("learning_rate")
    if rate is None or brought.stage not in SUPERVISED:
        return
    whose = "" if "learning_rate" in brought.said else f", {brought.tool}'s default,"
    if recipe.method == "full":
        if rate >= LORA_RATE and brought.stage == "sft":
            yield Finding(
                severity="warning" if rate >= HIGH_FULL_RATE else "note",
                what=f"learning_rate {rate_text(rate)}{whose} with every weight trained",
                why="It is a rate for LoRA. Full fine-tuning's best rate is about a tenth of "
                "LoRA's; at this rate it forgets, or diverges.",
                do="Try 1e-5 to 5e-5, or train an adapter.",
                lesson="10",
            )
        return
    if recipe.method == "lora" and rate <= FULL_RATE:
        yield Finding(
            severity="warning",
            what=f"learning_rate {rate_text(rate)}{whose} with LoRA",
            why="It is full fine-tuning's rate. LoRA's best rate is about ten times higher (LoRA "
            "Without Regret, 14 models), so a short run hardly learns.",
            do="Try 1e-4 to 3e-4, and compare the validation losses.",
            lesson="10",
        )
    elif rate >= HIGH_RATE and (width is None or width >= WIDE):
        yield Finding(
            severity="grave" if rate >= DEAD_RATE else "warning",
            what=f"learning_rate {rate_text(rate)}{whose} is far above what wide models bear",
            why="In tinker-cookbook's sweep over 35 models 72 of the 80 runs that diverged had "
            "3e-3; most examples of all tools have 2e-4.",
            do="Try 1e-4 to 3e-4.",
            lesson="10",
        )
    elif width is not None and width >= WIDE and rate >= ABOVE_FORMULA * _formula_rate(width):
        usual = _formula_rate(width)
        yield Finding(
            severity="note",
            what=f"learning_rate {rate_text(rate)}{whose} is {rate / usual:.1f} times what "
            f"tinker-cookbook gives for a hidden size of {width:,}",
            why=f"Its formula says {usual:.2g} or less there, and most examples of all tools have "
            "2e-4. The wider the model, the sooner a rate is too high.",
            do="Try 1e-4 to 3e-4 beside it, and compare the validation losses.",
            lesson="10",
        )


def _formula_rate(width: int) -> float:
    """The learning rate for LoRA by hidden size: the larger of tinker-cookbook's two formulas.

    `hyperparam_utils.py`: 5e-4 × (2000 / hidden size) to the power of 0.781 for Llama, and of
    0.0775 for Qwen.
    """
    return 5e-4 * max((2000 / width) ** 0.781, (2000 / width) ** 0.0775)


@functools.cache
def shipped_factors() -> tuple[float, float]:
    """The smallest and the largest factor on the change that tools and well-known scripts ship."""
    factors = [tool.scaling for tool in defaults().values() if tool.scaling]
    return min(factors), max(factors)


def _factor(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    if recipe.method == "full" or "lora_alpha" not in brought.fields:
        return
    least, most = shipped_factors()
    if not least <= recipe.scaling <= most:
        root = " (rsLoRA: alpha / √r)" if recipe.use_rslora else ""
        few = recipe.scaling < least
        yield Finding(
            severity="warning",
            what=f"the factor on the change is {significant(recipe.scaling)}{root}: lora_alpha "
            f"{recipe.lora_alpha:g}, r {recipe.r}",
            why=f"{len(defaults())} tools and well-known scripts ship {significant(least)} to "
            f"{significant(most)}, most of them 0.5 to 2. "
            + ("The adapter is muted." if few else "Each step changes the model that much more."),
            do="Give lora_alpha between r and 2 × r, then tune the learning rate.",
            lesson="06",
        )
    ranks = [tool.r for tool in defaults().values()]
    if recipe.method == "lora" and recipe.r > max(ranks):
        yield Finding(
            severity="note",
            what=f"r {recipe.r} is above every rank that {len(ranks)} tools and scripts ship "
            f"(at most {max(ranks)})",
            why="Memory and time grow with r. Most tasks stop gaining far below it.",
            do="Train once with r 16 and compare.",
            lesson="05",
        )


def _adalora(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    if recipe.method != "adalora":
        return
    traits = brought.traits
    if "total_step" in traits and traits["total_step"] is None:
        yield Finding(
            severity="grave",
            what="AdaLoRA without total_step",
            why="PEFT needs the number of steps to plan the ranks, and refuses the configuration.",
            do="Give total_step: batches in an epoch × epochs, over the accumulation.",
            lesson="08",
        )
    if traits.get("trainer") and not traits.get("allocates"):
        yield Finding(
            severity="grave",
            what=f"AdaLoRA under {traits['trainer']}, and nothing calls update_and_allocate",
            why="No trainer of transformers or TRL calls it. Every layer keeps its first rank, "
            "rank_pattern stays None, and nothing says so.",
            do="Call model.base_model.update_and_allocate(step) after each optimizer step, in a "
            "TrainerCallback's on_optimizer_step; or train plain LoRA.",
            lesson="08",
        )


def _schedule(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    steps, warmup = brought.fields.get("steps"), brought.said.get("warmup_steps")
    share = warmup / steps if steps and warmup else brought.warmup_ratio or 0
    if share >= 1:
        yield Finding(
            severity="grave",
            what=f"{warmup} steps of warm-up, and {counted(steps, 'step')} in all"
            if steps and warmup
            else f"a warm-up of {percent(share)} of the steps",
            why="The learning rate never reaches the value that is given.",
            do=f"Give a warm-up of about 3 to 10 % of the steps{_tenth(steps)}.",
            lesson="10",
        )
    elif share > LONG_WARMUP:
        yield Finding(
            severity="warning",
            what=f"the warm-up takes {percent(share)} of the steps",
            why="For most of the run the learning rate is below the value that is given.",
            do=f"Give a warm-up of about 3 to 10 % of the steps{_tenth(steps)}.",
            lesson="10",
        )
    if both := brought.traits.get("steps_and_epochs"):
        yield Finding(
            severity="note",
            what=f"{counted(both[0], 'step')} and {both[1]:g} epochs are both given",
            why="The number of steps wins, and the epochs do nothing.",
            do="Keep one of the two.",
            lesson="10",
        )
    if brought.epochs is not None and brought.epochs >= MANY_EPOCHS:
        yield Finding(
            severity="note",
            what=f"{brought.epochs:g} epochs",
            why="Each example is seen that often. Small data are learnt by heart.",
            do="Keep an eye on the validation loss, and stop where it rises.",
            lesson="04",
        )
    yield from _evaluation(brought, steps)


def _tenth(steps: object) -> str:
    return f": {max(1, steps // 10)} or fewer" if isinstance(steps, int) and steps > 1 else ""


def _evaluation(brought: BroughtRecipe, steps: object) -> Iterator[Finding]:
    traits = brought.traits
    every, strategy = traits.get("eval_steps"), traits.get("eval_strategy")
    if strategy == "steps" and every and steps and every > steps:
        yield Finding(
            severity="warning",
            what=f"a validation every {every:g} steps, and {counted(steps, 'step')} in all",
            why="No validation loss is ever measured, so over-fitting stays unseen.",
            do=f"Give eval_steps of about {max(1, steps // 10)}.",
            lesson="04",
        )
    saving = traits.get("save_strategy") or "steps"
    if traits.get("load_best") and (
        strategy in (None, "no", False)
        or (saving != strategy and saving != "best")
        or (strategy == "steps" and (traits.get("save_steps") or 500) % (every or 500))
    ):
        yield Finding(
            severity="grave",
            what=f"load_best_model_at_end with validations by {strategy or 'no'!s} and saves by "
            f"{saving}",
            why="transformers refuses this: the best state can only be loaded where it was saved.",
            do="Give eval_strategy and save_strategy the same value, and save_steps a multiple of "
            "eval_steps.",
            lesson="04",
        )


def _precision(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    traits = brought.traits
    if traits.get("bf16") is True and traits.get("fp16") is True:
        yield Finding(
            severity="grave",
            what="bf16 and fp16 are both on",
            why="A training has one precision; transformers refuses both.",
            do="Keep bf16 on cards that have it (Ampere and newer), fp16 on a T4 or V100.",
            lesson="09",
        )
    if traits.get("no_quant_type"):
        yield Finding(
            severity="note",
            what="4 bits without bnb_4bit_quant_type",
            why="The default of BitsAndBytesConfig is fp4. NF4 loses less (QLoRA, table 4: MMLU "
            "53.1 against 52.2).",
            do='Give bnb_4bit_quant_type="nf4".',
            lesson="09",
        )
    if traits.get("no_compute_dtype") or (
        brought.tool == "TRL" and traits.get("bits") == 4 and "compute_dtype" not in brought.said
    ):
        yield Finding(
            severity="note",
            what="4 bits without a compute dtype",
            why="The default is float32, in which products are slow; bitsandbytes warns of it.",
            do="Give bnb_4bit_compute_dtype=torch.bfloat16 (in TRL's own arguments: dtype).",
            lesson="09",
        )


def _packing(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    traits = brought.traits
    if traits.get("packing") and not traits.get("apart"):
        attention = traits.get("attention") or "none named"
        cure = {
            "LLaMA-Factory": "Give neat_packing: true",
            "Axolotl": "Give attn_implementation: flash_attention_2",
        }.get(brought.tool, 'Give attn_implementation="flash_attention_2"')
        yield Finding(
            severity="warning",
            what=f"examples are packed, and the attention ({attention}) does not keep them apart",
            why="Each example reads those before it in its row, and learns to lean on them.",
            do=f"{cure}, or switch packing off.",
            lesson="11",
        )


def _tokens(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    if brought.traits.get("tokens") and not brought.traits.get("keeps_tokens"):
        if recipe.method == "full":
            return
        yield Finding(
            severity="warning",
            what="tokens are added, and their embeddings are not trained",
            why="The new rows keep their random start: the adapter trains neither embed_tokens "
            "nor lm_head.",
            do='Give modules_to_save ["embed_tokens", "lm_head"], or PEFT\'s '
            "trainable_token_indices.",
            lesson="07",
        )


def _traps(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    traits = brought.traits
    if traits.get("pad_is_eos") and traits.get("lm_collator"):
        wanted = bool(traits.get("learns_to_stop"))
        yield Finding(
            severity="warning" if wanted else "note",
            what="the padding token is the end token, and DataCollatorForLanguageModeling makes "
            "the labels",
            why="It takes the loss from every padding token, so from every real end as well. The "
            "model never learns to stop"
            + (", though this code appends the end token." if wanted else "."),
            do="Take DataCollatorForSeq2Seq with labels of your own, or a padding token that no "
            "text contains.",
            lesson="02",
        )
    if traits.get("shifts_labels"):
        yield Finding(
            severity="warning",
            what="labels are shifted here: input_ids without the last token, labels without the "
            "first",
            why="transformers' models shift the labels inside. Shifted twice, each token learns to "
            "name the one after the next: the loss falls, and the answers are wrong.",
            do="Give the model labels as long as input_ids, unshifted; or compute the loss "
            "yourself from its logits.",
            lesson="02",
        )
    if brought.said.get("loss_on") == "all" and brought.stage == "sft":
        yield Finding(
            severity="note",
            what="every token earns a loss, those of the prompt too",
            why="Where prompts are long beside their answers, most of each step learns to ask.",
            do="Give the prompt's tokens the label -100, if the answers are what is wanted.",
            lesson="02",
        )
    if traits.get("no_input_gradients"):
        yield Finding(
            severity="grave",
            what="gradient checkpointing with use_reentrant=True, and the inputs have no gradient",
            why="A frozen embedding gives the reentrant form nothing to come back to: no gradient "
            "reaches the adapter, and the loss does not move.",
            do='Give gradient_checkpointing_kwargs={"use_reentrant": False}, or call '
            "model.enable_input_require_grads() first.",
        )
    if traits.get("inference_mode") is True and traits.get("trainer"):
        yield Finding(
            severity="grave",
            what="the adapter is made with inference_mode=True",
            why="PEFT freezes it: nothing is trained.",
            do="Leave inference_mode out.",
        )
    if traits.get("adapter_ignored"):
        yield Finding(
            severity="grave",
            what="LoRA's settings without use_peft: true",
            why="TRL trains every weight then, and does not look at lora_r.",
            do="Add use_peft: true.",
            lesson="01",
        )
    if pair := traits.get("exclusive"):
        yield Finding(
            severity="grave",
            what=f"{pair[0]} and {pair[1]} are both given",
            why=f"{brought.tool} refuses the two together.",
            do="Keep one of the two.",
            lesson="10",
        )
    yield from _axolotls_bits(brought)


def _axolotls_bits(brought: BroughtRecipe) -> Iterator[Finding]:
    if brought.tool != "Axolotl":
        return
    adapter, bits = brought.traits.get("adapter"), brought.traits.get("bits")
    if adapter == "qlora" and bits != 4:
        yield Finding(
            severity="grave",
            what="adapter: qlora without load_in_4bit: true",
            why="Axolotl refuses it: QLoRA trains on a base of 4 bits.",
            do="Give load_in_4bit: true, or adapter: lora.",
            lesson="09",
        )


def _keys(brought: BroughtRecipe, recipe: Recipe, width: int | None) -> Iterator[Finding]:
    if brought.unknown:
        guesses = [
            f"{key!r} ({nearest(key, brought.vocabulary).strip()})" for key in brought.unknown
        ]
        shown = ", ".join(guess.replace(" ()", "") for guess in guesses[:6])
        more = f" and {len(guesses) - 6} more" if len(guesses) > 6 else ""
        plural = len(guesses) != 1
        yield Finding(
            severity="note",
            what=f"{shown}{more}: not among the keys of {brought.tool} that are known here",
            why="A misspelt key may be ignored, and its default used. Plugins and newer releases "
            "have keys of their own.",
            do=f"Look {'them' if plural else 'it'} up in {brought.tool}'s documentation.",
        )
