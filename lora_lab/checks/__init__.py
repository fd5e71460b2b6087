"""The checks of exercises, a module for each notebook: from a learner's function to a `Verdict`."""
