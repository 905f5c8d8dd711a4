"""What is learned: prompts as tensors, and the keys that tell which task a query belongs to. Knows no data."""
