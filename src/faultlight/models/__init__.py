"""The subject, the zoo, and models from elsewhere."""
