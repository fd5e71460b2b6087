"""What this machine has: devices, cores, memory."""
