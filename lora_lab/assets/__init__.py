"""What `lora-lab prepare` downloads and unpacks; the only room that uses the network."""
