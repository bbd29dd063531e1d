"""Write a folder of small pictures with labels, each class of another colour, with nothing but Python's own library.

usage: pictures.py FOLDER
"""
import os
import random
import struct
import sys
import zlib

SIZE = 32
CLASSES = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def png(rows):
    """A PNG file of 8-bit RGB rows."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


folder = sys.argv[1]
chance = random.Random(1)
with open(os.path.join(folder, "labels.csv"), "w") as labels:
    labels.write("path,labels\n")
    for number in range(96):
        label = list(CLASSES)[number % 3]
        # Noise of a grain that shrinking keeps: else they would all look alike, and count as copies.
        noise = [[[chance.randrange(-60, 60) for _ in range(3)] for _ in range(SIZE)] for _ in range(SIZE)]
        rows = [
            [max(0, min(255, base + offset)) for pixel in line for base, offset in zip(CLASSES[label], pixel)]
            for line in noise
        ]
        name = "%03d.png" % number
        with open(os.path.join(folder, name), "wb") as file:
            file.write(png(rows))
        labels.write("%s,%s\n" % (name, label))
