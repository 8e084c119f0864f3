"""A function that a run counts as a feature of the user's own."""


def starts(prompt: str, answer: str) -> int:
    """Whether an answer begins as its prompt does."""
    return int(answer[:1] == prompt[:1])
