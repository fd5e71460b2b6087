"""What single lessons need beyond training: predictions, decisions, retrieval, cut adapters."""
