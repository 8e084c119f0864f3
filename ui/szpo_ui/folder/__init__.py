"""Many runs at one address: the home page, the comparison of runs, the runs' processes."""
