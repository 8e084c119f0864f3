"""Simulated panels: raters with known laws, their flaws, and panels made of them."""
