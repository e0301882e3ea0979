"""Speech natively: recordings as log-mel, a model's transcript of them, and its forms."""
