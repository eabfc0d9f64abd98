"""One reading of an image, against computations of numpy's."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from hfdiff.pipelines import dead_zone, to_8bit

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
EIGHT = (RAMP / 257).round()


def opened(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def raw_png(bits, colour, rows, clear=b""):
    """A PNG of 8 pixels a row in the bits and colour type given; `clear`: its tRNS."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 8, len(rows), bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"tRNS", clear) if clear else b""]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


def tiff(values, bits=16, photometric=1):
    """A grey TIFF of one strip, little-endian."""
    height, width = values.shape
    if bits == 12:
        a, b = (values.ravel()[i::2].astype(int) for i in (0, 1))
        data = np.stack([a >> 4, ((a & 15) << 4) | (b >> 8), b & 255], axis=1).astype(np.uint8).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return Image.open(io.BytesIO(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + data))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP),
        opened(Image.fromarray(RAMP), "PNG"),
        opened(Image.fromarray(RAMP), "TIFF"),
        Image.open(io.BytesIO(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())),
        tiff(RAMP),
        tiff(65535 - RAMP, photometric=0),
        tiff(RAMP // 16, bits=12),
    ],
    ids=["array", "png", "tiff", "pgm", "raw tiff", "white is zero", "12 bits"],
)
def test_16_bits_are_scaled_by_their_kind(image):
    assert np.abs(np.asarray(to_8bit(image)).astype(float) - EIGHT).max() <= 1


def test_a_dark_image_stays_dark():
    dark = np.full((8, 8), 200, np.uint16)
    bright = dark.copy()
    bright[0, 0] = 60000
    assert np.asarray(to_8bit(Image.fromarray(dark))).max() == 1  # of 200 / 257
    assert np.asarray(to_8bit(Image.fromarray(bright)))[4, 4] == 1


@pytest.mark.parametrize(
    ("image", "grey", "clear"),
    [
        (raw_png(16, 0, [RAMP[:1].astype(">u2").tobytes()], struct.pack(">H", int(RAMP[0, 3]))), EIGHT[0], 3),
        (raw_png(4, 0, [b"\x01\x23\x45\x67"], struct.pack(">H", 3)), 17.0 * np.arange(8), 3),
        (raw_png(2, 0, [b"\x1b\x1b"], struct.pack(">H", 1)), 85.0 * np.tile(np.arange(4), 2), 1),
        (opened(Image.fromarray(np.arange(8, dtype=np.uint8)[None]), "PNG", transparency=3), np.arange(8.0), 3),
    ],
    ids=["16 bits", "4 bits", "2 bits", "8 bits"],
)
def test_what_a_file_calls_transparent_becomes_white(image, grey, clear):
    expected = np.where(grey == grey[clear], 255, grey)
    assert np.abs(np.asarray(to_8bit(image))[0].astype(float) - expected).max() <= 1


def test_a_colour_of_48_bits_is_transparent():
    row = np.array([[1000, 2000, 3000], [65535, 0, 0]] * 4, ">u2")
    image = to_8bit(raw_png(16, 2, [row.tobytes()], struct.pack(">HHH", 65535, 0, 0)))
    assert np.asarray(image)[0, :2].tolist() == [[3, 7, 11], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "La", "RGBa"])
def test_an_alpha_channel_is_put_on_white(mode):
    values = np.full((2, 2, 2 if mode[:-1] in ("L", "P") else 4), 100, np.uint8)
    plain = "LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode
    image = Image.fromarray(values, plain) if mode != "PA" else Image.new("PA", (2, 2), (0, 100))
    seen = np.asarray(to_8bit(image.convert(mode)))
    base = 0 if mode == "PA" else 100
    assert np.abs(seen.astype(float) - (base * 100 / 255 + 155)).max() <= 2
    assert (seen.ndim == 2) == (mode in ("LA", "La"))  # grey stays grey


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_format_is_turned_as_its_exif_says(kind):
    exif = Image.Exif()
    exif[0x0112] = 3
    top = np.zeros((16, 16, 3), np.uint8)
    top[:8] = 255
    seen = np.asarray(to_8bit(opened(Image.fromarray(top), kind, exif=exif)))
    assert seen[:8].mean() < 20
    assert seen[8:].mean() > 235


def test_the_image_given_is_not_changed():
    image = raw_png(4, 0, [b"\x01\x23\x45\x67"], struct.pack(">H", 3))
    to_8bit(image)
    assert image.info == {"transparency": 3}


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (2, 2)), "pixels of mode F; valid: grey or RGB of 8 or 16 bits a channel"),
        (Image.new("I", (2, 2)), "pixels of 32 bits, or with signs"),
        (Image.new("LAB", (2, 2)), "pixels of mode LAB"),
    ],
)
def test_pixels_whose_scale_nobody_knows_are_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        to_8bit(image)


def test_the_dead_zone_takes_what_nobody_sees_and_nothing_else():
    levels = torch.arange(256) / 255
    seen = dead_zone(levels)
    assert torch.equal(seen[17:239], levels[17:239])
    assert not seen[:8].any()
    assert (seen[-8:] == 1).all()
    assert (seen.diff() >= -1e-6).all()
    assert seen.diff().max() < 2.01 / 255  # continuous
    assert torch.allclose(dead_zone(1 - levels), 1 - seen, atol=1e-6)
