"""Simulated panels: rewards of texts, raters with known answer probabilities and flaws, panels."""
