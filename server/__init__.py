"""The HTTP server. Nothing is here yet: it will register `genai serve` through the entry point `genai.commands`."""
