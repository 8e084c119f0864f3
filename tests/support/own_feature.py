"""A user's own function as a feature."""


def starts(prompt: str, answer: str) -> int:
    """Whether an answer begins like its prompt."""
    return int(answer[:1] == prompt[:1])
