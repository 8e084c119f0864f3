"""The panelist's page."""
