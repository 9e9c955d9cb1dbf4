"""Records to one HTML file; never imports torch."""
