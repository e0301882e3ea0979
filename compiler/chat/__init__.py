"""`wisp chat`: a conversation with an artifact in the terminal, run natively."""
