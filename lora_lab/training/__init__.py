"""The loop, scores, stored runs and sweeps."""
