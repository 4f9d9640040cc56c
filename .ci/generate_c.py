"""What follows from normlib/description.py in the interfaces of C and Cython; generate.py writes it.

In normlib.h the parts between ``/* generated: ... */`` and ``/* end */``, in views.pxd what follows
``# generated``; the other files altogether.
"""

import re
from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).resolve().parent.parent
description = run_path(str(ROOT / "normlib" / "description.py"))
FUNCTIONS, ROLES, LATER = description["FUNCTIONS"], description["ROLES"], description["LATER"]
FIRST = [role for role in ROLES if role not in LATER]
VERSION = run_path(str(ROOT / "normlib" / "_version.py"))["__version__"]
ARRAY = "const normlib_array *"
BY = "# Written by .ci/generate.py from normlib/description.py.\n\n"
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
    "dtype": ("F64", "F32", "F16", "BF16", "BOOL", "I8"),
    "status": ("OK", "NULL", "BAD_DTYPE", "BAD_SHAPE", "BAD_ALIGN", "BAD_LAYOUT", "OVERLAP", "BAD_VALUE", "ONE_VALUE",
               "NO_MEMORY", "BAD_VERSION", "NOT_IMPORTED", "NOT_TAKEN"),
    "op": tuple(name.upper() for name in FUNCTIONS),
    "activation": ("NO_ACTIVATION", *(name.upper() for name in description["ACTIVATIONS"])),
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
    arrays = [role if role in names else "NULL" for role in FIRST]
    arrays += ["NULL" if role in ROLES else "0" for role in LATER]
    head = f"static inline int normlib_{function.name}("
    values = ", ".join([f"NORMLIB_{function.name.upper()}", *options, *arrays])
    start = "    const normlib_call call = {"
    return (
        f"{head}{wrapped(declared(function, ' /* or NULL */'), 120, ' ' * len(head))})\n{{\n"
        f"{start}{wrapped('sizeof(normlib_call), ' + values, 120, ' ' * len(start))}}};\n"
        "    return normlib->call(&call);\n}\n"
    )


def member(name, array):
    """As wide as an address: the size of the struct tells which members there are."""
    option = next((a for a in description["FUSED"] if a.name == name and name not in ROLES), None)
    return f"{array}{name}" if option is None else f"{option.c.replace('int', 'ptrdiff_t')} {name}"


def header_parts():
    major, minor, patch = VERSION.split(".")[:3]
    return {
        "version": f'#define NORMLIB_VERSION "{VERSION}"\n'
        f"#define NORMLIB_VERSION_MAJOR {major}\n#define NORMLIB_VERSION_MINOR {minor}\n"
        f"#define NORMLIB_VERSION_PATCH {patch}\n",
        "ops": "enum { /* op */\n" + ",\n".join(f"    NORMLIB_{name}" for name in ENUMS["op"]) + "\n};\n",
        "activations": "enum { /* activation */\n"
        + ",\n".join(f"    NORMLIB_{name}" for name in ENUMS["activation"]) + "\n};\n",
        "roles": "".join(f"    {member(name, ARRAY)};\n" for name in (*FIRST, *LATER)),
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
        *(f"        {member(name, 'const normlib_array* ')}" for name in (*FIRST, *LATER)),
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
    roles = wrapped(f"NOTHING = 0, {', '.join(map(str.upper, ROLES))}, ROLES", 150, " " * 4)
    lines += ["    " + roles.replace(",\n", "\n")]
    lines += [f"    {', '.join(ENUMS['activation']).replace(',', ' = 0,', 1)}, ACTIVATIONS"]
    views = [f"OF_{name.upper()}" for name in description["DATA"]]
    inputs = 2 + len(description["BESIDE"])
    ends = views[inputs], views[inputs + len(description["GIVEN"])]
    lines += ["", "cdef enum:  # arrays of x's shape: x, y or dx, what epilogues read, what they write, the others"]
    lines += [f"    {', '.join(views)}, VIEWS", f"    BESIDE = OF_DY, INPUTS = {ends[0]}, OUTPUTS = {ends[1]}"]
    lines += ["", "", "cdef inline void arrays_of(const normlib_call* call, const normlib_array** at) noexcept nogil:"]
    lines += [f"    at[{role.upper()}] = call.{role}" for role in ROLES]
    lines += ["", "", "cdef inline void begin(normlib_call* call, int op, int axis, int threads) noexcept nogil:"]
    lines += ['    """A call without arrays; member by member, which takes less time than memset."""']
    lines += ["    call.size = sizeof(normlib_call)"]
    values = {"op": "op", "axis": "axis", "threads": "threads"}
    lines += [f"    call.{option} = {values.get(option, 0)}" for option in ("op", *OPTIONS)]
    lines += [f"    call.{name} = {'NULL' if name in ROLES else 0}" for name in (*FIRST, *LATER)]
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


# ---- views.pxd ----

PRANGE = '''

{whole}) noexcept nogil:
    """The rows of x shared among `num_threads` threads."""
    cdef Py_ssize_t part, rows = x.shape[0]
    cdef int status = 0
    cdef int* found = &status
    if rows != y.shape[0] or num_threads < 1:
        return {name}{types}({given}{nothing}, num_threads)
    for part in prange(num_threads, num_threads=num_threads, schedule="static", chunksize=1):
        _{name}_part({given}, rows * part // num_threads, rows * (part + 1) // num_threads, found)
    return status


{part}) noexcept nogil:
    cdef int status = {name}({parts})
    if status:
        found[0] = status
'''


def viewed(function, half):
    """(type, name, default, axes of a view or 0) of each argument of a function on views."""
    channels, statistic = function.op.of_channels, 2 if function.op.per_sample else 1
    outputs = {role.name for role in function.results}
    for argument in (*function.arguments, *function.results):
        name, kind = argument.name, getattr(argument, "kind", "")
        default = "=None" if name in outputs and argument.optional else ""
        if kind == "data" and name != "out":
            axes, element = 3 if channels else 2, "uint16_t" if half else "floating"
            view = f"{element}[{', '.join(':' * axes)}]"
        elif kind == "statistic":
            axes = statistic
            view = f"double[{':, ' * (axes - 1)}::1]"
        elif kind:
            axes, view = 1, f"{'float' if half else 'floating'}[::1]"
        elif argument.c and "axis" not in name:
            axes, view = 0, argument.c.replace("ptrdiff_t", "Py_ssize_t")
        else:
            continue
        if name == "out":
            continue
        written = name in outputs or kind == "running"
        yield f"{'const ' if axes and not written else ''}{view}", name, default, axes


def filled(function, half, name, view, axes):
    """The lines that put a view into the call."""
    data = name in ("x", "dy", "y", "dx")
    if data:
        dtype, size = "dtype", "sizeof(uint16_t)" if half else "sizeof(floating)"
    else:
        element = view.removeprefix("const ").partition("[")[0]
        dtype = {"double": "NORMLIB_F64", "float": "NORMLIB_F32", "floating": "dtype"}[element]
    first = ", ".join("0" * axes)
    lines = [f"{name}_axes[{i}] = {name}.shape[{i}]" for i in range(axes)]
    lines += [f"{name}_axes[{axes + i}] = {name}.strides[{i}]" for i in range(axes if data else 0)]
    lines.append(f"_array(&{name}_, &{name}[{first}], {dtype}, {axes}, {name}_axes)")
    if data:
        lines.append(f"{name}_.strides = _gaps({axes}, {name}_axes, {size})")
    lines.append(f"c.{name} = &{name}_")
    return [f"if {name} is not None:", *("    " + line for line in lines)]


def view_function(function, half):
    found = list(viewed(function, half))
    name = function.name + "16" * half
    head = f"cdef inline int {name}("
    declared = [f"{view} {argument}{default}" for view, argument, default, _ in found]
    declared = ["int dtype"] * half + declared + ["int threads=1", "Fused* fused=NULL"]
    lines = ["", ""]
    lines.append(head + wrapped(", ".join(declared), 140, " " * len(head)) + ") noexcept nogil:")
    arrays = {argument: axes for _, argument, _, axes in found if axes}
    body = [f"cdef normlib_array {', '.join(f'{a}_' for a in arrays)}", "cdef normlib_call c"]
    body += [f"cdef Py_ssize_t[{2 * axes}] {a}_axes" for a, axes in arrays.items()]
    if not half:
        body.append("cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64")
    axis = 1 if function.op.of_channels else -1
    body.append(f"_begin(&c, NORMLIB_{function.name.upper()}, {axis}, threads)")
    for view, argument, _, axes in found:
        member = "mode" if argument == function.op.mode else argument
        body += filled(function, half, argument, view, axes) if axes else [f"c.{member} = {argument}"]
    lines += ["    " + line for line in (*body, "_fuse(&c, fused, dtype)", "return _call(&c)")]
    if function.op.of_features and not function.backward:
        shown = [(view, a) for view, a, default, _ in found if not default]
        declared = ", ".join(["int dtype"] * half + [f"{view} {a}" for view, a in shown])
        given = ", ".join(["dtype"] * half + [a for _, a in shown])
        parts = ", ".join(["dtype"] * half + [f"{a}[first:stop]" if a in ("x", "y") else a for _, a in shown])
        heads = {"whole": (f"cdef inline int {name}_prange(", "int num_threads")}
        heads["part"] = f"cdef inline void _{name}_part(", "Py_ssize_t first, Py_ssize_t stop, int* found"
        heads = {key: h + wrapped(f"{declared}, {more}", 140, " " * len(h)) for key, (h, more) in heads.items()}
        nothing = ", None" * sum(bool(default) for _, _, default, _ in found)
        types = "" if half else "[floating]"
        text = PRANGE.format(name=name, types=types, given=given, parts=parts, nothing=nothing, **heads)
        lines += text.rstrip("\n").split("\n")
    return lines


def fused_members():
    """The arrays for the same pass by name, and the options."""
    functions, options = tuple(FUNCTIONS.values()), description["FUSED"]
    roles = dict.fromkeys(role.name for function in functions for role in function.fused_roles)
    return tuple(roles), [a.name for a in options if a.name not in ROLES and a.name in LATER]


def view_fused():
    """The struct of what is computed in the same pass, and how it gets into a call."""
    roles, options = fused_members()
    lines = ["", "", "cdef struct Fused:", f"    View {', '.join(roles)}"]
    lines += ["    " + member(option, "").replace("ptrdiff_t", "Py_ssize_t") for option in options]
    lines += ["", "", "cdef inline void _fuse(normlib_call* c, Fused* fused, int dtype) noexcept nogil:"]
    lines += ["    if fused == NULL:", "        return"]
    lines += [f"    c.{role} = _found(&fused.{role}, dtype)" for role in roles if role != "bias"]
    lines += ["    if fused.bias.array.ndim:", "        c.bias = _found(&fused.bias, dtype)"]
    return [*lines, *(f"    c.{option} = fused.{option}" for option in options)]


def views(text):
    lines = view_fused()
    for function in FUNCTIONS.values():
        lines += [*view_function(function, False), *view_function(function, True)]
    return text.partition("# generated: functions\n")[0] + "# generated: functions\n" + "\n".join(lines) + "\n"


CMAKE_VERSION = """# Written by .ci/generate.py.
set(PACKAGE_VERSION "{version}")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""
PKG_CONFIG = """# Written by .ci/generate.py.
prefix=${{pcfiledir}}/../..
includedir=${{prefix}}/include

Name: normlib
Description: LayerNorm, RMSNorm, BatchNorm, GroupNorm and InstanceNorm on the CPU: the header of the C interface
URL: https://github.com/normlib/normlib
Version: {version}
Cflags: -I${{includedir}}
"""


def files():
    """The files by path, with what they should hold."""
    path, of_views = ROOT / "normlib" / "include" / "normlib.h", ROOT / "normlib" / "views.pxd"
    share = ROOT / "normlib" / "share"
    return {
        path: header(path.read_text(encoding="utf-8")),
        of_views: views(of_views.read_text(encoding="utf-8")),
        ROOT / "normlib" / "_kernels" / "header.pxd": header_pxd(),
        ROOT / "normlib" / "_kernels" / "capi.pxd": capi_pxd(),
        ROOT / "normlib" / "_kernels" / "capi.pyx": capi_pyx(),
        ROOT / "normlib" / "capi.pxd": public_pxd(),
        share / "cmake" / "normlib" / "normlib-config-version.cmake": CMAKE_VERSION.format(version=VERSION),
        share / "pkgconfig" / "normlib.pc": PKG_CONFIG.format(version=VERSION),
    }
