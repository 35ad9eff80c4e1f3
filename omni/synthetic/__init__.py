"""The world: omni's embedded data set, seeded, endless, and coherent over modalities.

A `Scene` is drawn (`scene`), and everything else is a pure function of it: `captions`, `statements`, `reasoning`,
`questions`, `stories` and whole `documents`; `speech` says short sentences of them, `drawing` draws it. `files` writes
it all to disk.
"""

from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.documents import document
from omni.synthetic.drawing import draw
from omni.synthetic.files import write
from omni.synthetic.questions import KINDS, Question, questions
from omni.synthetic.scene import HELD_OUT, Group, Scene, Thing, sample_scene, scene_at
from omni.synthetic.speech import SPEAKERS, Utterance, samples, utterance

__all__ = [
    "HELD_OUT",
    "KINDS",
    "SPEAKERS",
    "Group",
    "Question",
    "Scene",
    "Thing",
    "Utterance",
    "caption",
    "dense_caption",
    "document",
    "draw",
    "questions",
    "sample_scene",
    "samples",
    "scene_at",
    "utterance",
    "write",
]
