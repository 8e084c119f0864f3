"""Simulated panels: rewards of texts, raters with known laws, their flaws, and panels of them."""
