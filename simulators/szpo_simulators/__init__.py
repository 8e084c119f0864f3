"""Simulated panels, rewards, worlds and benches whose truth is known."""
