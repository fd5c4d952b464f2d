"""Writes small data sets by Python's own tools: python write.py LAYOUT DIR.

Pixel (row, column) of image i has red i + 7 row, green 3 i + 5 column and blue
100 + i + 2 row + 3 column, modulo 256, as in `write.rs`.
"""

import io
import os
import struct
import sys


def pixel(i, row, column):
    return [(i + 7 * row) % 256, (3 * i + 5 * column) % 256, (100 + i + 2 * row + 3 * column) % 256]


def rgb(i, side):
    return bytes(v for row in range(side) for column in range(side) for v in pixel(i, row, column))


def tarfile_layout(out):
    import tarfile

    def record(i):
        image = rgb(i, 32)
        return bytes([i % 10]) + image[0::3] + image[1::3] + image[2::3]

    with tarfile.open(os.path.join(out, "cifar-10-binary.tar.gz"), "w:gz") as archive:
        names = [f"data_batch_{k + 1}.bin" for k in range(5)] + ["test_batch.bin"]
        for k, name in enumerate(names):
            content = record(2 * k) + record(2 * k + 1)
            info = tarfile.TarInfo("cifar-10-batches-bin/" + name)
            info.size = len(content)
            info.mtime = 1234567890.5  # a fraction makes a PAX header
            archive.addfile(info, io.BytesIO(content))


def zipfile_layout(out):
    import zipfile

    from PIL import Image

    def jpeg(image):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    flat = jpeg(Image.new("RGB", (64, 64), (128, 64, 32)))
    grey = jpeg(Image.linear_gradient("L").resize((64, 64)))
    root = "tiny-imagenet-200/"
    with zipfile.ZipFile(os.path.join(out, "tiny-imagenet-200.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(root + "train/", "")
        archive.writestr(root + "train/n001/images/n001_0.JPEG", flat)
        archive.writestr(root + "train/n002/images/n002_0.JPEG", grey)
        archive.writestr(root + "val/images/val_0.JPEG", grey)
        archive.writestr(root + "val/images/val_1.JPEG", flat)
        archive.writestr(root + "val/val_annotations.txt", "val_0.JPEG\tn002\t0\t0\t9\t9\nval_1.JPEG\tn001\t0\t0\t9\t9\n")


def pyarrow_layout(out):
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    def png(i):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (32, 32), rgb(i, 32)).save(buffer, "PNG")
        return buffer.getvalue()

    def write(name, images):
        rows = [{"bytes": png(i), "path": None} for i in images]
        table = pyarrow.table({"img": rows, "label": pyarrow.array([i % 10 for i in images], pyarrow.int64())})
        pyarrow.parquet.write_table(table, os.path.join(out, name), row_group_size=3)

    write("train-00000-of-00001.parquet", range(7))
    write("test-00000-of-00001.parquet", range(7, 9))


def stl(out):
    import numpy

    def images(first, n):
        array = numpy.frombuffer(b"".join(rgb(first + i, 96) for i in range(n)), numpy.uint8)
        # From NHWC to the file's order: channel, column, row.
        return array.reshape(n, 96, 96, 3).transpose(0, 3, 2, 1).tobytes()

    def write(name, content):
        with open(os.path.join(out, name), "wb") as file:
            file.write(content)

    write("test_X.bin", images(0, 2))
    write("test_y.bin", bytes([1, 10]))
    write("train_X.bin", images(2, 3))
    write("train_y.bin", bytes([3, 2, 1]))
    write("unlabeled_X.bin", images(5, 2))


def pil(out):
    from PIL import Image, ImageOps

    pictures, expected = os.path.join(out, "pictures"), os.path.join(out, "expected")
    os.makedirs(pictures)
    os.makedirs(expected)
    smooth = Image.merge(
        "RGB",
        [
            Image.linear_gradient("L").resize((150, 100)),
            Image.linear_gradient("L").rotate(90).resize((150, 100)),
            Image.radial_gradient("L").resize((150, 100)),
        ],
    )

    def write(name, image, reference=None, **options):
        path = os.path.join(pictures, name)
        image.save(path, **options)
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright = (reference or upright).convert("RGB")
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        square = upright.crop((left, top, left + side, top + side))
        small = square.resize((48, 48), Image.BILINEAR)
        with open(os.path.join(expected, name.split(".")[0] + ".rgb"), "wb") as file:
            file.write(small.tobytes())

    write("rgb.png", smooth)
    write("rgba.png", Image.merge("RGBA", [*smooth.split(), Image.linear_gradient("L").resize((150, 100))]))
    write("grey.png", smooth.convert("L"))
    write("palette.png", smooth.quantize(64))
    write("bilevel.png", smooth.convert("1"))
    write("lossless.webp", smooth, lossless=True)
    write("lossy.webp", smooth, quality=95)
    write("baseline.jpg", smooth, quality=95, subsampling=0)
    write("halved.jpg", smooth, quality=95, subsampling=2)
    write("progressive.jpg", smooth, quality=95, progressive=True)
    write("greyscale.jpg", smooth.convert("L"), quality=95)
    write("cmyk.jpg", smooth.convert("CMYK"), quality=95)
    # PIL cuts 16 bits off where we scale them: the reference is the 8-bit one.
    grey = smooth.convert("L")
    deep = Image.frombytes("I;16", grey.size, b"".join(struct.pack("<H", 257 * v) for v in grey.tobytes()))
    write("deep.png", deep, reference=grey)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        write(f"exif-{orientation}.jpg", smooth, quality=95, exif=exif)


if __name__ == "__main__":
    layouts = {"tarfile": tarfile_layout, "zipfile": zipfile_layout, "pyarrow": pyarrow_layout, "stl": stl, "pil": pil}
    layouts[sys.argv[1]](sys.argv[2])
