"""A stub endpoint and scripted judges, to try the judges of szpo on."""
