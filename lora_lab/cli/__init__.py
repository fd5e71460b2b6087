"""The command line `lora-lab`; the only room that prints."""
