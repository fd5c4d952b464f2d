"""Cuts the embedded garments out of Fashion-MNIST. Needs Python alone.

    python cut.py SOURCE_DIR OUT_DIR

SOURCE_DIR holds Fashion-MNIST's four IDX files, gzipped, as Debian's package
`dataset-fashion-mnist` installs them in /usr/share/datasets/fashion-mnist and
as https://github.com/zalandoresearch/fashion-mnist serves them.

The cut: the first 700 training and the first 200 test images of each class,
in file order, dealt out in turn (image i shows class i mod 10), so that every
prefix and every suffix whose length is a multiple of ten is class-balanced.
Written to OUT_DIR: four gzipped IDX files and SHA256SUMS.
"""

import gzip
import hashlib
import struct
import sys
import zlib
from pathlib import Path

CLASSES = 10
PER_CLASS = {"train": 700, "t10k": 200}
OUT_NAME = {"train": "train", "t10k": "test"}


def read_idx(path):
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    assert data[:3] == b"\0\0\x08", f"{path}: not an IDX file of bytes"
    dims = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    body = data[4 + 4 * rank :]
    size = 1
    for dim in dims:
        size *= dim
    assert len(body) == size, f"{path}: {len(body)} bytes for {dims}"
    return dims, body


def write_idx_gz(path, dims, body):
    header = b"\0\0\x08" + bytes([len(dims)]) + struct.pack(f">{len(dims)}I", *dims)
    # A gzip stream by hand: no name, no time, so that equal input gives an
    # equal file (as far as zlib's versions agree).
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    data = header + body
    packed = deflate.compress(data) + deflate.flush()
    trailer = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + packed + trailer)


def main(source, out):
    sums = []
    for split, per_class in PER_CLASS.items():
        (n, rows, cols), pixels = read_idx(source / f"{split}-images-idx3-ubyte.gz")
        (n_labels,), labels = read_idx(source / f"{split}-labels-idx1-ubyte.gz")
        assert n == n_labels
        of_class = [[i for i in range(n) if labels[i] == c][:per_class] for c in range(CLASSES)]
        chosen = [of_class[c][k] for k in range(per_class) for c in range(CLASSES)]
        size = rows * cols
        images = b"".join(pixels[i * size : (i + 1) * size] for i in chosen)
        for kind, dims, body in [
            ("images-idx3", (len(chosen), rows, cols), images),
            ("labels-idx1", (len(chosen),), bytes(labels[i] for i in chosen)),
        ]:
            path = out / f"{OUT_NAME[split]}-{kind}-ubyte.gz"
            write_idx_gz(path, dims, body)
            sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (out / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python cut.py SOURCE_DIR OUT_DIR")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
