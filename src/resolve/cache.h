/*
 * What was answered, kept until its TTL is over (and, when asked for, beyond: RFC 8767), and equal
 * questions that are under way, so that each is asked once. Shared by all loops.
 */
#ifndef RESOLVE_CACHE_H
#define RESOLVE_CACHE_H

#include "resolve/codec.h"

struct dns_cache;
struct dns_cache_settings {
    uint64_t stale_us;  /* how long a positive answer is kept beyond its TTL; 0: not at all */
    size_t bytes_max;   /* 0: 16 MiB */
    unsigned questions; /* under way at once on one loop; above it OVERLOADED. 0: 4,000 */
};
MUST_USE struct dns_cache *dns_cache_open(const struct dns_cache_settings *settings);
void dns_cache_close(struct dns_cache *cache);

struct dns_question {
    const char *name; /* as dns_name_text makes it */
    enum dns_type type;
    uint64_t deadline_us;
};
/* Puts a question to a server. Sleeps, and ends at its deadline. */
typedef struct lookup dns_ask(void *argument, struct arena *arena,
                              const struct dns_question *question, struct dns_answer *answer);
struct dns_asker {
    dns_ask *ask;
    void *argument;
    uint64_t timeout_us; /* of one question, however much time its caller has */
    unsigned *waiting;   /* questions of this loop under way; touched by its thread only */
};

/*
 * From memory, or with who asks the same already, or from the server. What failed is not kept.
 * Sleeps, until the question's deadline or the asker's time-out.
 */
MUST_USE struct lookup dns_cache_ask(struct dns_cache *cache, const struct dns_asker *asker,
                                     struct arena *arena, const struct dns_question *question,
                                     struct dns_answer *answer);
/* A positive answer although its TTL is over; FAILED when there is none. Never sleeps. */
MUST_USE struct lookup dns_cache_recall(struct dns_cache *cache, struct arena *arena,
                                        const struct dns_question *question,
                                        struct dns_answer *answer);
size_t dns_cache_bytes(struct dns_cache *cache);

#endif
