"""Text features: properties of an answer that a person can name, counted as exact integers."""
