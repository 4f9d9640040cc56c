"""What importing the package costs beyond NumPy."""


def timeraw_import():
    return "import normlib", "import numpy"
