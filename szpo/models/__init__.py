"""Language models: loading, adapters, scores, and engines, which keep the contract `engine`."""
