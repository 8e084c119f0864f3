"""The web process: login, sessions, languages, the JSON API, the vote writer, mounted pages."""
