"""Numbers that the lessons rest on: papers, claims, recorded runs."""
