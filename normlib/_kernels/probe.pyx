"""Which ISA levels this processor has; built without any ISA flag, so that asking is always safe."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    static int normlib_level(void)
    {
        __builtin_cpu_init();
        int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
        int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2");
        int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        return v4 ? 4 : v3 ? 3 : v2 ? 2 : 0;
    }
    #else
    static int normlib_level(void) { return 0; }
    #endif
    """
    int normlib_level()


def levels():
    """ISA levels of this processor, the best first; "baseline" runs everywhere."""
    return [f"v{n}" for n in range(normlib_level(), 1, -1)] + ["baseline"]
