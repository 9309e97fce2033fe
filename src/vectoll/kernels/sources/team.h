/* Threads that run one function together: the caller and helpers that sleep in between. */
#ifndef VECTOLL_TEAM_H
#define VECTOLL_TEAM_H

struct team;

/* One of ``size`` threads that all run the same code on their share of the work. */
struct member {
    struct team *team; /* none for a thread on its own */
    int rank, size;
};

typedef void work_fn(struct member *, void *argument);

/* Run ``work``: on every member at once while no other call of this team runs, else on the calling thread. ``team`` may be
   none. */
void team_run(struct team *, work_fn *, void *argument);

/* Wait until every member has come here. Where other calls have come meanwhile, the team gets smaller: false tells a
   member to return at once, and those who stay have new shares. */
int team_meet(struct member *);

#endif
