"""What a device offers and a variant asks of it. Knows no model and no kernel; loads nothing."""
