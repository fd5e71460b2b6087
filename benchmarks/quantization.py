"""How long do our 4-bit codes take, against bitsandbytes'?

Both quantize and restore the same matrix, in turn, in a single process. Only ratios matter, since
machines differ and are noisy. Ours keeps one code in a byte, theirs packs two.
Run `python benchmarks/quantization.py --help`.
"""

import argparse
import statistics
import time

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from lora_lab.maths.nf4 import dequantize, quantize


def seconds(function, *arguments):
    """The seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="of the matrix: a multiple of 64")
    parser.add_argument("--quant-type", default="nf4", choices=["nf4", "fp4"])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed, in turn")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weight = torch.randn(options.size, options.size, generator=torch.Generator().manual_seed(0))
    times = {"quantize": ([], []), "dequantize": ([], [])}  # theirs, ours
    for _ in range(options.rounds + 1):
        taken, theirs = seconds(lambda: quantize_4bit(weight, quant_type=options.quant_type))
        times["quantize"][0].append(taken)
        taken, ours = seconds(quantize, weight, 64, options.quant_type)
        times["quantize"][1].append(taken)
        taken, their_values = seconds(dequantize_4bit, *theirs)
        times["dequantize"][0].append(taken)
        taken, our_values = seconds(dequantize, ours)
        times["dequantize"][1].append(taken)
    assert torch.equal(our_values, their_values)
    for name, both in times.items():
        theirs, ours = (statistics.median(taken[1:]) for taken in both)  # the first warms up
        ratios = [ours / theirs for theirs, ours in zip(*both, strict=True)][1:]
        print(
            f"{name} {options.size} x {options.size} to {options.quant_type}, {options.threads} "
            f"thread(s): bitsandbytes {1000 * theirs:.0f} ms, ours {1000 * ours:.0f} ms, "
            f"{ours / theirs:.1f} times as long ({min(ratios):.1f} to {max(ratios):.1f} over "
            f"{options.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
