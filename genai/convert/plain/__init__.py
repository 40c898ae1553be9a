"""Ways of writing a model that are undone before it is recognised: two graphs in one, integer products, 16 bits."""
