"""Runs as a whole: assemble, plan, drive and branch them; comparisons beside the training."""
