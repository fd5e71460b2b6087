"""What a fine-tune costs, by arithmetic: parameters, FLOPs, memory, graphics cards."""
