"""Many runs at one address: the home page, runs side by side, their processes."""
