"""Networks: no data, no losses, no loops."""
