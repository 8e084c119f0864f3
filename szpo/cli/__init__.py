"""The ``szpo`` command: one file per group of commands, put together in `app`."""
