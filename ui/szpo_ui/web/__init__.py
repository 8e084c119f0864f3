"""The web process: login and sessions, the JSON API, the vote writer, mounting of pages."""
