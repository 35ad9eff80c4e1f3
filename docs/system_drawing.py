"""The drawing of the system, light and dark: `python docs/system_drawing.py` writes `docs/images/system-*.svg`."""

from pathlib import Path

IMAGES = Path(__file__).with_name("images")
THEMES = {
    "light": {"text": "#1f2328", "faint": "#57606a", "line": "#6e7781", "part": "#ddf4ff", "thinker": "#fff1c9"},
    "dark": {"text": "#e6edf3", "faint": "#9198a1", "line": "#8b949e", "part": "#12324f", "thinker": "#5a4510"},
}
WIDTH, HEIGHT, BOX_HEIGHT = 912, 262, 48
TOP, MIDDLE, BOTTOM = 40, 131, 222

# Centre, width, name, stage. Boxes without a stage are data and have no frame.
BOXES = {
    "heard": (36, TOP, 64, "speech", ""),
    "seen": (36, MIDDLE, 64, "image", ""),
    "read": (36, BOTTOM, 64, "text", ""),
    "audio_encoder": (172, TOP, 130, "audio encoder", "stage B"),
    "vision_encoder": (172, MIDDLE, 130, "vision encoder", "stage C"),
    "tokenizer": (172, BOTTOM, 130, "tokenizer", "trained with A"),
    "audio_projector": (338, TOP, 110, "projector", "stage E"),
    "vision_projector": (338, MIDDLE, 110, "projector", "stage E"),
    "thinker": (500, MIDDLE, 130, "Thinker", "stages A and E"),
    "answer": (640, MIDDLE, 54, "text", ""),
    "talker": (640, TOP, 110, "Talker", "stage D2"),
    "codec": (758, TOP, 84, "codec", "stage D1"),
    "vocoder": (864, TOP, 88, "vocoder", "stage D3"),
    "spoken": (864, MIDDLE, 64, "speech", ""),
}
ARROWS = (
    *(("heard", "audio_encoder"), ("audio_encoder", "audio_projector"), ("audio_projector", "thinker")),
    *(("seen", "vision_encoder"), ("vision_encoder", "vision_projector"), ("vision_projector", "thinker")),
    *(("read", "tokenizer"), ("tokenizer", "thinker"), ("thinker", "answer")),
    *(("answer", "talker"), ("talker", "codec"), ("codec", "vocoder"), ("vocoder", "spoken")),
)


def drawing(theme: str) -> str:
    """The drawing as SVG, in the colours of a theme."""
    colours = THEMES[theme]
    shapes = [_arrow(*arrow, colours) for arrow in ARROWS] + [_box(name, colours) for name in BOXES]
    head = f'<path d="M0 0 8 4 0 8z" fill="{colours["line"]}"/>'
    marker = f'<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{head}</marker>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' font-family="system-ui, sans-serif" font-size="14" text-anchor="middle">',
            "<title>omni: encoders and projectors around the Thinker, and the way to speech</title>",
            f"<defs>{marker}</defs>",
            *shapes,
            "</svg>\n",
        ]
    )


def _box(key: str, colours: dict[str, str]) -> str:
    x, y, width, name, stage = BOXES[key]
    text = f'<text x="{x}" y="{y - 3 if stage else y + 5}" fill="{colours["text"]}">{name}</text>'
    if not stage:
        return text
    fill = colours["thinker" if key == "thinker" else "part"]
    return (
        f'<rect x="{x - width // 2}" y="{y - BOX_HEIGHT // 2}" width="{width}" height="{BOX_HEIGHT}" rx="8"'
        f' fill="{fill}" stroke="{colours["line"]}"/>{text}'
        f'<text x="{x}" y="{y + 15}" font-size="12" fill="{colours["faint"]}">{stage}</text>'
    )


def _arrow(start: str, end: str, colours: dict[str, str]) -> str:
    """A straight arrow between neighbours; from row to row one that turns into the middle of the Thinker's side."""
    x1, y1, width1, *_ = BOXES[start]
    x2, y2, width2, *_ = BOXES[end]
    if y1 == y2:
        path = f"M{x1 + width1 // 2 + 3} {y1}H{x2 - width2 // 2 - 3}"
    elif x1 == x2:
        down = 1 if y2 > y1 else -1
        room = [BOX_HEIGHT // 2 + 3 if BOXES[name][4] else 14 for name in (start, end)]
        path = f"M{x1} {y1 + down * room[0]}V{y2 - down * room[1]}"
    else:
        path = f"M{x1 + width1 // 2 + 3} {y1}H{x2}V{y2 + (BOX_HEIGHT // 2 + 3) * (1 if y1 > y2 else -1)}"
    return f'<path d="{path}" fill="none" stroke="{colours["line"]}" stroke-width="1.5" marker-end="url(#head)"/>'


if __name__ == "__main__":
    for name in THEMES:
        (IMAGES / f"system-{name}.svg").write_text(drawing(name), encoding="utf-8")
