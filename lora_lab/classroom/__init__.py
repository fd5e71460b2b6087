"""A class: student copies of the lessons, and the checking of what is handed in."""
