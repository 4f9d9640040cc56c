"""Which way up is this line? The real classifier of RapidOCR on a scanned page: 35 BatchNorms in ONNX, by normlib.

pip install onnx onnxruntime scikit-image && pip install --no-deps rapidocr-onnxruntime
python -m normlib demo page

The model runs in ONNX's evaluator in NumPy, whose operators one may replace: `normlib.interop.onnx` brings the norms.
"""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from skimage.data import page
from skimage.transform import resize

from normlib.examples.report import Watch, difference, on_backends, race
from normlib.interop import onnx

LINES = (48, 66), (66, 84), (84, 102)  # rows of three lines of text


def checkpoint():
    """The file in rapidocr-onnxruntime, found without importing a package that asks for more."""
    return str(next(Path(find_spec("rapidocr_onnxruntime").origin).parent.glob("models/*cls*.onnx")))


def pieces():
    """Pieces of lines of the page, four times as wide as high: a list of images."""
    scan = page() / 255  # 384 columns
    return [scan[top:bottom, left : left + 72] for top, bottom in LINES for left in range(0, 360, 72)]


def prepared(images):
    """As RapidOCR prepares them: (images, 3, 48, 192) between -1 and 1."""
    gray = np.stack([resize(image, (48, 192)) for image in images])[:, None] * 2 - 1
    return np.repeat(gray, 3, axis=1).astype(np.float32)


def turned(images):
    return [image[::-1, ::-1] for image in images]


class Classifier:
    """Prepared images to the likelihood that each is upside down."""

    def __init__(self, path):
        self.watch = watch = Watch()
        (norm,) = (op for op in onnx.OPERATORS if op.__name__ == "BatchNormalization")

        class BatchNormalization(norm):  # normlib's, with its time taken
            def _run(self, *args, **attributes):
                with watch:
                    return super()._run(*args, **attributes)

        self.session = onnx.session(path, new_ops=[BatchNormalization])

    def __call__(self, images):
        (name,) = self.session.input_names
        return self.session.run(None, {name: images})[0][:, 1]


def in_onnxruntime(path):
    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0][:, 1]


def main(count=15, timed=4):
    path = checkpoint()
    model, reference = Classifier(path), in_onnxruntime(path)
    kinds = Counter((norm.op_type, norm.attributes["epsilon"]) for norm in onnx.norms(path))
    for (kind, eps), n in kinds.items():
        print(f"RapidOCR's classifier of directions: {n} nodes {kind} (eps {eps:.2g}), all by normlib\n")

    scanned = pieces()[:count]
    images = prepared(scanned + turned(scanned))
    upside_down = model(images)
    print(f"Likelihood that a piece of a line is upside down, {count} pieces")
    print("  as scanned  ", *(f"{likelihood:4.0%}" for likelihood in upside_down[:count]))
    print("  turned      ", *(f"{likelihood:4.0%}" for likelihood in upside_down[count:]))
    right = (upside_down[:count] < 0.5).sum() + (upside_down[count:] > 0.5).sum()
    print(f"Right: {right} of {2 * count}.")

    print(f"\nTime for {timed} pieces; onnxruntime folds the norms into the convolutions before them")
    some = images[:timed]
    race(on_backends(lambda: model(some)) | {"onnxruntime": lambda: reference(some)}, model.watch, rounds=3)
    difference(upside_down, reference(images), "onnxruntime in that likelihood")


if __name__ == "__main__":
    main()
