/* Built without AVX-512. Helpers sleep between calls and spin within one: a call takes a millisecond and meets dozens of
   times. Whoever waits for a member that the system has set aside gives up its core. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "encoder.h"
#include "team.h"

enum { SPINS = 4000 };

struct team {
    int size, niceness;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    unsigned long calls; /* under the lock */
    int is_over; /* under the lock */
    work_fn *work;
    void *argument;
    atomic_int there; /* members that have come to the meeting */
    atomic_uint meetings; /* that are over */
    struct helper {
        struct team *team;
        pthread_t thread;
        int rank;
    } helpers[];
};

static void wait_for(atomic_uint *value, unsigned until)
{
    for (unsigned spins = 0; atomic_load_explicit(value, memory_order_acquire) != until; spins++)
        if (spins < SPINS) __builtin_ia32_pause();
        else sched_yield();
}

void team_meet(struct member me)
{
    struct team *t = me.team;
    if (me.size == 1) return;
    const unsigned next = atomic_load_explicit(&t->meetings, memory_order_relaxed) + 1;
    if (atomic_fetch_add_explicit(&t->there, 1, memory_order_acq_rel) + 1 < me.size) {
        wait_for(&t->meetings, next);
        return;
    }
    atomic_store_explicit(&t->there, 0, memory_order_relaxed);
    atomic_store_explicit(&t->meetings, next, memory_order_release);
}

void team_run(struct team *t, work_fn *work, void *argument)
{
    pthread_mutex_lock(&t->lock);
    t->work = work;
    t->argument = argument;
    t->calls++;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    const struct member me = { t, 0, t->size };
    work(me, argument);
    team_meet(me);
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
        const struct member me = { t, h->rank, t->size };
        pthread_mutex_unlock(&t->lock);
        if (is_over) return 0;
        t->work(me, t->argument);
        team_meet(me);
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
    struct team *t = calloc(1, sizeof *t + (size_t)(size - 1) * sizeof *t->helpers);
    if (!t) return 0;
    t->niceness = niceness;
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
