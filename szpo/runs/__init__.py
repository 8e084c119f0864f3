"""Runs as a whole: set-up, cost plan, driver, branches, trackers, web hooks, final comparisons."""
