"""The ``szpo`` command: one file per group of commands; `app` runs them."""
