"""Panels for people: the front doors of the vote service."""
