"""The formulas of the course, written from scratch in PEFT's words with torch alone."""
