"""Results as the parts of an API's replies."""
