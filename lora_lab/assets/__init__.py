"""What `lora-lab prepare` fetches; the only room that touches the network."""
