"""Figures of a page: palette-quantised PNG inside the HTML, with the alt text that the notebook gave them."""

import base64
import io
from dataclasses import dataclass
from html import escape

from PIL import Image

COLOURS = 128
UNDESCRIBED = "Figure without a description"


@dataclass(frozen=True)
class Figure:
    """One figure: its bytes, type, size in CSS pixels (0 where unknown), alt text (empty: none was written) and caption."""

    content: bytes
    mime: str
    width: int
    height: int
    alt: str
    caption: str

    def html(self) -> str:
        """`<figure>` with the image as a data URI."""
        size = f' width="{self.width}" height="{self.height}"' if self.width and self.height else ""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        source = f"data:{self.mime};base64,{base64.b64encode(self.content).decode()}"
        return f'<figure><img src="{source}" alt="{escape(self.alt or UNDESCRIBED)}"{size}>{caption}</figure>'


def quantise(content: bytes, colours: int = COLOURS) -> bytes:
    """The same picture as a PNG of at most `colours` colours on white, without metadata; the original where that is smaller."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return min(out.getvalue(), content, key=len)


def from_output(output: dict, mime: str) -> Figure:
    """The figure of a notebook output: `metadata[mime]["alt"]` and `["caption"]`, sizes from the metadata, else from the picture."""
    metadata = output.get("metadata", {})
    own = {**metadata, **(metadata.get(mime) or {})}
    data = output["data"][mime]
    if mime == "image/svg+xml":
        content, size = data.encode(), (0, 0)
    else:
        content = base64.b64decode(data)
        size = Image.open(io.BytesIO(content)).size
        content = quantise(content) if mime == "image/png" else content
    width, height = own.get("width"), own.get("height")
    if not (isinstance(width, int) and isinstance(height, int)):
        width, height = size
    return Figure(content, mime, width, height, str(own.get("alt") or "").strip(), str(own.get("caption") or "").strip())
