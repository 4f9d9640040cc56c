"""Writes what follows from normlib/description.py in the C interface; with --check, only says what is out of date.

In normlib.h the parts between ``/* generated: ... */`` and ``/* end */``; the other files altogether.
"""

import re
import sys
from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).resolve().parent.parent
description = run_path(str(ROOT / "normlib" / "description.py"))
FUNCTIONS, ROLES = description["FUNCTIONS"], description["ROLES"]
VERSION = run_path(str(ROOT / "normlib" / "_version.py"))["__version__"]
ARRAY = "const normlib_array *"
BY = "# Written by .ci/generate_c.py from normlib/description.py.\n\n"
OPTIONS = ("threads", "axis", "mode", "axes", "num_groups", "momentum", "eps")  # in the order of normlib_call
ROWS = {
    "layer_norm_rows": "int dtype, ptrdiff_t rows, ptrdiff_t cols, const void *x, const void *weight, "
    "const void *bias, double eps, void *y, int threads",
    "rms_norm_rows": "int dtype, ptrdiff_t rows, ptrdiff_t cols, const void *x, const void *weight, double eps, "
    "void *y, int threads",
}
OTHERS = {  # beside the functions by name: result, arguments
    "error_text": ("const char *", "int status"),
    "call": ("int ", "const normlib_call *call"),
    "get_num_threads": ("int ", "void"),
    "set_num_threads": ("int ", "int threads"),
}
ENUMS = {
    "dtype": ("F64", "F32", "F16", "BF16"),
    "status": ("OK", "NULL", "BAD_DTYPE", "BAD_SHAPE", "BAD_ALIGN", "BAD_LAYOUT", "OVERLAP", "BAD_VALUE", "ONE_VALUE",
               "NO_MEMORY", "BAD_VERSION", "NOT_IMPORTED", "NOT_TAKEN"),
    "op": tuple(name.upper() for name in FUNCTIONS),
}  # fmt: skip


def arguments(function):
    """(type, name, whether it may be NULL) in the order of the C function."""
    found = [(a.c, a.name, a.default is None) for a in (*function.arguments, *function.results) if a.c]
    return [(kind if kind[-1] == "*" else f"{kind} ", name, optional) for kind, name, optional in found] + [
        ("int ", "threads", False)
    ]


def declared(function, note=""):
    return ", ".join(f"{kind}{name}{note if null else ''}" for kind, name, null in arguments(function))


def wrapped(text, width, indent):
    """The arguments of a call in lines of at most so many characters."""
    lines = [""]
    for part in text.split(", "):
        part = part if not lines[-1] and len(lines) == 1 else f" {part}"
        if len(lines[-1] + part) + len(indent) > width:
            lines.append("")
            part = part.strip()
        lines[-1] += part + ","
    return f"\n{indent}".join(lines).rstrip(",")


def wrapper(number, function):
    """An inline function that fills a normlib_call."""
    names = {name for _, name, _ in arguments(function)}
    own = {"axis": function.op.axis_name, "mode": function.op.mode}
    options = [own.get(option, option) if own.get(option, option) in names else "0" for option in OPTIONS]
    arrays = [role if role in names else "NULL" for role in ROLES]
    head = f"static inline int normlib_{function.name}("
    values = ", ".join([f"NORMLIB_{function.name.upper()}", *options, *arrays])
    start = "    const normlib_call call = {"
    return (
        f"{head}{wrapped(declared(function, ' /* or NULL */'), 120, ' ' * len(head))})\n{{\n"
        f"{start}{wrapped('sizeof(normlib_call), ' + values, 120, ' ' * len(start))}}};\n"
        "    return normlib->call(&call);\n}\n"
    )


def header_parts():
    major, minor, patch = VERSION.split(".")[:3]
    return {
        "version": f'#define NORMLIB_VERSION "{VERSION}"\n'
        f"#define NORMLIB_VERSION_MAJOR {major}\n#define NORMLIB_VERSION_MINOR {minor}\n"
        f"#define NORMLIB_VERSION_PATCH {patch}\n",
        "ops": "enum { /* op */\n" + ",\n".join(f"    NORMLIB_{name}" for name in ENUMS["op"]) + "\n};\n",
        "roles": "".join(f"    {ARRAY}{role};\n" for role in ROLES),
        "functions": "\n".join(wrapper(*item) for item in enumerate(FUNCTIONS.values())),
    }


def header(text):
    for name, part in header_parts().items():
        pattern = rf"(?s)(/\* generated: {name} \*/\n).*?( */\* end \*/)"
        text, count = re.subn(pattern, lambda found, part=part: found[1] + part + found[2], text)
        assert count == 1, name
    return text


def cython(text):
    return text.replace(" *", "* ")


def signature(name, result, text):
    head = f"cdef {cython(result).strip()} {name}("
    return head + wrapped(cython("" if text == "void" else text), 140, " " * len(head)) + ") noexcept nogil"


def signatures():
    for name, (result, text) in OTHERS.items():
        yield name, signature(name, result, text)
    for name, text in ROWS.items():
        yield name, signature(name, "int ", text)
    for function in FUNCTIONS.values():
        yield function.name, signature(function.name, "int ", declared(function))


def header_pxd():
    lines = [BY + '"""normlib.h for Cython; the roles of arrays."""\n', "from libc.stdint cimport uint64_t\n"]
    lines += ['cdef extern from "normlib.h" nogil:', "    int NORMLIB_ABI_VERSION"]
    for names in ENUMS.values():
        listed = wrapped(", ".join(f"NORMLIB_{name}" for name in names), 120, " " * 8)
        lines += ["    enum:", "        " + listed.replace(",\n", "\n")]
    lines += [
        "    ctypedef struct normlib_array:",
        "        void* data",
        "        int dtype",
        "        int ndim",
        "        const Py_ssize_t* shape     # ptrdiff_t, which is the same",
        "        const Py_ssize_t* strides",
        "    ctypedef struct normlib_call:",
        "        size_t size",
        "        int op, threads, axis, mode",
        "        uint64_t axes",
        "        ptrdiff_t num_groups",
        "        double momentum, eps",
        *(f"        const normlib_array* {role}" for role in ROLES),
        "    ctypedef struct normlib_api:",
        "        int abi_version, size",
        *(f"        {cython(result).strip()} (*{name})({cython(text) if text != 'void' else ''}) noexcept nogil"
          for name, (result, text) in OTHERS.items()),
        "    const normlib_api* normlib",
        "    int normlib_use(const void* table)",
        "    int normlib_kind(int status)",
    ]  # fmt: skip
    for name, text in [*ROWS.items(), *((f.name, declared(f)) for f in FUNCTIONS.values())]:
        line = signature("normlib_" + name, "int ", text).removeprefix("cdef ").removesuffix(" nogil")
        lines.append("    " + line.replace("\n ", "\n"))
    lines += ["", "cdef enum:", f"    OPS = {len(FUNCTIONS)}"]
    lines += [f"    NOTHING = 0, {', '.join(map(str.upper, ROLES))}, ROLES"]
    lines += ["", "", "cdef inline void arrays_of(const normlib_call* call, const normlib_array** at) noexcept nogil:"]
    lines += [f"    at[{role.upper()}] = call.{role}" for role in ROLES]
    return "\n".join(lines) + "\n"


def capi_pxd():
    lines = [BY + '"""The functions of normlib.h for Cython, numba and SciPy; the header documents them."""\n']
    lines += ["from normlib._kernels.header cimport normlib_array, normlib_call\n", *(s for _, s in signatures())]
    return "\n".join(lines) + "\n"


def capi_pyx():
    called = [*ROWS, *FUNCTIONS]
    lines = [BY + '"""The functions of normlib.h under their names."""\n']
    lines += ["from normlib._kernels cimport from_c", "from normlib._kernels.header cimport ("]
    lines += [f"    normlib_{name}," for name in called]
    lines += ["    normlib, normlib_array, normlib_call, normlib_use,", ")"]
    lines += ["", "normlib_use(&from_c.api)"]
    for name, head in signatures():
        text = ROWS[name] if name in ROWS else OTHERS[name][1] if name in OTHERS else declared(FUNCTIONS[name])
        names = [] if text == "void" else [re.search(r"\w+$", part)[0] for part in text.split(", ")]
        target = f"normlib.{name}" if name in OTHERS else f"normlib_{name}"
        lines += ["", "", head + ":", f"    return {target}({', '.join(names)})"]
    return "\n".join(lines) + "\n"


def public_pxd():
    functions = sorted(name for name, _ in signatures())
    types = ["normlib_array", "normlib_call", "normlib_kind", "NORMLIB_ABI_VERSION"]
    types += [f"NORMLIB_{name}" for names in ENUMS.values() for name in names]
    return (
        BY + '"""What `from normlib.capi cimport ...` gives: the functions of normlib.h, types and constants."""\n\n'
        f"from normlib._kernels.capi cimport (\n    {wrapped(', '.join(functions), 120, ' ' * 4)},\n)\n"
        f"from normlib._kernels.header cimport (\n    {wrapped(', '.join(sorted(types)), 120, ' ' * 4)},\n)\n"
    )


def files():
    path = ROOT / "normlib" / "include" / "normlib.h"
    return {
        path: header(path.read_text(encoding="utf-8")),
        ROOT / "normlib" / "_kernels" / "header.pxd": header_pxd(),
        ROOT / "normlib" / "_kernels" / "capi.pxd": capi_pxd(),
        ROOT / "normlib" / "_kernels" / "capi.pyx": capi_pyx(),
        ROOT / "normlib" / "capi.pxd": public_pxd(),
    }


def main():
    stale = [(p, text) for p, text in files().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        sys.exit("".join(f"{path} is out of date: run {__file__}\n" for path, _ in stale) or 0)
    for path, text in stale:
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
