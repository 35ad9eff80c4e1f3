"""Conversations about text, images and sound: sources, rows, batches and the data module."""
