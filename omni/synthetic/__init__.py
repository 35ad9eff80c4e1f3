"""The world: omni's embedded data set; seeded, unlimited, and consistent across modalities.

A `Scene` is drawn (`scene`), and everything else is a pure function of it: `captions`, `statements`, `reasoning`,
`questions`, `stories` and whole `documents`; `speech` says sentences about it, `drawing` renders it, `dialogues`
ask about both, and `world` writes all of it to disk.
"""
