"""The drawing of the system, light and dark: `python docs/system_drawing.py` writes `docs/images/system-*.svg`."""

from pathlib import Path

IMAGES = Path(__file__).with_name("images")
THEMES = {  # text, lines, parts, the Thinker, data
    "light": {"text": "#1f2328", "line": "#6e7781", "part": "#ddf4ff", "thinker": "#fff1c9", "data": "none"},
    "dark": {"text": "#e6edf3", "line": "#8b949e", "part": "#12324f", "thinker": "#5a4510", "data": "none"},
}
WIDTH, HEIGHT = 900, 310
SIZE = (132, 46)  # of a box

# Lower left corners are computed: (centre x, centre y, text, second line, kind).
BOXES = {
    "speech": (50, 60, "speech", "", "data"),
    "image": (50, 155, "image", "", "data"),
    "text": (50, 250, "text", "", "data"),
    "audio_encoder": (180, 60, "audio encoder", "stage B", "part"),
    "vision_encoder": (180, 155, "vision encoder", "stage C", "part"),
    "tokenizer": (180, 250, "tokenizer", "", "part"),
    "audio_projector": (345, 60, "projector", "stage E", "part"),
    "vision_projector": (345, 155, "projector", "stage E", "part"),
    "thinker": (520, 155, "Thinker", "stages A and E", "thinker"),
    "answer": (690, 155, "text", "", "data"),
    "talker": (690, 60, "Talker", "stage D2", "part"),
    "codec": (690, 250, "codec", "stage D1", "part"),
    "vocoder": (835, 250, "vocoder", "stage D3", "part"),
    "spoken": (835, 155, "speech", "", "data"),
}
WIDTHS = {"speech": 64, "image": 64, "text": 64, "answer": 54, "spoken": 64, "vocoder": 100}
