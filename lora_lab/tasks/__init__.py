"""Tasks: examples with splits, prompts and a metric; one module for each place they come from."""
