"""Analyses of votes: progress, agreement, voters, features, tastes, and questions to ask next."""
