"""Language models: loading, 4-bit, the tiny model, LoRA sites, batched LoRA, adapter files."""
