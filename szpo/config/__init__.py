"""Settings of a run: `schema` holds the typed sections, `settings_file` reads TOML and presets."""
