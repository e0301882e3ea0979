"""The commands of `wisp`, a module each: what it is for, its arguments, and what it calls. `cli.py` has the table."""
