OPS: tuple[str, ...]
OPERANDS: tuple[str, ...]
RESULTS: tuple[str, ...]
handler: object
VERSIONS: tuple[int, ...]

def declare(version: int) -> None: ...
