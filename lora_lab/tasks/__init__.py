"""Tasks: examples in three splits, and a metric for the answers; one module for each source."""
