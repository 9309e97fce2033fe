/* Built without AVX-512. Helpers sleep between calls and spin within one: a call takes a millisecond and meets dozens of
   times. Whoever waits for a member that the system has set aside gives up its core.

   A call that comes while a team computes wants the core of a helper: at their next meeting some of them go back to sleep. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tower.h"
#include "team.h"

enum { SPINS = 4000, RANKS = 256 };

struct team {
    int size, niceness, avoided; /* a core: the last caller's */
    cpu_set_t cores;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    unsigned long calls; /* under the lock */
    int is_over; /* under the lock */
    work_fn *work;
    void *argument;
    atomic_int running; /* calls, of which one at most is the team's */
    atomic_int there; /* members that have come to the meeting */
    atomic_uint met; /* how many meetings are over, times RANKS, plus the members that the last one left */
    struct helper {
        struct team *team;
        pthread_t thread;
        int rank;
    } helpers[];
};

static unsigned wait_for_change(atomic_uint *value, unsigned from)
{
    unsigned now;
    for (unsigned spins = 0; (now = atomic_load_explicit(value, memory_order_acquire)) == from; spins++)
        if (spins < SPINS) __builtin_ia32_pause();
        else sched_yield();
    return now;
}

/* A member that is told to go may read this late, but never too late: no meeting that it belongs to ends without it, and
   those that end without it leave no more members. */
int team_meet(struct member *me)
{
    struct team *t = me->team;
    if (me->size == 1) return 1;
    unsigned met = atomic_load_explicit(&t->met, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->there, 1, memory_order_acq_rel) + 1 < me->size) {
        met = wait_for_change(&t->met, met);
    } else {
        const int running = atomic_load_explicit(&t->running, memory_order_relaxed), each = t->size / running;
        const int size = each < 1 ? 1 : each < me->size ? each : me->size;
        met = (met / RANKS + 1) * RANKS + (unsigned)size;
        atomic_store_explicit(&t->there, 0, memory_order_relaxed);
        atomic_store_explicit(&t->met, met, memory_order_release);
    }
    me->size = (int)(met % RANKS);
    return me->rank < me->size;
}

/* Helpers wake on any core but the caller's. Left to itself the system puts a helper beside the one that woke it, and
   moves it to an idle core milliseconds later. */
static void step_aside(struct team *t)
{
    const int here = sched_getcpu();
    cpu_set_t others = t->cores;
    if (here < 0 || here == t->avoided) return;
    t->avoided = here;
    CPU_CLR(here, &others);
    if (!CPU_COUNT(&others)) return;
    for (int i = 0; i < t->size - 1; i++) pthread_setaffinity_np(t->helpers[i].thread, sizeof others, &others);
}

static void run_together(struct team *t, work_fn *work, void *argument)
{
    step_aside(t);
    pthread_mutex_lock(&t->lock);
    t->work = work;
    t->argument = argument;
    t->calls++;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    struct member me = { t, 0, t->size };
    work(&me, argument);
    team_meet(&me);
}

void team_run(struct team *t, work_fn *work, void *argument)
{
    struct member alone = { .size = 1 };
    if (t && atomic_fetch_add(&t->running, 1) == 0) run_together(t, work, argument);
    else work(&alone, argument);
    if (t) atomic_fetch_sub(&t->running, 1);
}

static void *help(void *argument)
{
    const struct helper *h = argument;
    struct team *t = h->team;
    const id_t own = (id_t)syscall(SYS_gettid);
    setpriority(PRIO_PROCESS, own, getpriority(PRIO_PROCESS, own) + t->niceness);
    for (unsigned long done = 0;; done++) {
        pthread_mutex_lock(&t->lock);
        while (t->calls == done && !t->is_over) pthread_cond_wait(&t->wake, &t->lock);
        const int is_over = t->calls == done;
        struct member me = { t, h->rank, t->size };
        pthread_mutex_unlock(&t->lock);
        if (is_over) return 0;
        t->work(&me, t->argument);
        if (me.rank < me.size) team_meet(&me);
    }
}

void vectoll_team_free(struct team *t)
{
    pthread_mutex_lock(&t->lock);
    t->is_over = 1;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->size - 1; i++) pthread_join(t->helpers[i].thread, 0);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    free(t);
}

struct team *vectoll_team_new(int size, int niceness)
{
    if (size >= RANKS) return 0;
    struct team *t = calloc(1, sizeof *t + (size_t)(size - 1) * sizeof *t->helpers);
    if (!t) return 0;
    t->niceness = niceness;
    t->avoided = -1;
    sched_getaffinity(0, sizeof t->cores, &t->cores);
    pthread_mutex_init(&t->lock, 0);
    pthread_cond_init(&t->wake, 0);
    for (t->size = 1; t->size < size; t->size++) {
        struct helper *h = &t->helpers[t->size - 1];
        *h = (struct helper) { .team = t, .rank = t->size };
        if (pthread_create(&h->thread, 0, help, h)) break;
    }
    if (t->size == size) return t;
    vectoll_team_free(t);
    return 0;
}
