"""Participants of a Prolific study: in by an open link, back with a code."""
