"""Parts of the web process: login, sessions, sentences, the JSON API, the vote writer, mounts."""
