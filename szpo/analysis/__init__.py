"""Analyses of votes: progress, agreement, tastes, questions; and a run's page and exports."""
