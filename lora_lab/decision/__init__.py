"""Prompt, retrieval or LoRA, measured on your own data; the rule is in `lessons/deciding.py`."""
