"""The command line `lora-lab`. Only here is anything printed."""
