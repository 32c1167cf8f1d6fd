"""Servers written for the race; they run in environments of their own."""
