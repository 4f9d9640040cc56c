/* What the system's own functions say of the caches: bytes of L1d, L2 and LLC, cores that share an L2, bytes of a line; 0 where they do
   not tell. */

#ifndef NORMLIB_CACHES_H
#define NORMLIB_CACHES_H

enum { NORMLIB_L1, NORMLIB_L2, NORMLIB_LLC, NORMLIB_L2_CORES, NORMLIB_CACHE_LINE, NORMLIB_FACTS };

#if defined(__APPLE__)
#include <stdint.h>
#include <sys/sysctl.h>

static Py_ssize_t normlib_asked(const char *name)
{
    int64_t value = 0; /* some are of 32 bits: the lower half */
    size_t length = sizeof value;
    return sysctlbyname(name, &value, &length, NULL, 0) == 0 ? (Py_ssize_t)value : 0;
}

static void normlib_ask_caches(Py_ssize_t *facts)
{
    facts[NORMLIB_CACHE_LINE] = normlib_asked("hw.cachelinesize");
#if defined(__aarch64__)
    /* Of the fast kind of core. Its LLC is L2. */
    facts[NORMLIB_L1] = normlib_asked("hw.perflevel0.l1dcachesize");
    facts[NORMLIB_L2] = normlib_asked("hw.perflevel0.l2cachesize");
    facts[NORMLIB_L2_CORES] = normlib_asked("hw.perflevel0.cpusperl2");
#else
    facts[NORMLIB_L1] = normlib_asked("hw.l1dcachesize");
    facts[NORMLIB_L2] = normlib_asked("hw.l2cachesize");
    facts[NORMLIB_LLC] = normlib_asked("hw.l3cachesize");
#endif
}

#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static void normlib_ask_caches(Py_ssize_t *facts)
{
    static SYSTEM_LOGICAL_PROCESSOR_INFORMATION found[2048];
    DWORD length = sizeof found, i;
    if (!GetLogicalProcessorInformation(found, &length))
        return;
    for (i = 0; i < length / sizeof found[0]; i++) {
        CACHE_DESCRIPTOR cache = found[i].Cache;
        if (found[i].Relationship == RelationCache && cache.Type != CacheInstruction && cache.Level >= 1 && cache.Level <= 3)
            facts[NORMLIB_L1 + cache.Level - 1] = (Py_ssize_t)cache.Size;
    }
}

#else
#include <unistd.h>

static void normlib_ask_caches(Py_ssize_t *facts)
{
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    facts[NORMLIB_L1] = (Py_ssize_t)sysconf(_SC_LEVEL1_DCACHE_SIZE);
    facts[NORMLIB_L2] = (Py_ssize_t)sysconf(_SC_LEVEL2_CACHE_SIZE);
    facts[NORMLIB_LLC] = (Py_ssize_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
    facts[NORMLIB_CACHE_LINE] = (Py_ssize_t)sysconf(_SC_LEVEL1_DCACHE_LINESIZE);
#else
    (void)facts;
#endif
}
#endif

#endif
