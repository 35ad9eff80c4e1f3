"""Conversations about text, images and sound: where they lie, how they are laid out, and the data module."""
