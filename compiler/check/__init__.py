"""Whether an artifact gives what its checkpoint gives: weights, logits and tokenizer."""
