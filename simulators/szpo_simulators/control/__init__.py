"""Control tasks: CartPole, a checkpoint track with a hackable proxy, one MuJoCo task."""
