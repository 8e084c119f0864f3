"""Parts of the web process: login, sessions, languages, the JSON API, the vote writer, mounts."""
