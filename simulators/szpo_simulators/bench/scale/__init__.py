"""`szpo bench scale`: what workers of Ray add to the work itself, in seconds and bytes."""
