/* Preloaded: malloc, calloc and realloc that fail on demand, and a count of what is allocated. For glibc. */

#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static long until, failures, live; /* allocations up to the first that fails; how many fail then; blocks in use */
static size_t least;               /* only allocations of so many bytes count */
static int armed;

void fail_after(long n, long times, size_t bytes) { until = n; failures = times; least = bytes; armed = 1; }
/* Whether the failure came. */
int disarm(void) { armed = 0; return until < 0; }
long blocks(void) { return live; }

static int fails(size_t bytes)
{
    if (!armed || bytes < least || --until >= 0)
        return 0;
    if (--failures < 0) {
        until = -1;
        return 0;
    }
    until = -1;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *block)
{
    live += block != NULL;
    return block;
}

void *malloc(size_t n) { return fails(n) ? NULL : counted(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return fails(n * size) ? NULL : counted(__libc_calloc(n, size)); }

void *realloc(void *block, size_t n)
{
    if (fails(n))
        return NULL;
    return block == NULL ? counted(__libc_realloc(block, n)) : __libc_realloc(block, n);
}

void free(void *block)
{
    live -= block != NULL;
    __libc_free(block);
}
