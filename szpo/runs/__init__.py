"""Runs as a whole: set-up, cost plan, driver, branches, trackers, final comparisons."""
