"""How fast an artifact is, natively and in a browser."""
