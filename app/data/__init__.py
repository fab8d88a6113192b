"""Corpora of one's own, from recordings and texts to what the trainers read."""
