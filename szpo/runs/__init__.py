"""Runs as a whole: assemble, plan, drive, branch; trackers, web hooks, final comparisons."""
