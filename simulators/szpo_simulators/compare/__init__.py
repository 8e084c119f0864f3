"""`szpo compare`: methods beside each other on the same model, prompts and panel."""
