"""The HTTP server of a page and of artifacts; imports nothing of the compiler."""
