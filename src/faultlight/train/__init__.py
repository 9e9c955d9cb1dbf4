"""One training loop; objectives are functions."""
