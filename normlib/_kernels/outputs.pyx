"""New arrays for results.

The pages of a large array cost more than its numbers: each is cleared and mapped when it is first touched. So the memory of
the last few large results that were freed is kept for the next, under MADV_FREE: its pages are the system's to take whenever
memory is wanted, and until then they are ready. Nothing is kept under a limit on the address space (RLIMIT_AS), nor with NORMLIB_KEEP_OUTPUT=0.
"""

import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport strncpy

cnp.import_array()

cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #include <sys/resource.h>
    #endif
    #if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)
    #define NORMLIB_KEEPS 1
    enum { HUGE_PAGE = 1 << 21, PAGE = 4096 };      /* a page holds the head, the data begin on a huge page */
    enum { KEPT = 4, LARGEST = 1 << 29 };       /* a step of training has a few results alive; a bound on the address space held */

    typedef struct { size_t length; char *mapping; size_t mapped; } head_t;
    static head_t *normlib_kept[KEPT];
    static unsigned normlib_turn;

    static head_t *head_of(void *data) { return (head_t *)((char *)data - PAGE); }

    static void unmap(head_t *head) { if (head) munmap(head->mapping, head->mapped); }

    static head_t *exchange(unsigned i, head_t *head) { return __atomic_exchange_n(&normlib_kept[i], head, __ATOMIC_ACQ_REL); }

    static int put_in(unsigned i, head_t *head)
    {
        head_t *none = NULL;
        return __atomic_compare_exchange_n(&normlib_kept[i], &none, head, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }

    static void give_back(void)
    {
        for (unsigned i = 0; i < KEPT; i++)
            unmap(exchange(i, NULL));
    }

    /* Whether the process may have so much address space and no more: then what is kept would be missed by others. */
    static int limited(void)
    {
        struct rlimit limit;
        return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    }

    static head_t *map(size_t length)
    {
        size_t mapped = length + 2 * (size_t)HUGE_PAGE;
        char *mapping = mapped < length ? MAP_FAILED : mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED)
            return NULL;
        char *data = (char *)(((size_t)mapping + PAGE + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1));
        madvise(data, length, MADV_HUGEPAGE);
        head_t *head = head_of(data);
        head->length = length;
        head->mapping = mapping;
        head->mapped = mapped;
        return head;
    }

    static void *take(void *unused, size_t bytes)
    {
        size_t length = (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
        head_t *head = NULL;
        (void)unused;
        for (unsigned i = 0; i < KEPT && head == NULL; i++) {
            head = exchange(i, NULL);
            if (head && head->length != length) {
                if (!put_in(i, head))
                    unmap(head);
                head = NULL;
            }
        }
        if (head == NULL)
            head = map(length);
        if (head == NULL) {
            give_back();
            head = map(length);
        }
        return head ? (char *)head + PAGE : NULL;
    }

    static void give(void *unused, void *data, size_t bytes)
    {
        (void)unused;
        (void)bytes;
        if (data == NULL)
            return;
        head_t *head = head_of(data);
        if (limited())
            give_back();
        else if (head->length <= LARGEST && madvise(data, head->length, MADV_FREE) == 0) {
            for (unsigned i = 0; i < KEPT; i++)
                if (put_in(i, head))
                    return;
            head = exchange(__atomic_fetch_add(&normlib_turn, 1, __ATOMIC_RELAXED) % KEPT, head);
        }
        unmap(head);
    }

    static void *take_zeros(void *unused, size_t n, size_t size)
    {
        if (size && n > (size_t)-1 / size)
            return NULL;
        void *data = take(unused, n * size);
        return data ? memset(data, 0, n * size) : NULL;
    }

    static void *resize(void *unused, void *data, size_t bytes)
    {
        void *moved = take(unused, bytes);
        if (moved && data) {
            size_t length = head_of(data)->length;
            memcpy(moved, data, bytes < length ? bytes : length);
            give(unused, data, length);
        }
        return moved;
    }
    #else
    #define NORMLIB_KEEPS 0
    static void *take(void *unused, size_t bytes) { (void)unused; return malloc(bytes); }
    static void give(void *unused, void *data, size_t bytes) { (void)unused; (void)bytes; free(data); }
    static void give_back(void) { }
    static void *take_zeros(void *unused, size_t n, size_t size) { (void)unused; return calloc(n, size); }
    static void *resize(void *unused, void *data, size_t bytes) { (void)unused; return realloc(data, bytes); }
    #endif
    """
    bint NORMLIB_KEEPS
    void* take(void*, size_t)
    void* take_zeros(void*, size_t, size_t)
    void* resize(void*, void*, size_t)
    void give(void*, void*, size_t)
    void give_back()

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void* ctx
        void* (*malloc)(void*, size_t)
        void* (*calloc)(void*, size_t, size_t)
        void* (*realloc)(void*, void*, size_t)
        void (*free)(void*, void*, size_t)
    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object)
    void* PyArray_DescrFromType(int)     # a reference, which the next one takes over
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void*, int)

cdef enum:
    LARGE = 1 << 24     # bytes up to which malloc has the memory of the last result at hand

cdef PyDataMem_Handler _handler
strncpy(_handler.name, "normlib", sizeof(_handler.name))
_handler.version = 1
_handler.allocator.malloc = take
_handler.allocator.calloc = take_zeros
_handler.allocator.realloc = resize
_handler.allocator.free = give
cdef object _keeping = PyCapsule_New(&_handler, "mem_handler", NULL)
cdef bint _keeps = NORMLIB_KEEPS and os.environ.get("NORMLIB_KEEP_OUTPUT", "1") != "0"


def keep(bint on):
    """Whether freed results are kept; False gives back what is, too."""
    global _keeps
    _keeps = NORMLIB_KEEPS and on
    if not on:
        give_back()


def allocator():
    """For results that are no arrays: the addresses of `take` and `give`, and the bytes from which on they are worth it; 0 where nothing
    is kept."""
    return (<size_t><void*>take, <size_t><void*>give, LARGE if _keeps else 0)


cdef inline cnp.ndarray allocate(cnp.ndarray x, int type_number):
    if cnp.PyArray_IS_C_CONTIGUOUS(x):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), type_number, 0)
    return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, PyArray_DescrFromType(type_number), 0)


cdef cnp.ndarray new_like(cnp.ndarray x, int type_number):
    """An array of x's shape, in its memory order."""
    if not _keeps or cnp.PyArray_NBYTES(x) < LARGE:
        return allocate(x, type_number)
    before = PyDataMem_SetHandler(_keeping)
    try:
        return allocate(x, type_number)
    finally:
        PyDataMem_SetHandler(before)
