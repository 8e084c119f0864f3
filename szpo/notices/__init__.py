"""What others learn of a run while it goes on: how far its set-up is, and by a web hook."""
