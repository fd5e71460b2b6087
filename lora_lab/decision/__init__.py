"""The decision between prompt, retrieval and LoRA, measured on somebody's own data."""
