"""Processes that can be killed: for a text's algebra, and for a user's own reward."""
