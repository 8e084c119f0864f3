"""Settings of a run: `schema` has the typed settings, `settings_file` reads TOML and presets."""
