"""The formulas of the course from scratch, in PEFT's words; torch alone is used."""
