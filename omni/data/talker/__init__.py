"""Training data of the Talker: texts, the codes of their recordings, and the alignment of the two."""
