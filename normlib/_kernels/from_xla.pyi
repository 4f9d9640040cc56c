handler: object
VERSIONS: tuple[int, ...]

def declare(version: int) -> None: ...
