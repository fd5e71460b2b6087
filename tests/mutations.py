"""Proof that the tests can fail: break one line of the package's heart, expect its test to fail.

Run by hand or nightly: `python tests/mutations.py`, or with the files to try, as in
`python tests/mutations.py training.py recipe.py`. test_mutations.py keeps the table true.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ["lora_lab", "tests", "conftest.py", "pyproject.toml"]  # what a test may need ...
LINKED = ["data", "notebooks"]  # ... and what none changes

HEART = [  # each of these files has rows below
    "recipe.py",
    "maths/adalora.py",
    "quantization.py",
    "maths/nf4.py",
    "maths/lora.py",
    "maths/bank.py",
    "maths/spectra.py",
    "adapters.py",
    "ranks.py",
    "learnt.py",
    "tasks/examples.py",
    "optimizers.py",
    "runs.py",
    "evaluation.py",
    "training.py",
    "budget.py",
    "cards.py",
    "estimates.py",
    "memory.py",
    "checks/compare.py",
    "predictions.py",
]

MUTATIONS = [  # (file, what it says, what it says when broken, the test that must fail)
    ("recipe.py", "above = value > low or (low_fits and value == low)", "above = value >= low", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "self.warmup_steps >= self.steps", "self.warmup_steps > self.steps", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "self.target_r >= self.init_r", "self.target_r > self.init_r", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "math.sqrt(self.r) if self.use_rslora", "self.r if self.use_rslora", "test_recipe.py::test_scaling_is"),
    ("recipe.py", "self.lora_alpha / self.init_r", "self.lora_alpha / self.target_r", "test_recipe.py::test_adaloras"),
    ("recipe.py", "            object.__setattr__(self, name, value)", "            pass", "test_recipe.py::test_a_list"),
    ("recipe.py", "self.method != method and getattr", "self.method == 'full' and getattr", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "met <= max(tinit, 1)", "met <= tinit", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "if self.deltaT > met - tinit:", "if self.deltaT > self.steps:", "test_recipe.py::test_a_value_that_cannot"),
    ("recipe.py", "self.steps // 2 if", "self.steps // 3 if", "test_recipe.py::test_adaloras_phases"),
    ("maths/adalora.py", "lora_alpha / (r + 1e-5)", "lora_alpha / r", "test_adalora.py::test_outputs_and_gradients"),
    ("maths/adalora.py", "self.scaling * self.lora_B @ (self.lora_A * self.lora_E)  # (out", "self.lora_B @ (self.lora_A * self.lora_E)  # (out", "test_adalora.py::test_the_change"),
    ("maths/adalora.py", "matrix_norm(v @ v.T - eye)", "matrix_norm(v @ v.T - eye).square()", "test_adalora.py::test_the_orthogonality"),
    ("maths/adalora.py", "* left**3 +", "* left +", "test_adalora.py::test_the_budget"),
    ("maths/adalora.py", "global_step < self.last:  #", "global_step <= self.last:  #", "test_adalora.py::test_every_allocation"),
    ("maths/adalora.py", "spread = (ipt - mean).abs()", "spread = (ipt - self.exp_avg_ipt.get(name, 0)).abs()", "test_adalora.py::test_every_allocation"),
    ("maths/adalora.py", "(of_A.mean(1) + of_B.mean(0))", "(of_A.sum(1) + of_B.sum(0))", "test_adalora.py::test_every_allocation"),
    ("maths/adalora.py", "global_step > self.tinit and global_step", "global_step", "test_adalora.py::test_every_allocation"),
    ("maths/adalora.py", "            self._mask()  # the optimizer", "            # the optimizer", "test_adalora.py::test_every_allocation"),
    ("maths/adalora.py", "score > threshold for", "score >= threshold for", "test_adalora.py::test_equal_importances"),
    ("quantization.py", "isinstance(layer, nn.Linear | Conv1D) and layer is not output", "isinstance(layer, nn.Linear | Conv1D)", "test_quantization.py::test_the_weights_are"),
    ("quantization.py", "            one.data = one.data.float()", "            pass", "test_quantization.py::test_the_weights_are"),
    ("quantization.py", "            quant_type=how.quantize,\n", "", "test_quantization.py::test_the_weights_are"),
    ("quantization.py", "            compress_statistics=how.double_quant,\n", "", "test_quantization.py::test_the_weights_are"),
    ("quantization.py", "layer.weight.data.T if isinstance(layer, Conv1D)", "layer.weight.data if isinstance(layer, Conv1D)", "test_quantization.py::test_gpt2s"),
    ("quantization.py", "return copy.copy(parameter)", "return parameter", "test_quantization.py::test_merging_leaves"),
    ("quantization.py", "        memo |= {id(one): one for one in kept if isinstance(one, Tensor)}\n", "", "test_quantization.py::test_a_shared_tree"),
    ("quantization.py", "threshold=OUTLIER", "threshold=0.0", "test_quantization.py::test_the_weights_are"),
    ("adapters.py", "            root = (s[:r] / layer.scaling[\"default\"]).sqrt()", "            root = s[:r].sqrt()", "test_quantization.py::test_loftqs_start"),
    ("adapters.py", "weight.float() - weight_of(layer.base_layer).float()", "weight.float()", "test_quantization.py::test_loftq"),
    ("adapters.py", "    return base if how == base.quantization else quantized_base(base, how)", "    return base", "test_quantization.py::test_training_on"),
    ("adapters.py", "if has not in (None, wanted):", "if False:", "test_quantization.py::test_a_quantised_base_refuses"),
    ("maths/nf4.py", "torch.linspace(OUTERMOST, 0.5, 9)", "torch.linspace(OUTERMOST, 0.5, 9, dtype=torch.float64)", "test_nf4.py::test_levels_equal"),
    ("maths/nf4.py", "_float4(0, 0.0625,", "_float4(0, 0.5,", "test_nf4.py::test_levels_equal"),
    ("maths/nf4.py", "_float4(0, 0.5, 1, 1.5,", "_float4(0, 0.5, 1, 1.25,", "test_nf4.py::test_e2m1"),
    ("maths/nf4.py", "10.0 ** (power - 6)", "10.0 ** (power - 7)", "test_nf4.py::test_the_8_bit"),
    ("maths/nf4.py", "borders, out_int32=True)", "borders, out_int32=True, right=True)", "test_nf4.py::test_a_value_between"),
    ("maths/nf4.py", "order.to(torch.uint8)[places]", "places.to(torch.uint8)", "test_nf4.py::test_codes_and"),
    ("maths/nf4.py", "scaled = blocks * (1 / divisor)", "scaled = blocks / divisor", "test_nf4.py::test_small_whole"),
    ("maths/nf4.py", "    if short:\n        scaled", "    if False:\n        scaled", "test_nf4.py::test_small_whole"),
    ("maths/nf4.py", "absmax.clamp(min=1e-38)", "absmax", "test_nf4.py::test_odd_blocks"),
    ("maths/nf4.py", "blocks.abs().amax(dim=1)", "blocks.amax(dim=1)", "test_nf4.py::test_odd_blocks"),
    ("maths/nf4.py", "values.to(quantized.dtype)", "values", "test_nf4.py::test_codes_and"),
    ("maths/nf4.py", "quantize(quantized.absmax - offset,", "quantize(quantized.absmax,", "test_nf4.py::test_double"),
    ("maths/nf4.py", "dequantize(absmax) + quantized.offset", "dequantize(absmax)", "test_nf4.py::test_double"),
    ("maths/nf4.py", "NESTED_BLOCKSIZE = 256", "NESTED_BLOCKSIZE = 128", "test_nf4.py::test_double"),
    ("maths/nf4.py", '"absmax": 8 / blocksize', '"absmax": 8 / 64', "test_nf4.py::test_the_ledger_is"),
    ("maths/nf4.py", "/ values.norm())", "/ dequantize(quantized).float().norm())", "test_nf4.py::test_the_relative"),
    ("maths/nf4.py", "tensor.detach().float().reshape", "tensor.float().reshape", "test_nf4.py::test_a_parameter"),
    ("maths/nf4.py", "(~tensor.isfinite())", "tensor.isnan()", "test_nf4.py::test_a_tensor_that_has"),
    ("maths/nf4.py", "not isinstance(blocksize, int) or blocksize", "blocksize", "test_nf4.py::test_a_blocksize"),
    ("maths/lora.py", "(math.sqrt(r) if use_rslora else r)", "r", "test_lora.py::test_outputs_and_gradients"),
    ("maths/lora.py", "x.to(self.lora_A.dtype)", "x", "test_lora.py::test_on_a_16_bit"),
    ("maths/lora.py", "torch.promote_types(weight.dtype, torch.float32)", "weight.dtype", "test_lora.py::test_on_a_16_bit"),
    ("maths/lora.py", "copy.deepcopy(self.base_layer)", "self.base_layer", "test_lora.py::test_merging_leaves"),
    ("maths/lora.py", " or weight.shape != shape", "", "test_lora.py::test_merging_into"),
    ("maths/lora.py", "    @torch.no_grad()\n    def _row_norms", "    def _row_norms", "test_lora.py::test_outputs_and_gradients"),
    ("maths/lora.py", "(result - bias)", "result", "test_lora.py::test_outputs_and_gradients"),
    ("maths/lora.py", "        if (norms == 0).any():", "        if False:", "test_lora.py::test_dora_refuses"),
    ("maths/lora.py", "copy.copy(layer).train()", "copy.copy(layer)", "test_lora.py::test_dora_reads"),
    ("maths/lora.py", "columns if layer.bias is None else columns - layer.bias", "columns", "test_lora.py::test_the_change_to_4"),
    ("maths/bank.py", "[one.scaling for one in adapters]", "[adapters[0].scaling for one in adapters]", "test_bank.py::test_outputs_and_gradients"),
    ("maths/bank.py", "pad_sequence(factors_A, batch_first=True)", "pad_sequence(factors_A, batch_first=True, padding_value=1.0)", "test_bank.py::test_outputs_and_gradients"),
    ("maths/bank.py", "result = self.base_layer(x)", "result = torch.cat([self.base_layer(one) for one in x.chunk(len(self))])", "test_bank.py::test_the_bases_matrix"),
    ("maths/bank.py", "        with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):", "        if weight is not None:", "test_bank.py::test_an_adapter_taken_out"),
    ("maths/bank.py", "type(one) is not LoRALinear", "not isinstance(one, LoRALinear)", "test_bank.py::test_what_is_no_plain"),
    ("maths/bank.py", " or len(x) % len(self)", "", "test_bank.py::test_a_batch_that"),
    ("maths/spectra.py", "svd(scaling * r_B @ r_A.T,", "svd(r_B @ r_A.T,", "test_spectra.py::test_the_thin_way"),
    ("maths/spectra.py", "energies = _checked(values).square()\n    return energies.cumsum(0)", "energies = _checked(values)\n    return energies.cumsum(0)", "test_spectra.py::test_each_rank_keeps"),
    ("maths/spectra.py", "(values[:k] / scaling).sqrt()", "values[:k].sqrt()", "test_spectra.py::test_a_truncated_adapter_is_the_best"),
    ("maths/spectra.py", "torch.minimum(i, j)", "torch.maximum(i, j)", "test_spectra.py::test_overlap_is_the_papers"),
    ("maths/spectra.py", "torch.finfo(dtype).eps", "torch.finfo(matrix.dtype).eps", "test_spectra.py::test_directions_that"),
    ("maths/spectra.py", "(new.T @ old).abs()", "(new.T @ old)", "test_spectra.py::test_as_many_intruders"),
    ("maths/spectra.py", "svd(before + change, full", "svd(change, full", "test_spectra.py::test_an_intruder_is"),
    ("maths/spectra.py", " or (values.diff() > 0).any()", "", "test_spectra.py::test_what_are_no"),
    ("adapters.py", 'f".{target}"', "target", "test_adapters.py::test_part_of_a_name"),
    ("adapters.py", "    _check_reach(base.model, recipe)\n", "", "test_adapters.py::test_one_misspelt"),
    ("adapters.py", "        use_rslora=recipe.use_rslora,\n", "", "test_learnt.py::test_strength_0"),
    ("adapters.py", "        torch.manual_seed(recipe.seed)\n", "", "test_adapters.py::test_the_adapter_is"),
    ("adapters.py", "module.weight.data = module.weight.data.clone()", "pass", "test_training.py::test_training_leaves"),
    ("adapters.py", "if layer >= count]", "if layer > count]", "test_adapters.py::test_what_the_base"),
    ("adapters.py", "and module is not output", "", "test_adapters.py::test_all_linear"),
    ("adapters.py", "model, model.state_dict(), save", "model, save", "test_learnt.py::test_saving_and_using"),
    ("adapters.py", "tinit=tinit,", "tinit=recipe.tinit or 0,", "test_training.py::test_adalora_has_the_losses"),
    ("ranks.py", "*(one.T for one in self._lora_B)", "*self._lora_B", "test_training.py::test_adalora_has_the_losses"),
    ("ranks.py", "self._config.orth_reg_weight * term", "term", "test_training.py::test_adalora_has_the_losses"),
    ("ranks.py", "        if step < self._met:  #", "        if False:  #", "test_learnt.py::test_adalora_stopped"),
    ("ranks.py", "self._config.rank_pattern = pattern or None", "pass", "test_runs.py::test_a_killed_run"),
    ("ranks.py", 'AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")', 'AVERAGES = ("exp_avg_ipt", "exp_avg_unc")', "test_runs.py::test_a_killed_run"),
    ("learnt.py", "    if done < met:", "    if done < tfinal:", "test_learnt.py::test_adalora_stopped"),
    ("learnt.py", "value * module.lora_alpha[self.active]", "value * module.lora_alpha[self.active] / module.r[self.active]", "test_learnt.py::test_half_strength"),
    ("learnt.py", 'f"{key}.{name}": kept for', "key: kept for", "test_learnt.py::test_an_adalora_may"),
    ("learnt.py", "        cast_adapter_dtype(model, name)\n", "", "test_learnt.py::test_an_adalora_on_a_16_bit"),
    ("learnt.py", "        config.rank_pattern = None  # `_resize` sees to it\n", "", "test_learnt.py::test_saving_and_using"),
    ("learnt.py", "torch.cat([tensor, -start[name]], dim=1)", "torch.cat([tensor, start[name]], dim=1)", "test_learnt.py::test_plain_peft"),
    ("learnt.py", "(2**0.5 if recipe.use_rslora else 2)", "2", "test_learnt.py::test_plain_peft"),
    ("learnt.py", "                module.set_scale(self.active, value)\n", "                pass\n", "test_learnt.py::test_half_strength"),
    ("learnt.py", "        self.strength = self._strength\n", "", "test_learnt.py::test_several_adapters"),
    ("learnt.py", "        if has != wants:", "        if False:", "test_learnt.py::test_an_adapter_for_another"),
    ("learnt.py", "((result.unexpected_keys, \"holds\"), (missing, \"lacks\"))", "((missing, 'lacks'),)", "test_learnt.py::test_a_tensor_that"),
    ("tasks/examples.py", "[IGNORED] * len(prompt) + ids[len(prompt) :]", "ids", "test_examples.py::test_only_the_answer"),
    ("tasks/examples.py", "text = whole[len(start) :]", "text = whole[len(start) + 1 :]", "test_examples.py::test_only_the_answer"),
    ("tasks/examples.py", "[*ids, tokenizer.eos_token_id]", "ids", "test_examples.py::test_a_tokenizer_without"),
    ("tasks/examples.py", "if len(ids) > max_length:", "if len(ids) > max_length + 1:", "test_examples.py::test_an_example"),
    ("tasks/examples.py", "(one.labels for one in encoded), IGNORED", "(one.labels for one in encoded), 0", "test_examples.py::test_a_batch"),
    ("tasks/examples.py", "self.old_knowledge, self.strangers):", "self.strangers):", "test_examples.py::test_a_tasks_fingerprint"),
    ("optimizers.py", "done, warmup, steps = step - 1,", "done, warmup, steps = step,", "test_training.py::test_the_learning_rate"),
    ("optimizers.py", 'if "lora_B" in name', 'if "lora_A" in name', "test_training.py::test_lora_plus"),
    ("optimizers.py", "if one.ndim > 1 else 0.0", "", "test_training.py::test_vectors"),
    ("runs.py", "        base.fingerprint(),\n", "", "test_runs.py::test_a_run_is_known"),
    ("runs.py", "        task.fingerprint(),\n", "", "test_runs.py::test_a_run_is_known"),
    ("runs.py", 'with write_atomically(self.path / CHECKPOINT) as file:', 'for file in [self.path / CHECKPOINT]:', "test_runs.py::test_a_half_written"),
    ("runs.py", "(FileNotFoundError, SafetensorError, json.JSONDecodeError)", "FileNotFoundError", "test_runs.py::test_a_damaged"),
    ("runs.py", "reverse=True)", "reverse=False)", "test_runs.py::test_runs_are_listed"),
    ("evaluation.py", 'batch["labels"][:, 1:]', 'batch["labels"][:, :-1]', "test_training.py::test_the_loss_with_logits"),
    ("evaluation.py", "        model.train(was_training)", "        pass", "test_evaluation.py::test_evaluation_leaves"),
    ("evaluation.py", "    model.eval()\n", "", "test_evaluation.py::test_evaluation_leaves"),
    ("evaluation.py", "mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]", "mask = [[1] * longest for row in ids]", "test_evaluation.py::test_batched"),
    ("evaluation.py", "                answers[place] = text", "                answers[places[0]] = text", "test_evaluation.py::test_many_prompts"),
    ("evaluation.py", "total, count = total + loss.item(), count + labels", "total, count = total + loss.item() / labels, count + 1", "test_evaluation.py::test_the_mean_loss"),
    ("evaluation.py", "hits += len(wanted & found)", "hits += len(found)", "test_evaluation.py::test_the_metrics"),
    ("evaluation.py", "_share_kept(model, task.strangers)", "_share_kept(model, task.old_knowledge)", "test_evaluation.py::test_old_knowledge"),
    ("evaluation.py", "logits.log_softmax(-1), target,", "target, logits.log_softmax(-1),", "test_evaluation.py::test_with_a_teacher"),
    ("training.py", "        self.optimizer.zero_grad()\n        tokens", "        tokens", "test_training.py::test_losses_equal"),
    ("training.py", "(summed / labels).backward()", "(summed / len(batches) / labels).backward()", "test_training.py::test_losses_equal"),
    ("training.py", 'learning_rate * group["lr_ratio"]', "learning_rate", "test_training.py::test_lora_plus"),
    ("training.py", '(batch["attention_mask"].sum())', '(batch["attention_mask"].numel())', "test_training.py::test_records_count"),
    ("training.py", "step % every == 0 or step == self.recipe.steps", "step % every == 0", "test_training.py::test_validation"),
    ("training.py", "        self._put(self._good)\n", "", "test_training.py::test_a_diverging"),
    ("tasks/examples.py", "yield from torch.randperm(count, generator=generator).tolist()", "yield int(torch.randint(count, (1,), generator=generator))", "test_training.py::test_every_example"),
    ("training.py", "        with torch.random.fork_rng(devices=devices):\n            if devices:", "        if True:\n            if devices:", "test_training.py::test_training_leaves"),
    ("training.py", "        ranks = self._ranks and self._ranks.allocate(step)  # needs this step's gradients\n        self.optimizer.zero_grad()\n", "        self.optimizer.zero_grad(set_to_none=False)\n        ranks = self._ranks and self._ranks.allocate(step)\n", "test_training.py::test_adalora_has_the_losses"),
    ("training.py", "            self._ranks.mask()", "            pass", "test_training.py::test_a_run_that_diverges"),
    ("training.py", "            self._ranks.restore(checkpoint.tensors)", "            pass", "test_runs.py::test_a_killed_run"),
    ("training.py", "        for _ in range(self.step * each):\n            next(self._order)\n", "", "test_runs.py::test_a_killed_run"),
    ("training.py", '        self._random_state = checkpoint.tensors["random_state"]\n', "", "test_runs.py::test_a_killed_run"),
    ("budget.py", "return whole - sum(one.weights for one in self.matrices if one.tied)", "return whole", "test_shapes.py::test_a_known_shape"),
    ("budget.py", r'r".*?\.[^.]*\.(\d+)\."', r'r".*\.(\d+)\."', "test_budget.py::test_parameters_equal_pefts"),
    ("budget.py", "        return both + r\n", "        return both\n", "test_budget.py::test_parameters_equal_pefts"),
    ("budget.py", "recipe.use_dora * matrix.out_features", "recipe.use_dora * matrix.in_features", "test_budget.py::test_parameters_equal_pefts"),
    ("budget.py", "len(adapted(shape, recipe)) if recipe.method", "0 if recipe.method", "test_budget.py::test_parameters_equal_pefts"),
    ("budget.py", " and not _inside(one.name, saved)", "", "test_budget.py::test_modules_trained_whole"),
    ("budget.py", "module.endswith(recipe.modules_to_save)", "any(_ends(module, one) for one in recipe.modules_to_save)", "test_budget.py::test_modules_trained_whole"),
    ("budget.py", "one.parameters - one.tied * one.weights", "one.parameters", "test_budget.py::test_full_fine_tuning_trains"),
    ("budget.py", "passed_on = stage > lowest", "passed_on = stage >= lowest", "test_budget.py::test_flops_of_a_step"),
    ("budget.py", 'batch.examples * batch.places if one.kind', 'batch.examples * batch.length if one.kind', "test_budget.py::test_flops_of_a_step"),
    ("budget.py", "(again and (target or not ends))", "again", "test_budget.py::test_flops_of_a_step"),
    ("budget.py", "if first[layer] >= lowest)", ")", "test_budget.py::test_flops_of_a_step"),
    ("budget.py", "[stage + (size > 1)]", "[stage]", "test_budget.py::test_flops_of_a_step"),
    ("budget.py", 'if recipe.method == "full" or recipe.gradient_checkpointing:', 'if recipe.method == "full":', "test_budget.py::test_flops_of_a_step"),
    ("cards.py", "plain <= card.usable", "plain < card.usable", "test_estimates.py::test_a_card_fits"),
    ("cards.py", " - TAKEN", "", "test_estimates.py::test_a_card_fits"),
    ("cards.py", "card.usable - min(plain, checkpointed)", "card.usable - plain", "test_estimates.py::test_a_card_fits"),
    ("estimates.py", "enumerate(one.labels[1:])", "enumerate(one.labels)", "test_estimates.py::test_the_batches"),
    ("estimates.py", "order_of_examples(len(encoded), recipe.seed)", "order_of_examples(len(encoded), 1)", "test_estimates.py::test_the_batches"),
    ("estimates.py", "return recipe.gradient_accumulation_steps * whole", "return whole", "test_estimates.py::test_two_batches"),
    ("estimates.py", "return max(found, key", "return min(found, key", "test_estimates.py::test_with_a_task"),
    ("memory.py", "constants = blocks + F32 * math.ceil(blocks / 256) + F32", "constants = blocks", "test_memory.py::test_a_quantised_matrix"),
    ("memory.py", "if one.numbers < 4096", "if one.numbers <= 4096", "test_memory.py::test_the_optimizers_state"),
    ("memory.py", "if names != LLAMA:", "if False:", "test_memory.py::test_a_model_that_keeps"),
    ("memory.py", "copies = min(count, 0 if there else 1)", "copies = count", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", "(2 if self.recipe.lora_dropout and flows else 1)", "1", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", "if batch.padded and pairs > 1:", "if batch.padded:", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", "flows = flows or gradients[number] > 0", "flows = True", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", "yield Moment(every + halves, held)", "yield Moment(every, held)", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", "before += sum(one.kept_by_int8() for one in layers)", "before += 0", "test_memory.py::test_the_estimate_is_right"),
    ("memory.py", 'if self.recipe.method == "adalora" and flows:', "if False:", "test_memory.py::test_the_estimate_is_right_for_adalora"),
    ("memory.py", 'copies = 6 if recipe.method == "adalora" else 3', "copies = 3", "test_memory.py::test_the_estimate_is_right_for_adalora"),
    ("memory.py", "if full and shape.tied else 0", "if False else 0", "test_memory.py::test_the_estimate_is_right"),
    ("checks/compare.py", "given, answer, raised = copy.deepcopy(case), None, None", "given, answer, raised = case, None, None", "test_checks.py::test_any_other"),
    ("checks/compare.py", "            torch.random.default_generator.manual_seed(0)\n", "", "test_checks.py::test_the_global"),
    ("checks/compare.py", "        with torch.random.fork_rng(devices=[]):\n            torch", "        if True:\n            torch", "test_checks.py::test_the_global"),
    ("checks/compare.py", "            and self.changed == other.changed\n", "", "test_checks.py::test_a_hint_is"),
    ("checks/compare.py", "type(self.raised) is type(other.raised)", "True", "test_checks.py::test_a_hint_is"),
    ("checks/compare.py", "if all(one.like", "if any(one.like", "test_checks.py::test_a_function_that_is_right"),
    ("checks/compare.py", "(Exception, SystemExit) as error", "Exception as error", "test_checks.py::test_any_other"),
    ("checks/compare.py", "    if answer.dtype != right.dtype:", "    answer = answer.to(right.dtype)\n    if False:", "test_checks.py::test_any_other"),
    ("checks/compare.py", "== right.shape[::-1]", "== right.shape", "test_checks.py::test_any_other"),
    ("checks/compare.py", "    for key in answer:\n        if key not in right:", "    for key in answer:\n        if False:", "test_checks.py::test_the_first_difference"),
    ("checks/compare.py", "near = not exact and", "near =", "test_checks.py::test_the_first_difference"),
    ("checks/compare.py", "if one.filename == file]", "]", "test_checks.py::test_any_other"),
    ("predictions.py", "when_right = rest**2 + others * part**2", "when_right = rest**2 + part**2", "test_predictions.py::test_the_score_is"),
    ("predictions.py", "(others - 1) * part**2", "others * part**2", "test_predictions.py::test_the_score_is"),
    ("predictions.py", "right * when_right + (1 - right) * when_wrong", "when_right if right >= 0.5 else when_wrong", "test_predictions.py::test_the_score_is"),
    ("predictions.py", "return guess / 2, guess * 2", "return guess / 2, guess", "test_predictions.py::test_a_guess_is_right"),
    ("predictions.py", 'if os.read(file, 1) != b"\\n":', "if False:", "test_predictions.py::test_a_broken_line"),
    ("predictions.py", "| os.O_APPEND", "", "test_predictions.py::test_a_line_that_another"),
    ("predictions.py", "first.setdefault(one.question.id, one)", "first[one.question.id] = one", "test_predictions.py::test_only_the_first"),
    ("predictions.py", "(ValueError, TypeError, KeyError, AttributeError)", "ValueError", "test_predictions.py::test_a_broken_line"),
    ("predictions.py", "            unreadable.append(number)", "            pass", "test_predictions.py::test_a_broken_line"),
    ("predictions.py", "    if guess is None:\n", "    if guess is None and keep:\n        keep(Prediction(question, measured[0], measured, 1))\n    if guess is None:\n", "test_predictions.py::test_without_a_guess"),
]  # fmt: skip


def survives(file: str, before: str, after: str, test: str) -> bool:
    """Whether the named tests still pass once `before` reads `after`."""
    with tempfile.TemporaryDirectory(prefix="lora-lab-mutation-") as place:
        copy = Path(place)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for name in LINKED:
            (copy / name).symlink_to(ROOT / name, target_is_directory=True)
        broken = copy / "lora_lab" / file
        broken.write_text(broken.read_text().replace(before, after))
        test_file, name = test.split("::")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--slow"]
        command += [f"tests/{test_file}", "-k", name]
        result = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
        if result.returncode not in (0, 1) or "skipped" in result.stdout.splitlines()[-1]:
            raise RuntimeError(f"{test} was not run on {file}:\n{result.stdout}{result.stderr}")
        return result.returncode == 0


def main(files: list[str]) -> int:
    """Try the rows of `files` (none: all), say which survive; the exit code is 1 if any did."""
    rows = [row for row in MUTATIONS if not files or row[0] in files]
    survivors = 0
    for number, row in enumerate(rows, start=1):
        alive = survives(*row)
        survivors += alive
        print(f"{number}/{len(rows)} {'SURVIVED' if alive else 'killed'}: {row}", flush=True)
    print(f"{len(rows) - survivors} killed, {survivors} survived")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
