"""Runs as a whole: set-up, cost plan, driver, trackers, final comparisons."""
