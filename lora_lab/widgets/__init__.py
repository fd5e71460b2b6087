"""Thin ipywidgets shells over the package: controls, live training. No formula in here."""
