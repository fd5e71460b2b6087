"""Exercises' checks, one module a notebook: a learner's function in, a `Verdict` out."""
