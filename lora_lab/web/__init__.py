"""The playground: pocket's LoRA fine-tune in one web page, run by graphs of our own step."""
