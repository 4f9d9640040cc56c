"""What importing the package costs beyond NumPy."""


def timeraw_import():
    return "import normlib", "import numpy"


timeraw_import.pretty_name = "Import, beyond NumPy"
