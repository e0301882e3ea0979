"""The artifact: its specification (`FORMAT.md`), the validator, the only writer, and what it takes to look inside."""
