/* What parallel.pyx needs beside OpenMP's pragmas, for libgomp, libomp and no OpenMP at all: forks, threads that cannot be started,
   teams that other programs hold up, and signals. */

#ifndef NORMLIB_TEAM_H
#define NORMLIB_TEAM_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#ifdef _OPENMP
#include <omp.h>
static int normlib_openmp(void) { return _OPENMP; }
#if defined(__clang__)
#define NORMLIB_RUNTIME "libomp"
#elif defined(__GNUC__)
#define NORMLIB_RUNTIME "libgomp"
#else
#define NORMLIB_RUNTIME "vcomp"
#endif
#else
static int omp_get_max_threads(void) { return 1; }
static int omp_in_parallel(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
static int normlib_openmp(void) { return 0; }
#define NORMLIB_RUNTIME ""
#endif

#ifdef _MSC_VER
#define normlib_load(p) (*(p))
#define normlib_store(p, v) (*(p) = (v))
#define NORMLIB_THREAD_LOCAL __declspec(thread)
#else
#define normlib_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define normlib_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define NORMLIB_THREAD_LOCAL __thread
#endif

static int64_t normlib_now(void)
{
    struct timespec now;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    timespec_get(&now, TIME_UTC);
#endif
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- teams that are held up ----

   Threads of OpenMP wait for each other by spinning. Where another program wants the core, one of them is put to sleep for a slice of
   some milliseconds, and the others spin it away: a pass of 20 us takes 20 ms. So each team is timed. One that took longer than one
   thread would have, by the pace of its fastest thread, is followed by a pause in which steps run on one thread: of so many steps, and
   so many times what was lost, as `patience` says; that is four times as much where the next teams are held up too. All numbers are of
   the process; threads that race for them do no harm, for the bits of a result do not depend on the number of threads. */

enum { NORMLIB_PATIENCE = 4, NORMLIB_MOST_PATIENT = 1024, NORMLIB_RECOVERED = 16 };
static const int64_t NORMLIB_LONGEST = 2000000000;  /* ns of a pause */
static const int64_t NORMLIB_TRIFLE = 20000;        /* ns that a team may take longer for other reasons, beside a quarter */

typedef struct {
    int64_t began;
    volatile int64_t alone;     /* ns that one thread would take for all tasks */
} normlib_team;

static volatile int normlib_guarded = 1;
static volatile int64_t normlib_alone_until = 0;        /* 0: there was no pause yet */
static volatile int normlib_alone_steps = 0, normlib_patience = NORMLIB_PATIENCE;
static volatile int normlib_well = 0;                   /* teams that were not held up since */

static void normlib_begin(normlib_team *team)
{
    team->alone = INT64_MAX;
    team->began = normlib_now();
}

/* A thread took so long, from `began` on, for `mine` of the tasks. */
static void normlib_took(normlib_team *team, int64_t began, int64_t mine, int64_t tasks)
{
    int64_t alone = mine ? (normlib_now() - began) * tasks / mine : INT64_MAX;
    if (alone < normlib_load(&team->alone))     /* a race would lose a number that is nearly as good */
        normlib_store(&team->alone, alone);
}

static void normlib_judge(int64_t took, int64_t alone, int64_t now)
{
    int64_t lost = took - alone, pause;
    int patience = normlib_load(&normlib_patience), well = normlib_load(&normlib_well);
    if (!normlib_guarded)
        return;
    if (lost <= NORMLIB_TRIFLE + alone / 4) {
        if (well < NORMLIB_RECOVERED)
            normlib_store(&normlib_well, well + 1);
        else if (patience != NORMLIB_PATIENCE)
            normlib_store(&normlib_patience, NORMLIB_PATIENCE);
        return;
    }
    if (well < NORMLIB_RECOVERED && normlib_load(&normlib_alone_until) != 0)
        patience = patience < NORMLIB_MOST_PATIENT ? 4 * patience : NORMLIB_MOST_PATIENT;
    pause = lost < NORMLIB_LONGEST / patience ? lost * patience : NORMLIB_LONGEST;
    normlib_store(&normlib_patience, patience);
    normlib_store(&normlib_well, 0);
    normlib_store(&normlib_alone_steps, patience);
    normlib_store(&normlib_alone_until, now + pause);
}

static int normlib_paused(void)
{
    int steps;
    if (normlib_load(&normlib_alone_until) == 0)
        return 0;
    steps = normlib_load(&normlib_alone_steps);
    if (steps > 0)
        normlib_store(&normlib_alone_steps, steps - 1);
    return steps > 0 || normlib_now() < normlib_load(&normlib_alone_until);
}

static void normlib_end(normlib_team *team)
{
    int64_t now = normlib_now();
    normlib_judge(now - team->began, team->alone, now);
}

/* ---- threads that cannot be started ----

   libgomp and libomp end the process where the system refuses a thread (a limit on processes, no memory for a stack). So before a team
   that needs new ones, as many are started and ended. */

static NORMLIB_THREAD_LOCAL int normlib_width = 1;     /* threads of this thread's last team, which its runtime keeps */

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>

static void *normlib_wait(void *gate)
{
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

static int normlib_can_start(int threads)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *started = (pthread_t *)malloc(threads * sizeof(pthread_t));
    int n = 0, i;
    if (started == NULL)
        return 0;
    pthread_mutex_lock(&gate);
    while (n < threads && pthread_create(&started[n], NULL, normlib_wait, &gate) == 0)
        n++;
    pthread_mutex_unlock(&gate);
    for (i = 0; i < n; i++)
        pthread_join(started[i], NULL);
    free(started);
    return n == threads;
}

/* libgomp hangs in the child of a process that has run a team, so a child stays serial. */
static volatile int normlib_forked = 0;
static void normlib_in_child(void) { normlib_forked = 1; }
static void normlib_watch_forks(void) { pthread_atfork(NULL, NULL, normlib_in_child); }
#else
static int normlib_can_start(int threads) { (void)threads; return 1; }
static volatile int normlib_forked = 0;
static void normlib_watch_forks(void) { }
#endif

/* Whether so many threads may share the tasks of a step now. */
static int normlib_may_share(int threads)
{
    if (threads <= 1 || normlib_forked || omp_in_parallel() || normlib_paused())
        return 0;
    if (threads > normlib_width && !normlib_can_start(threads - 1)) {
        normlib_width = 1;
        normlib_store(&normlib_alone_until, normlib_now() + NORMLIB_LONGEST);
        return 0;
    }
    normlib_width = threads;
    return 1;
}

/* ---- signals: whether to do no more tasks. The calling thread looks a few times a second, as Python would. ---- */

static int normlib_stopped(double *due, int *stopped, int calling)
{
    if (calling) {
        double seconds = 1e-9 * (double)normlib_now();
        if (*due == 0)
            *due = seconds + 0.1;
        if (seconds > *due && !normlib_load(stopped)) {
            PyGILState_STATE state = PyGILState_Ensure();
            if (PyErr_CheckSignals())
                normlib_store(stopped, 1);
            PyGILState_Release(state);
            *due = seconds + 0.1;
        }
    }
    return normlib_load(stopped);
}

#endif
