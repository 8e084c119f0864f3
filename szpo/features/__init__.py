"""The dictionary of text features: what a person would name in an answer, as exact integers."""
