"""Conversations as prompts: templates, tools in them, and how models mark calls and reasoning."""
