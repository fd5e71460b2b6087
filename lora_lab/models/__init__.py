"""Models, their quantised copies and their adapters."""
