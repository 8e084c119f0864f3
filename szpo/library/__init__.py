"""What `import szpo` offers: ask and tell for vectors and for language models."""
